// plain_reduce.cl -- reductions over any axes, instance normalisation, the index of the largest, softmax.
//
//   reduce_rows     the innermost axis is reduced: a work-item takes a chunk of what one output reads
//   reduce_columns  the innermost axis is kept: a work-item takes a chunk of what B neighbouring outputs read
//   reduce_parts    adds up the chunks, one after the other    work-item: B outputs
//   instance_norm   y = (x - mean) scale / sqrt(var + eps) + bias    work-item: B values of one channel
//   arg_most        the index of the largest or least along an axis; NaN counts as the most    work-item: one output
//   softmax_rows, softmax_columns   along the innermost or another axis    work-item: a row, or B columns
//
// Tensors   row-major. The host merges axes: at most three kept and three reduced ones are left (extents k, r;
//           strides ks, rs); reduced ones are counted row by row, and chunk i of them has `per_chunk`.
//           parts [chunks][outputs]; y itself where there is one chunk
// Codes     op: what is accumulated, OPERATIONS of plain_reduce.pyx; finish: 0 as is, 1 times `scale`, 2 square root,
//           3 logarithm
// Launch    1-D, any work-group size; the guard is `items`
// Order     fixed by the shape and B: lanes first, then chunk by chunk. NaN passes through max and min.

#include "plain.h"

enum { SUM, MAX, MIN, PROD, SUM_ABS, SUM_SQUARES, SUM_SQUARED_DEVIATIONS };

static inline real identity_of(int op)
{
    return op == MAX ? -INFINITY : op == MIN ? INFINITY : op == PROD ? 1 : 0;
}

static inline VF accumulate(VF sum, VF v, VF shift, int op)
{
    switch (op) {
    case MAX: return select(sum, v, (v > sum) | isnan(v));
    case MIN: return select(sum, v, (v < sum) | isnan(v));
    case PROD: return sum * v;
    case SUM_ABS: return sum + fabs(v);
    case SUM_SQUARES: return fma(v, v, sum);
    case SUM_SQUARED_DEVIATIONS: return fma(v - shift, v - shift, sum);
    default: return sum + v;
    }
}

// How two accumulated values become one.
static inline real merge(real a, real b, int op)
{
    switch (op) {
    case MAX: return b > a || isnan(b) ? b : a;
    case MIN: return b < a || isnan(b) ? b : a;
    case PROD: return a * b;
    default: return a + b;
    }
}

static inline VF finished(VF v, int finish, real scale)
{
    switch (finish) {
    case 1: return v * scale;
    case 2: return sqrt(v);
    case 3: return log(v);
    default: return v;
    }
}

// What lanes that hold no value must hold, so that they change nothing.
static inline real filler(int op, real shift)
{
    return op == SUM_SQUARED_DEVIATIONS ? shift : identity_of(op);
}

#define REDUCED int r_total, int per_chunk, int r1, int r2, int rs0, int rs1, int rs2
#define REDUCED_START(i) \
    ((long)((i) / r2 / r1) * rs0 + (long)((i) / r2 % r1) * rs1 + (long)((i) % r2) * rs2)
#define KEPT_START(i) ((long)((i) / k2 / k1) * ks0 + (long)((i) / k2 % k1) * ks1 + (long)((i) % k2) * ks2)

__kernel void reduce_rows(TENSOR(const, x), TENSOR(const, shift), TENSOR(, parts), int items, int op, int finish,
                          real scale, int k1, int k2, int ks0, int ks1, int ks2, REDUCED)
{
    const int item = get_global_id(0); // [chunk][output]
    if (item >= items)
        return;
    const int outputs = items / ((r_total + per_chunk - 1) / per_chunk);
    const int output = item % outputs, begin = item / outputs * per_chunk, end = min(begin + per_chunk, r_total);
    __global const real *from = AT(x) + KEPT_START(output);
    const real around = op == SUM_SQUARED_DEVIATIONS ? AT(shift)[output] : 0;
    Lanes sum = {.vector = (VF)(identity_of(op))};
    for (int i = begin; i < end;) {
        const int row_end = min(end, i + r2 - i % r2); // the row goes on to here: rs2 is 1
        __global const real *p = from + REDUCED_START(i);
        for (; i < row_end; i += B, p += B)
            sum.vector = accumulate(sum.vector, load_part(p, row_end - i, filler(op, around)), (VF)(around), op);
        i = row_end;
    }
    real total = sum.lane[0];
    for (int lane = 1; lane < B; lane++)
        total = merge(total, sum.lane[lane], op);
    Lanes result = {.vector = finished((VF)(total), finish, scale)};
    AT(parts)[item] = result.lane[0];
}

