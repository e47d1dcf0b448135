// plain_elementwise.cl -- functions of one value, and of two tensors that are broadcast against each other.
//
//   unary    y = f(x; a, b)            work-item: B values
//   binary   y = f(a, b), strided      work-item: B values of a row; rows of `inner` values, `chunks` items each
//
// Tensors   row-major; a and b have stride 0 along what is broadcast, and 0 or 1 along a row (a5, b5)
// Launch    1-D, any work-group size; the guard is `items`
// Aliasing  y may be x; y may be that of a and b which is as large as y
// Codes     UNARY and BINARY of plain_elementwise.pyx, in their order. NaN passes through min, max and clip.

#include "plain.h"

static inline VF softplus(VF x)
{
    return fmax(x, (VF)(0)) + log1p(exp(-fabs(x)));
}

static inline VF below_zero(VF x, VF below)
{
    return select(x, below, x < (VF)(0));
}

static inline VF clip(VF x, real least, real most)
{
    const VF raised = select(x, (VF)(least), x < (VF)(least));
    return select(raised, (VF)(most), raised > (VF)(most));
}

static inline VF apply_unary(VF x, int op, real a, real b)
{
    switch (op) {
    case 1: return fma((VF)(a), x, (VF)(b));
    case 2: return below_zero(x, (VF)(0));
    case 3: return below_zero(x, x * a);
    case 4: return below_zero(x, expm1(x) * a);
    case 5: return below_zero(x, expm1(x) * a) * b;
    case 6: return below_zero(x, expm1(x / a) * a);
    case 7: return select(x, (VF)(0), x <= (VF)(a));
    case 8: return (VF)(1) / ((VF)(1) + exp(-x));
    case 9: return clip(fma((VF)(a), x, (VF)(b)), 0, 1);
    case 10: return x * clip(x / 6 + (VF)(0.5f), 0, 1);
    case 11: return tanh(x);
    case 12: return softplus(x);
    case 13: return x / ((VF)(1) + fabs(x));
    case 14: return x * tanh(softplus(x));
    case 15: return clip(x, a, b);
    case 16: return fabs(x);
    case 17: return -x;
    case 18: return sqrt(x);
    case 19: return exp(x);
    case 20: return log(x);
    case 21: return (VF)(1) / x;
    case 22: return floor(x);
    case 23: return ceil(x);
    case 24: return rint(x);
    case 25: return sign(x);
    case 26: return erf(x);
    default: return x;
    }
}

static inline VF apply_binary(VF a, VF b, int op)
{
    switch (op) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return pow(a, b);
    case 5: return select(a, b, (b < a) | isnan(b));
    case 6: return select(a, b, (b > a) | isnan(b));
    case 7: return select(a, a * b, a < (VF)(0));
    case 8: return select((VF)(0), (VF)(1), a > b);
    case 9: return select((VF)(0), (VF)(1), a >= b);
    case 10: return select((VF)(1), b, a < (VF)(0));
    default: return select((VF)(0), (VF)(1), a == b);
    }
}

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
