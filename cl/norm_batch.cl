// norm_batch.cl -- batch normalisation y = f(weight * (x - mean) / sqrt(var + eps) + bias + residual) and its gradient.
//
//   bn_parts        mean and M2 = sum of (x - mean)^2 of a chunk of pixels        group: chunk, channel block
//   bn_statistics   merges the chunks: mean, 1 / sqrt(M2 / total + eps), and the running mean and variance,
//                   running = kept * running + share * batch's                   work-item: channel block
//   bn_apply        y; the spread is a variance (then eps counts) or, with INVERTED, already 1 / sqrt(var + eps); the
//                   residual may be absent
//                                                                                 work-item: run of pixels of a plane
//   bn_grad_parts   sums of g and of g * (x - mean) over a chunk, where g = dy * f', the slope of f computed from x;
//                   then there is no residual                                          group: chunk, channel block
//   bn_grad_total   adds the chunks: dweight and dbias                            work-item: channel block
//   bn_grad_x       dx = weight * inverse * (g - dbias / total - (x - mean) * inverse * dweight / total)
//                                                                                 work-item: run of pixels of a plane
//
// Tensors   x, y, dy, dx channel blocks; all else one value per channel, [C/B][B]; parts [chunk][C/B][2][B]
// Launch    dimension 0 in groups of WG; a pixel is counted through all images: pixel = n * plane + its place
// Tunables  WG  work-items per group, a power of two (default 1). Items of a group take neighbouring pixels of a chunk,
//           and add up their sums in local memory; a single one takes tiles: TILE pixels whose mean is taken first,
//           then their squares around it, while they are in the nearest cache (default 128)
//           INVERTED  see bn_apply (default 0)   ACTIVATION  f of the gradients, a code of common.h (default 0)
// Order     chunks depend on the shape alone, what lies in them on WG, too: same bits every time. Tiles and chunks are
//           merged by mean and M2 (Chan, Golub, LeVeque 1979): squares are only taken of differences from a near mean,
//           so that nothing cancels where the mean is large.
// Aliasing  y may be x; dx may be dy or x

#include "common.h"

#ifndef WG
#define WG 1
#endif
#ifndef TILE
#define TILE 128
#endif
#ifndef INVERTED
#define INVERTED 0
#endif

#ifndef ACTIVATION
#define ACTIVATION 0
#endif

#if WG > 1
#define CHUNK get_group_id(0)
#else
#define CHUNK get_global_id(0)
#endif

#define KERNEL __kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1)))

// Pixels first .. last - 1 of a chunk, in pieces of at most `most` that lie in one image.
#define FOR_PIECES(most, first, last)                                                                         \
    for (int at = (first), piece = 0; at < (last) && (piece = min(min((most), (last)-at), plane - at % plane)); \
         at += piece)

// The piece's first pixel.
#define PIECE_OF(name) \
    (BLOCKS_AT(const, name) + ((size_t)(at / plane) * blocks + cb) * plane + at % plane)

#if WG > 1
// Pixel `at` of channel block cb.
#define PIXEL_OF(name) BLOCKS_AT(const, name)[((size_t)(at / plane) * blocks + cb) * plane + at % plane]

