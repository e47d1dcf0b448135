// norm_group.cl -- y = f(weight * (x - mean) / sqrt(var + eps) + bias) with mean and variance of each group of channels
//                  of each image; groups of one channel are instance normalisation.
//
//   group_parts   mean and sum of squared deviations of PIXELS pixels of each channel   work-item: one chunk of a block
//   group_total   mean and 1 / sqrt(var + eps) of each group, for all its channels     work-item: one group of an image
//   group_apply   y                                                      work-item: RUN pixels of one channel block
//   channel_norm  the same with mean and variance of all channels of each pixel         work-item: one pixel
//
// Tensors   x, y, weight, bias in channel blocks; parts [n][block][chunk][2][B], stats [n][block][2][B]
// Launch    1-D, any work-group size; the guard is `items`
// Order     chunks are joined one after the other (Chan et al., 1979), channel by channel
// Tunables  PIXELS  of a chunk (default 256)
// Aliasing  group_apply, channel_norm: y may be x

#include "common.h"

#ifndef PIXELS
#define PIXELS 256
#endif

__kernel void group_parts(TENSOR(const, x), TENSOR(, parts), int items, int plane, int chunks)
{
    const int item = get_global_id(0); // [n][block][chunk]
    if (item >= items)
        return;
    const int first = item % chunks * PIXELS, count = min(PIXELS, plane - first);
    __global const VF *pixels = BLOCKS_AT(const, x) + (size_t)(item / chunks) * plane + first;
    VF sum = 0, squares = 0;
    for (int i = 0; i < count; i++)
        sum += pixels[i];
    const VF mean = sum / (real)count;
    for (int i = 0; i < count; i++)
        squares = fma(pixels[i] - mean, pixels[i] - mean, squares);
    BLOCKS_AT(, parts)[2 * (size_t)item] = mean;
    BLOCKS_AT(, parts)[2 * (size_t)item + 1] = squares;
}

__kernel void group_total(TENSOR(const, parts), TENSOR(, stats), int items, int channels, int plane, int chunks,
                          int groups, real eps)
{
    const int item = get_global_id(0); // [n][group]
    if (item >= items)
        return;
    const int members = channels / groups, n = item / groups, first = item % groups * members;
    real count = 0, mean = 0, squares = 0;
    for (int c = first; c < first + members; c++) {
        const size_t block = (size_t)n * BLOCKS(channels) + c / B;
        __global const real *part = AT(parts) + block * chunks * 2 * B + c % B;
        for (int i = 0; i < chunks; i++) {
            const real more = min(PIXELS, plane - i * PIXELS), total = count + more;
            const real apart = part[2 * i * B] - mean;
            mean = fma(apart, more / total, mean);
            squares += part[(2 * i + 1) * B] + apart * apart * (count * more / total);
            count = total;
        }
    }
    const real inverse = 1 / sqrt(squares / count + eps);
    for (int c = first; c < first + members; c++) {
        __global real *to = AT(stats) + ((size_t)n * BLOCKS(channels) + c / B) * 2 * B + c % B;
        to[0] = mean;
        to[B] = inverse;
    }
}

__kernel void group_apply(TENSOR(const, x), TENSOR(const, weight), TENSOR(const, bias), TENSOR(const, stats),
                          TENSOR(, y), int items, int channels, int plane, int run, int runs, int kind, float slope)
{
    const int item = get_global_id(0); // [n][block][run]
    if (item >= items)
        return;
    const int row = item / runs, block = row % BLOCKS(channels), first = item % runs * run;
    const VF mean = BLOCKS_AT(const, stats)[2 * (size_t)row], inverse = BLOCKS_AT(const, stats)[2 * (size_t)row + 1];
    const VF scale = BLOCKS_AT(const, weight)[block] * inverse, shift = BLOCKS_AT(const, bias)[block];
    const size_t start = (size_t)row * plane + first;
    const int count = min(run, plane - first);
    for (int i = 0; i < count; i++) {
        const VF normed = fma(BLOCKS_AT(const, x)[start + i] - mean, scale, shift);
        BLOCKS_AT(, y)[start + i] = keep_channels(activate(normed, kind, slope), block, channels);
    }
}

__kernel void channel_norm(TENSOR(const, x), TENSOR(const, weight), TENSOR(const, bias), TENSOR(, y), int items,
                           int channels, int plane, real eps)
{
    const int item = get_global_id(0); // [n][pixel]
    if (item >= items)
        return;
    const int depth = BLOCKS(channels);
    const size_t start = (size_t)(item / plane) * depth * plane + item % plane;
    __global const VF *from = BLOCKS_AT(const, x) + start;
    VF sums = 0, squares = 0;
    for (int block = 0; block < depth; block++)
        sums += from[(size_t)block * plane];
    const real mean = sum_lanes(sums) / channels;
    for (int block = 0; block < depth; block++) {
        const VF apart = keep_channels(from[(size_t)block * plane] - mean, block, channels);
        squares = fma(apart, apart, squares);
    }
    const real inverse = 1 / sqrt(sum_lanes(squares) / channels + eps);
    for (int block = 0; block < depth; block++) {
        const VF scaled = (from[(size_t)block * plane] - mean) * inverse * BLOCKS_AT(const, weight)[block];
        BLOCKS_AT(, y)[start + (size_t)block * plane] =
            keep_channels(scaled + BLOCKS_AT(const, bias)[block], block, channels);
    }
}
