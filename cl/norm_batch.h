// norm_batch.h -- what the kernels of batch normalisation have in common, for channel block cb of a tensor of `blocks`.
//
// Tunables  as norm_batch.cl has them
// Order     tiles and chunks are merged by mean and M2 (Chan, Golub, LeVeque 1979): squares are only taken of
//           differences from a near mean, so that nothing cancels where the mean is large.

#include "common.h"

#ifndef WG
#define WG 1
#endif
#ifndef TILE
#define TILE 128
#endif
#ifndef ACTIVATION
#define ACTIVATION 0
#endif

#define KERNEL __kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1)))

// Pixels first .. last - 1 of a chunk, in pieces of at most `most` that lie in one image.
#define FOR_PIECES(most, first, last)                                                                         \
    for (int at = (first), piece = 0; at < (last) && (piece = min(min((most), (last)-at), plane - at % plane)); \
         at += piece)

// The piece's first pixel.
#define PIECE_OF(values) ((values) + ((size_t)(at / plane) * blocks + cb) * plane + at % plane)

// dy in front of f, at a pixel of x: y again, bit for bit, and its slope.
#if ACTIVATION
#define UNACTIVATED(dy, x) \
    ((dy) * activation_slope(activate(fma((x)-middle, scale, offset), ACTIVATION, slope), ACTIVATION, slope))
#else
#define UNACTIVATED(dy, x) (dy)
#endif

#if WG == 1
// Mean and M2 of pixels first .. last - 1.
static inline void chunk_moments(__global const VF *x, int cb, int blocks, int plane, int first, int last,
                                 __global VF *part)
{
    VF mean = (VF)(0), m2 = (VF)(0);
    FOR_PIECES(TILE, first, last)
    {
        __global const VF *pixels = PIECE_OF(x);
        VF sum[4] = {(VF)(0), (VF)(0), (VF)(0), (VF)(0)};
        int i = 0;
        for (; i + 4 <= piece; i += 4)
            UNROLL for (int j = 0; j < 4; j++)
                sum[j] += pixels[i + j];
        for (; i < piece; i++)
            sum[0] += pixels[i];
        const VF near = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / (VF)(piece);

        VF rest[2] = {(VF)(0), (VF)(0)}, squares[2] = {(VF)(0), (VF)(0)};
        for (i = 0; i + 2 <= piece; i += 2)
            UNROLL for (int j = 0; j < 2; j++) {
                const VF d = pixels[i + j] - near;
                rest[j] += d;
                squares[j] = fma(d, d, squares[j]);
            }
        if (i < piece) {
            const VF d = pixels[i] - near;
            rest[0] += d;
            squares[0] = fma(d, d, squares[0]);
        }
        // What the rounding of `near` left over, moved into the mean.
        const VF off = (rest[0] + rest[1]) / (VF)(piece);
        const VF piece_m2 = fma(-off * (VF)(piece), off, squares[0] + squares[1]);

        const float before = at - first, share = piece / (before + piece);
        const VF delta = near - mean + off;
        mean = fma(delta, (VF)(share), mean);
        m2 += fma(delta * (VF)(before * share), delta, piece_m2);
    }
    part[0] = mean;
    part[1] = m2;
}

// Sums of g and of g * (x - middle) over pixels first .. last - 1, g = UNACTIVATED(dy, x).
static inline void chunk_sums(__global const VF *x, __global const VF *dy, int cb, int blocks, int plane, int first,
                              int last, VF middle, VF scale, VF offset, float slope, __global VF *part)
{
    VF sum[2] = {(VF)(0), (VF)(0)}, tilt[2] = {(VF)(0), (VF)(0)};
    FOR_PIECES(plane, first, last)
    {
        __global const VF *pixels = PIECE_OF(x), *gradients = PIECE_OF(dy);
        int i = 0;
        for (; i + 2 <= piece; i += 2)
            UNROLL for (int j = 0; j < 2; j++) {
                const VF pixel = pixels[i + j], g = UNACTIVATED(gradients[i + j], pixel);
                sum[j] += g;
                tilt[j] = fma(g, pixel - middle, tilt[j]);
            }
        if (i < piece) {
            const VF g = UNACTIVATED(gradients[i], pixels[i]);
            sum[0] += g;
            tilt[0] = fma(g, pixels[i] - middle, tilt[0]);
        }
    }
    part[0] = sum[0] + sum[1];
    part[1] = tilt[0] + tilt[1];
}
#endif

// The parts of a channel block lie 2 * blocks vectors apart; all pixels' mean and M2.
static inline void merged_moments(__global const VF *part, int blocks, int chunks, int total, int per_chunk,
                                  __private VF *average, __private VF *m2)
{
    const size_t step = (size_t)blocks * 2;
    const VF base = part[0];
    VF shift = (VF)(0), sum = (VF)(0);
    for (int chunk = 1; chunk < chunks; chunk++) {
        const float count = min(per_chunk, total - chunk * per_chunk);
        shift = fma(part[chunk * step] - base, (VF)(count), shift);
    }
    *average = base + shift / (VF)((float)total);
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float count = min(per_chunk, total - chunk * per_chunk);
        const VF d = part[chunk * step] - *average;
        sum += fma(d * (VF)(count), d, part[chunk * step + 1]);
    }
    *m2 = sum;
}

static inline void merged_sums(__global const VF *part, int blocks, int chunks, __private VF *sum, __private VF *tilt)
{
    *sum = *tilt = (VF)(0);
    for (int chunk = 0; chunk < chunks; chunk++, part += (size_t)blocks * 2) {
        *sum += part[0];
        *tilt += part[1];
    }
}

// Writes the statistics of a channel block, and moves the running ones.
static inline VF put_statistics(VF average, VF m2, int cb, int channels, int total, float eps, float kept, float share,
                                __global VF *mean, __global VF *inverse, __global VF *running_mean,
                                __global VF *running_var)
{
    const VF spread = keep_channels((VF)(1) / sqrt(m2 / (VF)((float)total) + (VF)(eps)), cb, channels);
    mean[cb] = average;
    inverse[cb] = spread;
    running_mean[cb] = fma((VF)(kept), running_mean[cb], (VF)(share)*average);
    running_var[cb] = fma((VF)(kept), running_var[cb], (VF)(share) * (m2 / (VF)((float)(total - 1))));
    return spread;
}

// f(scale * (x - middle) + shift + residual) at `count` pixels of channel block cb; add: the residual, or NULL.
static inline void normalise(__global const VF *x, __global const VF *add, __global VF *y, int count, VF middle,
                             VF scale, VF shift, int activation, float slope, int cb, int channels)
{
    for (int i = 0; i < count; i++) {
        VF result = fma(x[i] - middle, scale, shift);
        if (add)
            result += add[i];
        result = activate(result, activation, slope);
        y[i] = activation == SIGMOID ? keep_channels(result, cb, channels) : result;
    }
}

// scale * (g - shift - (x - middle) * tilt) at `count` pixels.
static inline void put_gradient(__global const VF *x, __global const VF *dy, __global VF *dx, int count, VF middle,
                                VF scale, VF offset, VF shift, VF tilt, float slope)
{
    for (int i = 0; i < count; i++)
        dx[i] = scale * (fma(middle - x[i], tilt, UNACTIVATED(dy[i], x[i])) - shift);
}
