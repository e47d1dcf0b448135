// elementwise.cl -- sums of tensors of one shape, and concatenation along the channels.
//
//   add           y = f(a + b); 2-D: pixels, then images and blocks  work-item: one VF
//   copy_channels copies channels [first, first + count) of x to channels [at, at + count) of y, any alignment
//                 to blocks; channels from `count` up to `written` are zeroed   work-item: RUN pixels of one block of y
//
// Aliasing  add: y may be a or b

#include "common.h"

// a_plane, b_plane, y_plane: pixels from one channel block to the next
__kernel void add(TENSOR(const, a), int a_plane, TENSOR(const, b), int b_plane, TENSOR(, y), int y_plane, int items,
                  int channels, int kind, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const size_t block = get_global_id(1);
    const VF sum = BLOCKS_AT(const, a)[block * a_plane + item] + BLOCKS_AT(const, b)[block * b_plane + item];
    VF result = activate(sum, kind, slope);
    if (kind == SIGMOID)
        result = keep_channels(result, block % BLOCKS(channels), channels);
    BLOCKS_AT(, y)[block * y_plane + item] = result;
}

__kernel void copy_channels(TENSOR(const, x), TENSOR(, y), int items, int x_channels, int y_channels, int plane,
                            int run, int runs, int first, int at, int count, int written)
{
    const int item = get_global_id(0); // [n][block of y][run]
    if (item >= items)
        return;
    const int begin = at / B, touched = (at + written - 1) / B - begin + 1;
    const int start = item % runs * run, pixels = min(run, plane - start), block = begin + item / runs % touched;
    const size_t n = item / runs / touched;
    __global const real *from = AT(x) + (n * BLOCKS(x_channels) * plane + start) * B;
    __global real *to = AT(y) + ((n * BLOCKS(y_channels) + block) * plane + start) * B;
    int place[B]; // where the values of each lane begin; -1: zeros, -2: left as they are
    int whole = 1;
    for (int lane = 0; lane < B; lane++) {
        const int c = block * B + lane - at, channel = first + c;
        const int there = c >= 0 && c < count;
        place[lane] = there ? channel / B * plane * B + channel % B : c >= count && c < written ? -1 : -2;
        whole &= there && place[lane] == place[0] + lane;
    }
    for (int i = 0; i < pixels; i++) {
        if (whole) {
            ((__global VF *)to)[i] = ((__global const VF *)(from + place[0]))[i];
            continue;
        }
        for (int lane = 0; lane < B; lane++)
            if (place[lane] >= -1)
                to[i * B + lane] = place[lane] < 0 ? 0 : from[place[lane] + i * B];
    }
}
