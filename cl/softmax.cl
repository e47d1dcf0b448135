// softmax.cl -- softmax over the channels of each pixel, and its gradient.
//
//   softmax        y[c] = exp(x[c] - m) / sum over c of exp(x[c] - m), m the largest x
//   softmax_grad   dx[c] = y[c] (dy[c] - sum over c of y[c] dy[c])
//
// Tensors   channel blocks [N][C/B][plane][B]; channel tails are left out of m and the sums, and come out zero
// Launch    1-D, one work-item per pixel, any work-group size
// Aliasing  y may be x; dx may be dy
// Order     each lane sums over the blocks, then the lanes are added by halves.

#include "common.h"

__kernel void softmax(TENSOR(const, x), TENSOR(, y), int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int blocks = BLOCKS(channels);
    const size_t first = (size_t)(item / plane) * blocks * plane + item % plane;
    __global const VF *from = BLOCKS_AT(const, x) + first;
    __global VF *to = BLOCKS_AT(, y) + first;

    VF most = (VF)(-INFINITY);
    for (int b = 0; b < blocks; b++)
        most = select(most, fmax(most, from[(size_t)b * plane]), b * B + LANES < (VI)(channels));
    const VF top = (VF)(max_lanes(most));

    VF sums = (VF)(0);
    for (int b = 0; b < blocks; b++) {
        const VF power = keep_channels(exp(from[(size_t)b * plane] - top), b, channels);
        sums += power;
        to[(size_t)b * plane] = power;
    }
    const VF total = (VF)(sum_lanes(sums));
    for (int b = 0; b < blocks; b++)
        to[(size_t)b * plane] /= total;
}

__kernel void softmax_grad(TENSOR(const, dy), TENSOR(const, y), TENSOR(, dx), int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int blocks = BLOCKS(channels);
    const size_t first = (size_t)(item / plane) * blocks * plane + item % plane;
    __global const VF *g = BLOCKS_AT(const, dy) + first;
    __global const VF *out = BLOCKS_AT(const, y) + first;
    __global VF *to = BLOCKS_AT(, dx) + first;

    VF sums = (VF)(0);
    for (int b = 0; b < blocks; b++)
        sums = fma(out[(size_t)b * plane], g[(size_t)b * plane], sums);
    const VF total = (VF)(sum_lanes(sums));
    for (int b = 0; b < blocks; b++)
        to[(size_t)b * plane] = out[(size_t)b * plane] * (g[(size_t)b * plane] - total);
}
