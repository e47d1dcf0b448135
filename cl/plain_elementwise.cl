// plain_elementwise.cl -- functions of one value, and of two tensors that are broadcast against each other.
//
//   unary    y = f(x; a, b)            work-item: B values
//   binary   y = f(a, b), strided      work-item: B values of a row; rows of `inner` values, `chunks` items each
//
// Tensors   row-major; a and b have stride 0 along what is broadcast, and 0 or 1 along a row (a5, b5)
// Launch    1-D, any work-group size; the guard is `items`
// Aliasing  y may be x; y may be that of a and b which is as large as y
// Codes     of functions.h

#include "functions.h"

__kernel void unary(TENSOR(const, x), TENSOR(, y), int items, int count, int op, real a, real b)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const size_t at = (size_t)item * B;
    const int left = count - item * B;
    store_part(apply_unary(load_part(AT(x) + at, left, 1), op, a, b), AT(y) + at, left);
}

__kernel void binary(TENSOR(const, a), TENSOR(const, b), TENSOR(, y), int items, int op, int chunks, int inner,
                     OUTER_EXTENTS(e), OUTER_STRIDES(a), int a5, OUTER_STRIDES(b), int b5)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int row = item / chunks, first = item % chunks * B, left = inner - first;
    __global const real *from_a = AT(a) + ROW_START(row, e, a) + first * a5;
    __global const real *from_b = AT(b) + ROW_START(row, e, b) + first * b5;
    const VF va = a5 ? load_part(from_a, left, 1) : (VF)(*from_a);
    const VF vb = b5 ? load_part(from_b, left, 1) : (VF)(*from_b);
    store_part(apply_binary(va, vb, op), AT(y) + (size_t)row * inner + first, left);
}
