// plain_gradient.cl -- the gradient of functions of one value.
//
//   unary_grad   dx = dy f'(v); v is x or y, as UNARY_KEEPS of plain_elementwise.pyx says   work-item: B values
//
// Tensors   row-major, `count` values each
// Launch    1-D, any work-group size; the guard is `items`
// Aliasing  dx may be dy
// Codes     UNARY of plain_elementwise.pyx, in its order

#include "functions.h"

static inline VF sigmoid(VF x)
{
    return (VF)(1) / ((VF)(1) + exp(-x));
}

static inline VF mish_slope(VF x)
{
    const VF t = tanh(fmax(x, (VF)(0)) + log1p(exp(-fabs(x))));
    return fma(x * sigmoid(x), fma(-t, t, (VF)(1)), t);
}

static inline VF silu_slope(VF x, real a)
{
    const VF s = sigmoid(x * a);
    return fma(x * a, s * ((VF)(1) - s), s);
}

static inline VF gelu_slope(VF x)
{
    const VF density = exp(-x * x * 0.5f) * (0.5f * M_SQRT1_2_F * (real)M_2_SQRTPI_F);
    return fma(x, density, (VF)(0.5f) * ((VF)(1) + erf(x * (real)M_SQRT1_2_F)));
}

static inline VF gelu_tanh_slope(VF x)
{
    const VF t = tanh(GELU_SCALE * fma(x * x, x * GELU_CUBE, x));
    const VF inner = GELU_SCALE * fma(x * x, (VF)(3 * GELU_CUBE), (VF)(1));
    return (VF)(0.5f) * fma(x * inner, fma(-t, t, (VF)(1)), (VF)(1) + t);
}

static inline VF hard_swish_slope(VF x)
{
    const VF within = select(x / 3 + (VF)(0.5f), (VF)(1), x >= (VF)(3));
    return select(within, (VF)(0), x <= (VF)(-3));
}

// 1 where v lies between, else 0.
static inline VF inside(VF v, real least, real most)
{
    return select((VF)(0), (VF)(1), (v >= (VF)(least)) & (v <= (VF)(most)));
}

static inline VF slope(VF v, int op, real a, real b)
{
    const VF one = (VF)(1), zero = (VF)(0);
    const VF shifted = fma((VF)(a), v, (VF)(b));
    switch (op) {
    case 2: return select(zero, one, v > zero);
    case 3: return select((VF)(a), one, v > zero);
    case 4: return select(one, exp(v) * a, v < zero);
    case 5: return select(one, exp(v) * a, v < zero) * b;
    case 6: return select(one, exp(v / a), v < zero);
    case 7: return select(zero, one, v > (VF)(a));
    case 8: return v * (one - v);
    case 9: return select(zero, (VF)(a), (shifted > zero) & (shifted < one));
    case 10: return hard_swish_slope(v);
    case 11: return fma(-v, v, one);
    case 12: return sigmoid(v);
    case 13: return one / ((one + fabs(v)) * (one + fabs(v)));
    case 14: return mish_slope(v);
    case 15: return inside(v, a, b);
    case 16: return sign(v);
    case 18: return (VF)(0.5f) / v;
    case 19: return v;
    case 20: return one / v;
    case 21: return -v * v;
    case 26: return (VF)(M_2_SQRTPI_F) * exp(-v * v);
    case 27: return silu_slope(v, a);
    case 28: return gelu_slope(v);
    case 29: return gelu_tanh_slope(v);
    default: return zero;
    }
}

__kernel void unary_grad(TENSOR(const, dy), TENSOR(const, v), TENSOR(, dx), int items, int count, int op, real a,
                         real b)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const size_t at = (size_t)item * B;
    const int left = count - item * B;
    const VF factor = slope(load_part(AT(v) + at, left, 1), op, a, b);
    store_part(load_part(AT(dy) + at, left, 0) * factor, AT(dx) + at, left);
}
