// plain_move.cl -- everything that only moves values: permuting, slicing, joining, repeating, padding, gathering.
//
//   copy     y[strided] = x[strided]: all of the above but the last two    work-item: `run` values of a row
//   fill     y = value
//   pad      y[i] = x[i - before], and what `mode` says where that is outside: 0 the value, 1 mirrored at the
//            edge value, 2 the edge value, 3 periodically (which is also how tiles repeat)
//   gather   y[o][i][:] = x[o][indices[i]][:]; a negative index counts from the end; others are clamped
//
// Tensors   row-major, of any type of 32 bits; rows of `inner` values, `runs` work-items each
// Launch    1-D, any work-group size; the guard is `items`

#include "plain.h"

__kernel void copy(TENSOR_OF(const, uint, x), TENSOR_OF(, uint, y), int items, int run, int runs, int inner,
                   OUTER_EXTENTS(e), OUTER_STRIDES(x), int x5, OUTER_STRIDES(y), int y5, int x_first, int y_first)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int row = item / runs, first = item % runs * run, count = min(run, inner - first);
    __global const uint *from = AT(x) + x_first + ROW_START(row, e, x) + (long)first * x5;
    __global uint *to = AT(y) + y_first + ROW_START(row, e, y) + (long)first * y5;
    int i = 0;
    if (x5 == 1 && y5 == 1)
        for (; i + B <= count; i += B)
            VSTORE(VLOAD(from + i), to + i);
    for (; i < count; i++)
        to[(long)i * y5] = from[(long)i * x5];
}

__kernel void fill(TENSOR_OF(, uint, y), int items, int value)
{
    const int item = get_global_id(0);
    if (item < items)
        AT(y)[item] = value;
}

// Where index i outside or inside of n values reads; -1: the constant.
static inline int source_index(int i, int n, int mode)
{
    if (i >= 0 && i < n)
        return i;
    switch (mode) {
    case 1: return i < 0 ? -i : 2 * (n - 1) - i;
    case 2: return clamp(i, 0, n - 1);
    case 3: i %= n; return i < 0 ? i + n : i;
    default: return -1;
    }
}

// Adds one axis to the source position; the row's index is taken apart from its innermost axis on.
#define PAD_AXIS(axis, stride)                                           \
    {                                                                    \
        const int i = source_index(row % y##axis - p##axis, x##axis, mode); \
        inside = inside && i >= 0;                                       \
        at += (long)i * (stride);                                        \
        row /= y##axis;                                                  \
    }

__kernel void pad(TENSOR_OF(const, uint, x), TENSOR_OF(, uint, y), int items, int run, int runs, int mode, int value,
                  int y0, int y1, int y2, int y3, int y4, int y5, int x0, int x1, int x2, int x3, int x4, int x5,
                  int p0, int p1, int p2, int p3, int p4, int p5)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int first = item % runs * run, end = min(first + run, y5);
    int row = item / runs;
    __global uint *to = AT(y) + (size_t)row * y5;
    bool inside = true;
    long at = 0;
    PAD_AXIS(4, x5)
    PAD_AXIS(3, (long)x4 * x5)
    PAD_AXIS(2, (long)x3 * x4 * x5)
    PAD_AXIS(1, (long)x2 * x3 * x4 * x5)
    PAD_AXIS(0, (long)x1 * x2 * x3 * x4 * x5)
    __global const uint *from = AT(x) + (inside ? at : 0);
    // From `begin` to `stop` the row of x itself; before and behind what the mode says.
    const int begin = inside ? clamp(p5, first, end) : end, stop = clamp(p5 + x5, begin, end);
    for (int j = first; j < begin; j++) {
        const int i = source_index(j - p5, x5, mode);
        to[j] = inside && i >= 0 ? from[i] : (uint)value;
    }
    int j = begin;
    for (; j + B <= stop; j += B)
        VSTORE(VLOAD(from + j - p5), to + j);
    for (; j < stop; j++)
        to[j] = from[j - p5];
    for (j = stop; j < end; j++) {
        const int i = source_index(j - p5, x5, mode);
        to[j] = i >= 0 ? from[i] : (uint)value;
    }
}

__kernel void gather(TENSOR_OF(const, uint, x), TENSOR_OF(const, int, indices), TENSOR_OF(, uint, y), int items,
                     int run, int runs, int n, int count, int inner)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int row = item / runs, first = item % runs * run, end = min(first + run, inner);
    const int index = AT(indices)[row % count];
    const int i = clamp(index < 0 ? index + n : index, 0, n - 1);
    __global const uint *from = AT(x) + ((size_t)(row / count) * n + i) * inner;
    __global uint *to = AT(y) + (size_t)row * inner;
    for (int j = first; j < end; j++)
        to[j] = from[j];
}
