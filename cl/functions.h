// functions.h -- functions of one value and of two, on vectors.
//
// Codes     UNARY and BINARY of plain_elementwise.pyx, in their order. NaN passes through min, max and clip.

#include "common.h"
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

// tanh(sqrt(2 / pi) (x + 0.044715 x^3)) is near erf(x / sqrt(2)).
#define GELU_SCALE 0.7978845608f
#define GELU_CUBE 0.044715f

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
    case 27: return x / ((VF)(1) + exp(-x * a));
    case 28: return (VF)(0.5f) * x * ((VF)(1) + erf(x * (real)M_SQRT1_2_F));
    case 29: return (VF)(0.5f) * x * ((VF)(1) + tanh(GELU_SCALE * fma(x * x, x * GELU_CUBE, x)));
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
    case 11: return select((VF)(0), (VF)(1), a == b);
    default: return select((VF)(0), a, b != (VF)(0));
    }
}
