// plain_resize.cl -- resizing two axes of a tensor: the nearest value, or linear between two along each axis.
//
//   resize_table   of one axis: which two inputs an output lies between, and how far     work-item: one output
//   resize         y from x and the tables of two axes                  work-item: `run` values of a row of y
//
// Tensors   x [outer][h][mid][w][inner], y [outer][p][mid][q][inner], row-major.
//           table [outputs][3]: low, high (indices that are there), weight of high (bits of a float)
// Places    output i lies at (slope i + first) / divisor of the input: exact, in 64 bits, so that ties are ties
// Modes     0 linear, nearest: 1 halves down, 2 halves up, 3 floor, 4 ceil
// Launch    1-D, any work-group size; the guard is `items`

#include "plain.h"

#define LONG(name) int name##_low, int name##_high
#define WHOLE(name) (((long)name##_high << 32) | (uint)name##_low)

__kernel void resize_table(TENSOR_OF(, int, table), int items, int n, int mode, LONG(slope), LONG(first), LONG(divisor))
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const long place = WHOLE(slope) * item + WHOLE(first), divisor = WHOLE(divisor);
    long low = place / divisor, rest = place % divisor;
    if (rest < 0) {
        rest += divisor;
        low--;
    }
    switch (mode) {
    case 1: low += 2 * rest > divisor; break;
    case 2: low += 2 * rest >= divisor; break;
    case 4: low += rest > 0; break;
    default: break;
    }
    const long high = mode == 0 ? low + 1 : low;
    __global int *entry = AT(table) + 3 * item;
    entry[0] = clamp(low, 0L, (long)n - 1);
    entry[1] = clamp(high, 0L, (long)n - 1);
    entry[2] = as_int(mode == 0 ? (real)rest / (real)divisor : 0.0f);
}

static inline real between(real low, real high, real weight)
{
    return fma(weight, high, (1 - weight) * low);
}

__kernel void resize(TENSOR(const, x), TENSOR_OF(const, int, rows), TENSOR_OF(const, int, columns), TENSOR(, y),
                     int items, int run, int runs, int linear, int h, int p, int mid, int w, int q, int inner)
{
    const int item = get_global_id(0); // [outer][p][mid][run]
    if (item >= items)
        return;
    const int length = q * inner, start = item % runs * run, row = item / runs;
    const int count = min(run, length - start), m = row % mid, outer = row / mid / p;
    __global const int *vertical = AT(rows) + 3 * (row / mid % p);
    const size_t row_length = (size_t)w * inner;
    __global const real *top = AT(x) + (((size_t)outer * h + vertical[0]) * mid + m) * row_length;
    __global const real *bottom = AT(x) + (((size_t)outer * h + vertical[1]) * mid + m) * row_length;
    const real down = as_float(vertical[2]);
    __global real *to = AT(y) + (size_t)row * length + start;
    int column = start / inner, lane = start % inner;
    for (int i = 0; i < count; i++) {
        __global const int *horizontal = AT(columns) + 3 * column;
        const size_t left = (size_t)horizontal[0] * inner + lane;
        real value = top[left];
        if (linear) {
            const size_t right = (size_t)horizontal[1] * inner + lane;
            const real across = as_float(horizontal[2]);
            value = between(between(value, top[right], across), between(bottom[left], bottom[right], across), down);
        }
        to[i] = value;
        if (++lane == inner) {
            lane = 0;
            column++;
        }
    }
}
