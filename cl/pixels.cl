// pixels.cl -- every so many pixels of an image: taken out of it, and put back.
//
//   take_pixels     y[n,c,p,q] = x[n, c, p*stride_h, q*stride_w]
//   spread_pixels   y[n, c, p*stride_h, q*stride_w] = x[n,c,p,q] + onto there; elsewhere onto, or zero
//
// Tensors   x, y, onto channel blocks; onto as y, optional
// Launch    1-D, one work-item per row of a channel block, of y
// Aliasing  y may be onto

#include "common.h"

#define KERNEL __kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1)))

KERNEL void take_pixels(TENSOR(const, x), TENSOR(, y), int rows, int columns, int h_in, int w_in, int stride_h,
                        int stride_w)
{
    const int row = get_global_id(0);
    __global const VF *source = BLOCKS_AT(const, x) + ((size_t)(row / rows) * h_in + row % rows * stride_h) * w_in;
    __global VF *target = BLOCKS_AT(, y) + (size_t)row * columns;
    for (int q = 0; q < columns; q++)
        target[q] = source[q * stride_w];
}

KERNEL void spread_pixels(TENSOR(const, x), TENSOR(const, onto), TENSOR(, y), int rows, int columns, int p_in, int q_in,
                          int stride_h, int stride_w)
{
    const int row = get_global_id(0), h = row % rows, p = h / stride_h;
    const bool hit = h % stride_h == 0 && p < p_in;
    __global const VF *source = BLOCKS_AT(const, x) + ((size_t)(row / rows) * p_in + (hit ? p : 0)) * q_in;
    __global const VF *add = BLOCKS_AT(const, onto) + (size_t)row * columns;
    __global VF *target = BLOCKS_AT(, y) + (size_t)row * columns;
    if (!onto_buffer) {
        for (int w = 0; w < columns; w++)
            target[w] = (VF)(0);
    } else if (add != target) {
        for (int w = 0; w < columns; w++)
            target[w] = add[w];
    }
    for (int q = 0; hit && q < q_in; q++)
        target[q * stride_w] += source[q];
}
