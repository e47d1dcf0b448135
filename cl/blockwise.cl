// blockwise.cl -- functions of one value and of two in channel blocks, and values moved between channels and pixels.
//
//   unary_blocks    y = f(x; a, b)                                              work-item: one VF
//   binary_blocks   y = f(a, b), strided; a stride of 0 repeats             work-item: RUN pixels of a row of one block
//   between_depth   y(n, c, s h + i, s w + j) = x(n, channel, h, w), channel =
//                   c % groups * far + c / groups * near + (s i + j) * step - before; `fill` where x has no such
//                   channel                         work-item: RUN pixels of a row of x for one block of y, i and j
//
// Tensors   channel blocks; channel tails of y are zeroed. a and b have strides in VF along images, blocks, rows and
//           pixels; with `single` set they have one channel, which all share
// Launch    1-D, any work-group size; the guard is `items`
// Aliasing  unary_blocks: y may be x; binary_blocks: y may be that of a and b which is as large as y
// Codes     of functions.h

#include "functions.h"

__kernel void unary_blocks(TENSOR(const, x), TENSOR(, y), int items, int channels, int plane, int op, real a, real b)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const VF result = apply_unary(BLOCKS_AT(const, x)[item], op, a, b);
    BLOCKS_AT(, y)[item] = keep_channels(result, item / plane % BLOCKS(channels), channels);
}

#define STRIDES(name) int name##_n, int name##_c, int name##_h, int name##_w, int name##_single
#define START(name, n, c, h, w) \
    (BLOCKS_AT(const, name) + (long)(n) * name##_n + (long)(c) * name##_c + (long)(h) * name##_h + (w) * name##_w)

static inline VF one_of(VF v, int single)
{
    const Lanes lanes = {.vector = v};
    return single ? (VF)(lanes.lane[0]) : v;
}

__kernel void binary_blocks(TENSOR(const, a), TENSOR(const, b), TENSOR(, y), int items, int op, int channels,
                            int height, int width, int run, int runs, STRIDES(a), STRIDES(b))
{
    const int item = get_global_id(0); // [n][block][row][run]
    if (item >= items)
        return;
    const int depth = BLOCKS(channels), w = item % runs * run, h = item / runs % height;
    const int block = item / runs / height % depth, n = item / runs / height / depth;
    __global const VF *from_a = START(a, n, block, h, w), *from_b = START(b, n, block, h, w);
    __global VF *to = BLOCKS_AT(, y) + (size_t)(item / runs) * width + w;
    const int count = min(run, width - w);
    for (int i = 0; i < count; i++) {
        const VF va = one_of(from_a[i * a_w], a_single), vb = one_of(from_b[i * b_w], b_single);
        to[i] = keep_channels(apply_binary(va, vb, op), block, channels);
    }
}

__kernel void between_depth(TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int x_channels,
                            int channels, int height, int width, int run, int runs, int size, int groups, int far,
                            int near, int step, int before, real fill)
{
    const int item = get_global_id(0); // [n][block][h][i][j][run]
    if (item >= items)
        return;
    const int w = item % runs * run, count = min(run, width - w), j = item / runs % size, i = item / runs / size % size;
    const int line = item / runs / size / size, h = line % height, block = line / height % BLOCKS(channels);
    const size_t n = line / height / BLOCKS(channels);
    __global const real *pixels = AT(x) + (n * BLOCKS(x_channels) * x_plane + h * width + w) * B;
    __global VF *to = BLOCKS_AT(, y) + (size_t)(line / height) * y_plane + (h * size + i) * size * width + w * size + j;
    const int first = block * B, inside = (i * size + j) * step - before;
    int from[B]; // where the values of each lane begin; -1: nowhere
    int whole = 1;
    for (int lane = 0; lane < B; lane++) {
        const int c = first + lane, channel = c % groups * far + c / groups * near + inside;
        const int there = c < channels && channel >= 0 && channel < x_channels;
        from[lane] = there ? channel / B * x_plane * B + channel % B : -1;
        whole &= there && from[lane] == from[0] + lane;
    }
    if (whole) {
        for (int k = 0; k < count; k++)
            to[k * size] = VLOAD(pixels + from[0] + k * B);
        return;
    }
    const VF empty = keep_channels((VF)(fill), block, channels);
    for (int k = 0; k < count; k++) {
        Lanes lanes = {.vector = empty};
        for (int lane = 0; lane < B; lane++)
            if (from[lane] >= 0)
                lanes.lane[lane] = pixels[from[lane] + k * B];
        to[k * size] = lanes.vector;
    }
}