// The sum of v over the items of a group, for all of them, by halves.
static inline VF over_group(VF v, __local VF *shared)
{
    const int lane = get_local_id(0);
    shared[lane] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int other = WG / 2; other > 0; other /= 2) {
        if (lane < other)
            shared[lane] += shared[lane + other];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const VF total = shared[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}
#endif

KERNEL void bn_parts(TENSOR(const, x), TENSOR(, parts), int chunks, int total, int blocks, int plane, int per_chunk)
{
    const int chunk = CHUNK, cb = get_global_id(1);
    const int first = chunk * per_chunk, last = min(first + per_chunk, total);
    VF mean = (VF)(0), m2 = (VF)(0);
#if WG > 1
    __local VF shared[WG];
    for (int at = first + get_local_id(0); at < last; at += WG)
        mean += PIXEL_OF(x);
    const VF near = over_group(mean, shared) / (VF)(last - first);
    VF rest = (VF)(0);
    for (int at = first + get_local_id(0); at < last; at += WG) {
        const VF d = PIXEL_OF(x) - near;
        rest += d;
        m2 = fma(d, d, m2);
    }
    // What the rounding of `near` left over, moved into the mean.
    const VF off = over_group(rest, shared) / (VF)(last - first);
    mean = near + off;
    m2 = fma(-off * (VF)(last - first), off, over_group(m2, shared));
    if (get_local_id(0))
        return;
#else
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
#endif
    __global VF *part = BLOCKS_AT(, parts) + ((size_t)chunk * blocks + cb) * 2;
    part[0] = mean;
    part[1] = m2;
}

KERNEL void bn_statistics(TENSOR(const, parts), TENSOR(, mean), TENSOR(, inverse), TENSOR(, running_mean),
                          TENSOR(, running_var), int blocks, int channels, int chunks, int total, int per_chunk,
                          float eps, float kept, float share)
{
    const int cb = get_global_id(0);
    if (cb >= blocks)
        return;
    __global const VF *part = BLOCKS_AT(const, parts) + (size_t)cb * 2;
    const size_t step = (size_t)blocks * 2;
    const VF base = part[0];
    VF shift = (VF)(0), m2 = (VF)(0);
    for (int chunk = 1; chunk < chunks; chunk++) {
        const float count = min(per_chunk, total - chunk * per_chunk);
        shift = fma(part[chunk * step] - base, (VF)(count), shift);
    }
    const VF average = base + shift / (VF)((float)total);
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float count = min(per_chunk, total - chunk * per_chunk);
        const VF d = part[chunk * step] - average;
        m2 += fma(d * (VF)(count), d, part[chunk * step + 1]);
    }
    BLOCKS_AT(, mean)[cb] = average;
    BLOCKS_AT(, inverse)[cb] =
        keep_channels((VF)(1) / sqrt(m2 / (VF)((float)total) + (VF)(eps)), cb, channels);
    __global VF *state = BLOCKS_AT(, running_mean) + cb;
    *state = fma((VF)(kept), *state, (VF)(share)*average);
    state = BLOCKS_AT(, running_var) + cb;
    *state = fma((VF)(kept), *state, (VF)(share) * (m2 / (VF)((float)(total - 1))));
}

KERNEL void bn_apply(TENSOR(const, x), TENSOR(const, weight), TENSOR(const, bias), TENSOR(const, mean),
                     TENSOR(const, spread), TENSOR(const, residual), TENSOR(, y), int items, int channels,
                     int plane, int run, int runs, float eps, int activation, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int first = item % runs * run, row = item / runs, cb = row % BLOCKS(channels);
    const int count = min(run, plane - first);
    const VF spread = BLOCKS_AT(const, spread)[cb];
#if INVERTED
    const VF scale = BLOCKS_AT(const, weight)[cb] * spread;
#else
    const VF scale = BLOCKS_AT(const, weight)[cb] / sqrt(spread + (VF)(eps));
#endif
    const VF middle = BLOCKS_AT(const, mean)[cb], shift = BLOCKS_AT(const, bias)[cb];
    const size_t start = (size_t)row * plane + first;
    __global const VF *source = BLOCKS_AT(const, x) + start;
    __global const VF *add = BLOCKS_AT(const, residual) + start;
    __global VF *target = BLOCKS_AT(, y) + start;
    for (int i = 0; i < count; i++) {
        VF result = fma(source[i] - middle, scale, shift);
        if (residual_buffer)
            result += add[i];
        result = activate(result, activation, slope);
        target[i] = activation == SIGMOID ? keep_channels(result, cb, channels) : result;
    }
}

