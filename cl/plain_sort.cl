// plain_sort.cl -- the largest or smallest values along an axis, in order, and where they are.
//
//   top   values and indices of y [outer][k][inner] from x [outer][n][inner]     work-item: one value of x
//
// Launch    1-D, any work-group size; the guard is `items`
// Order     a value's place is how many come before it, of equals the first; NaN is larger than all

#include "common.h"

// A whole number that orders as the float does.
static inline int order_of(real x)
{
    const int bits = x == 0 ? 0 : as_int(x); // zeros are equal
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

__kernel void top(TENSOR(const, x), TENSOR(, y), TENSOR_OF(, int, indices), int items, int n, int inner, int k,
                  int largest)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int own = item / inner % n;
    const size_t outer = item / inner / n, lane = item % inner;
    __global const real *row = AT(x) + outer * n * inner + lane;
    const real value = row[(size_t)own * inner];
    const int key = order_of(value);
    int place = 0;
    for (int i = 0; i < n; i++) {
        const int other = order_of(row[(size_t)i * inner]);
        const int before = largest ? other > key : other < key;
        place += before | ((other == key) & (i < own));
    }
    if (place < k) {
        const size_t to = (outer * k + place) * inner + lane;
        AT(y)[to] = value;
        AT(indices)[to] = own;
    }
}
