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

#include "norm_batch.h"

#ifndef INVERTED
#define INVERTED 0
#endif

#if WG > 1
#define CHUNK get_group_id(0)
#else
#define CHUNK get_global_id(0)
#endif

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
    __global VF *part = BLOCKS_AT(, parts) + ((size_t)chunk * blocks + cb) * 2;
#if WG > 1
    VF mean = (VF)(0), m2 = (VF)(0);
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
    part[0] = mean;
    part[1] = m2;
#else
    chunk_moments(BLOCKS_AT(const, x), cb, blocks, plane, first, last, part);
#endif
}

KERNEL void bn_statistics(TENSOR(const, parts), TENSOR(, mean), TENSOR(, inverse), TENSOR(, running_mean),
                          TENSOR(, running_var), int blocks, int channels, int chunks, int total, int per_chunk,
                          float eps, float kept, float share)
{
    const int cb = get_global_id(0);
    if (cb >= blocks)
        return;
    VF average, m2;
    merged_moments(BLOCKS_AT(const, parts) + (size_t)cb * 2, blocks, chunks, total, per_chunk, &average, &m2);
    put_statistics(average, m2, cb, channels, total, eps, kept, share, BLOCKS_AT(, mean), BLOCKS_AT(, inverse),
                   BLOCKS_AT(, running_mean), BLOCKS_AT(, running_var));
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
    const size_t start = (size_t)row * plane + first;
    normalise(BLOCKS_AT(const, x) + start, residual_buffer ? BLOCKS_AT(const, residual) + start : 0,
              BLOCKS_AT(, y) + start, count, BLOCKS_AT(const, mean)[cb], scale, BLOCKS_AT(const, bias)[cb], activation,
              slope, cb, channels);
}

KERNEL void bn_grad_parts(TENSOR(const, x), TENSOR(const, dy), TENSOR(const, weight), TENSOR(const, bias),
                          TENSOR(const, mean), TENSOR(const, inverse), TENSOR(, parts), int chunks, int total,
                          int blocks, int plane, int per_chunk, float slope)
{
    const int chunk = CHUNK, cb = get_global_id(1);
    const int first = chunk * per_chunk, last = min(first + per_chunk, total);
    const VF middle = BLOCKS_AT(const, mean)[cb], offset = BLOCKS_AT(const, bias)[cb];
    const VF scale = BLOCKS_AT(const, weight)[cb] * BLOCKS_AT(const, inverse)[cb];
    __global VF *part = BLOCKS_AT(, parts) + ((size_t)chunk * blocks + cb) * 2;
#if WG > 1
    VF sum = (VF)(0), tilt = (VF)(0);
    __local VF shared[WG];
    for (int at = first + get_local_id(0); at < last; at += WG) {
        const VF pixel = PIXEL_OF(x), g = UNACTIVATED(PIXEL_OF(dy), pixel);
        sum += g;
        tilt = fma(g, pixel - middle, tilt);
    }
    sum = over_group(sum, shared);
    tilt = over_group(tilt, shared);
    if (get_local_id(0))
        return;
    part[0] = sum;
    part[1] = tilt;
#else
    chunk_sums(BLOCKS_AT(const, x), BLOCKS_AT(const, dy), cb, blocks, plane, first, last, middle, scale, offset, slope,
               part);
#endif
}

KERNEL void bn_grad_total(TENSOR(const, parts), TENSOR(const, inverse), TENSOR(, dweight), TENSOR(, dbias), int blocks,
                          int chunks)
{
    const int cb = get_global_id(0);
    if (cb >= blocks)
        return;
    VF sum, tilt;
    merged_sums(BLOCKS_AT(const, parts) + (size_t)cb * 2, blocks, chunks, &sum, &tilt);
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
    put_gradient(BLOCKS_AT(const, x) + start, BLOCKS_AT(const, dy) + start, BLOCKS_AT(, dx) + start, count, middle,
                 scale, offset, shift, tilt, slope);
}