// dy in front of f, at a pixel of x: bn_apply's y again, bit for bit, and its slope. Needs middle, scale and offset.
#if ACTIVATION
#define UNACTIVATED(dy, x) \
    ((dy) * activation_slope(activate(fma((x)-middle, scale, offset), ACTIVATION, slope), ACTIVATION, slope))
#else
#define UNACTIVATED(dy, x) (dy)
#endif

KERNEL void bn_grad_parts(TENSOR(const, x), TENSOR(const, dy), TENSOR(const, weight), TENSOR(const, bias),
                          TENSOR(const, mean), TENSOR(const, inverse), TENSOR(, parts), int chunks, int total,
                          int blocks, int plane, int per_chunk, float slope)
{
    const int chunk = CHUNK, cb = get_global_id(1);
    const int first = chunk * per_chunk, last = min(first + per_chunk, total);
    const VF middle = BLOCKS_AT(const, mean)[cb], offset = BLOCKS_AT(const, bias)[cb];
    const VF scale = BLOCKS_AT(const, weight)[cb] * BLOCKS_AT(const, inverse)[cb];
    VF sum[2] = {(VF)(0), (VF)(0)}, tilt[2] = {(VF)(0), (VF)(0)};
#if WG > 1
    __local VF shared[WG];
    for (int at = first + get_local_id(0); at < last; at += WG) {
        const VF pixel = PIXEL_OF(x), g = UNACTIVATED(PIXEL_OF(dy), pixel);
        sum[0] += g;
        tilt[0] = fma(g, pixel - middle, tilt[0]);
    }
    sum[0] = over_group(sum[0], shared);
    tilt[0] = over_group(tilt[0], shared);
    if (get_local_id(0))
        return;
#else
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
#endif
    __global VF *part = BLOCKS_AT(, parts) + ((size_t)chunk * blocks + cb) * 2;
    part[0] = sum[0] + sum[1];
    part[1] = tilt[0] + tilt[1];
}

KERNEL void bn_grad_total(TENSOR(const, parts), TENSOR(const, inverse), TENSOR(, dweight), TENSOR(, dbias), int blocks,
                          int chunks)
{
    const int cb = get_global_id(0);
    if (cb >= blocks)
        return;
    VF sum = (VF)(0), tilt = (VF)(0);
    for (int chunk = 0; chunk < chunks; chunk++) {
        __global const VF *part = BLOCKS_AT(const, parts) + ((size_t)chunk * blocks + cb) * 2;
        sum += part[0];
        tilt += part[1];
    }
    BLOCKS_AT(, dbias)[cb] = sum;
    BLOCKS_AT(, dweight)[cb] = tilt * BLOCKS_AT(const, inverse)[cb];
}

KERNEL void bn_grad_x(TENSOR(const, x), TENSOR(const, dy), TENSOR(const, weight), TENSOR(const, bias),
                      TENSOR(const, mean), TENSOR(const, inverse), TENSOR(const, dweight), TENSOR(const, dbias),
                      TENSOR(, dx), int items, int blocks, int plane, int run, int runs, float total, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int first = item % runs * run, row = item / runs, cb = row % blocks;
    const int count = min(run, plane - first);
    const VF inverse = BLOCKS_AT(const, inverse)[cb], middle = BLOCKS_AT(const, mean)[cb];
    const VF scale = BLOCKS_AT(const, weight)[cb] * inverse, offset = BLOCKS_AT(const, bias)[cb];
    const VF shift = BLOCKS_AT(const, dbias)[cb] / (VF)(total);
    const VF tilt = BLOCKS_AT(const, dweight)[cb] / (VF)(total) * inverse;
    const size_t start = (size_t)row * plane + first;
    __global const VF *pixels = BLOCKS_AT(const, x) + start, *gradients = BLOCKS_AT(const, dy) + start;
    __global VF *target = BLOCKS_AT(, dx) + start;
    for (int i = 0; i < count; i++)
        target[i] = scale * (fma(middle - pixels[i], tilt, UNACTIVATED(gradients[i], pixels[i])) - shift);
}