__kernel void reduce_columns(TENSOR(const, x), TENSOR(, parts), int items, int op, int finish, real scale, int columns,
                             int groups, int rows, int k1, int ks0, int ks1, REDUCED)
{
    const int item = get_global_id(0); // [chunk][row][group of B columns]
    if (item >= items)
        return;
    const int first = item % groups * B, row = item / groups % rows, chunk = item / groups / rows;
    const int begin = chunk * per_chunk, end = min(begin + per_chunk, r_total), left = columns - first;
    __global const real *from = AT(x) + (long)(row / k1) * ks0 + (long)(row % k1) * ks1 + first;
    VF sum = (VF)(identity_of(op));
    for (int i = begin; i < end;) {
        const int row_end = min(end, i + r2 - i % r2);
        __global const real *p = from + REDUCED_START(i);
        for (; i < row_end; i++, p += rs2)
            sum = accumulate(sum, load_part(p, left, 0), (VF)(0), op);
    }
    store_part(finished(sum, finish, scale), AT(parts) + ((size_t)chunk * rows + row) * columns + first, left);
}

__kernel void reduce_parts(TENSOR(const, parts), TENSOR(, y), int items, int op, int finish, real scale, int chunks,
                           int outputs)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    // What was squared or made positive is only added here.
    const int how = op == MAX || op == MIN || op == PROD ? op : SUM;
    const int left = outputs - item * B;
    __global const real *from = AT(parts) + (size_t)item * B;
    VF sum = load_part(from, left, 0);
    for (int i = 1; i < chunks; i++)
        sum = accumulate(sum, load_part(from + (size_t)i * outputs, left, 0), (VF)(0), how);
    store_part(finished(sum, finish, scale), AT(y) + (size_t)item * B, left);
}

__kernel void instance_norm(TENSOR(const, x), TENSOR(const, mean), TENSOR(const, var), TENSOR(const, scale),
                            TENSOR(const, bias), TENSOR(, y), int items, int groups, int channels, int plane, real eps)
{
    const int item = get_global_id(0); // [n][channel][group of B values]
    if (item >= items)
        return;
    const int row = item / groups, first = item % groups * B, left = plane - first;
    const size_t at = (size_t)row * plane + first;
    const real factor = AT(scale)[row % channels] / sqrt(AT(var)[row] + eps);
    const VF centred = load_part(AT(x) + at, left, 0) - (VF)(AT(mean)[row]);
    store_part(fma(centred, (VF)(factor), (VF)(AT(bias)[row % channels])), AT(y) + at, left);
}

__kernel void arg_most(TENSOR(const, x), TENSOR_OF(, int, y), int items, int n, int inner, real sign, int last)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    __global const real *from = AT(x) + (size_t)(item / inner) * n * inner + item % inner;
    real most = from[0] * sign;
    int found = 0;
    for (int i = 1; i < n; i++) {
        const real v = from[(size_t)i * inner] * sign;
        const bool more = v > most || (isnan(v) && !isnan(most));
        const bool equal = v == most || (isnan(v) && isnan(most));
        if (more || (last && equal)) {
            most = v;
            found = i;
        }
    }
    AT(y)[item] = found;
}

__kernel void softmax_rows(TENSOR(const, x), TENSOR(, y), int items, int n, int logarithm)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    __global const real *from = AT(x) + (size_t)item * n;
    __global real *to = AT(y) + (size_t)item * n;
    Lanes most = {.vector = (VF)(-INFINITY)};
    for (int i = 0; i < n; i += B)
        most.vector = accumulate(most.vector, load_part(from + i, n - i, -INFINITY), (VF)(0), MAX);
    real top = most.lane[0];
    for (int lane = 1; lane < B; lane++)
        top = merge(top, most.lane[lane], MAX);
    Lanes sums = {.vector = (VF)(0)};
    for (int i = 0; i < n; i += B)
        sums.vector += exp(load_part(from + i, n - i, -INFINITY) - (VF)(top));
    real total = sums.lane[0];
    for (int lane = 1; lane < B; lane++)
        total += sums.lane[lane];
    const VF offset = log((VF)(total));
    for (int i = 0; i < n; i += B) {
        const VF v = load_part(from + i, n - i, 0) - (VF)(top);
        store_part(logarithm ? v - offset : exp(v) / (VF)(total), to + i, n - i);
    }
}

__kernel void softmax_columns(TENSOR(const, x), TENSOR(, y), int items, int n, int logarithm, int columns, int groups)
{
    const int item = get_global_id(0); // [outer][group of B columns]
    if (item >= items)
        return;
    const int first = item % groups * B, left = columns - first;
    const size_t at = (size_t)(item / groups) * n * columns + first;
    __global const real *from = AT(x) + at;
    __global real *to = AT(y) + at;
    VF top = (VF)(-INFINITY), total = (VF)(0);
    for (int i = 0; i < n; i++)
        top = accumulate(top, load_part(from + (size_t)i * columns, left, 0), (VF)(0), MAX);
    for (int i = 0; i < n; i++)
        total += exp(load_part(from + (size_t)i * columns, left, 0) - top);
    const VF offset = log(total);
    for (int i = 0; i < n; i++) {
        const VF v = load_part(from + (size_t)i * columns, left, 0) - top;
        store_part(logarithm ? v - offset : exp(v) / total, to + (size_t)i * columns, left);
    }
}
