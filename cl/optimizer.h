// optimizer.h -- one step of an optimizer on a vector of weights. `update` of optimizer.cl applies it to a gradient in
// memory; with UPDATE, a kernel that sums up the gradient of weights applies it to its sums, and no gradient is stored.
//
// Rules     RULE (optimizer.pyx: RULES), with g = gradient + weight_decay * w:
//           0 sgd       w -= rate g
//           1 momentum  v = mu v + g;  w -= rate v
//           2 nesterov  v = mu v + g;  w -= rate (g + mu v)
//           3 adagrad   s = s + g^2;   w -= rate g / (sqrt(s) + eps)            Duchi et al. (2011)
//           4 rmsprop   s = decay s + (1 - decay) g^2, w likewise               Tieleman and Hinton (2012)
//           5 adam      m = beta1 m + (1 - beta1) g;  s = beta2 s + (1 - beta2) g^2;
//                       w -= rate m' / (sqrt(s') + eps), both divided by 1 - beta^t   Kingma and Ba (2015)
// Parts     a step may come in parts of its batch. Momentum needs nothing for it: the host gives mu and weight_decay to
//           the first part (then 1 and 0) and the rate to the last (before, 0), so that v gathers the gradients. The
//           other rules have SUMMED: `sum` gathers the gradients, and the last part makes the step.
// Tensors   w, states a and b, sum: of the gradient's layout, absent where the rule has none; hyper: optimizer.pyx
// Tunables  UPDATE (default 0)   RULE (default 0)   SUMMED (default 0)

#include "common.h"

#ifndef UPDATE
#define UPDATE 0
#endif
#ifndef RULE
#define RULE 0
#endif
#ifndef SUMMED
#define SUMMED 0
#endif

#define RATE 0
#define WEIGHT_DECAY 1
#define MOMENTUM 2
#define BETA2 3
#define EPSILON 4
#define CORRECTION1 5
#define CORRECTION2 6
#define ENABLED 7
#define FIRST_PART 8
#define LAST_PART 9
#define SETTINGS 10

#if RULE == 0
#define STATES 0
#elif RULE < 5
#define STATES 1
#else
#define STATES 2
#endif

// One vector: the new weight is returned, the states are replaced.
static inline VF stepped(VF w, VF g, VF *a, VF *b, const real *hyper)
{
    const VF rate = (VF)(hyper[RATE]), mu = (VF)(hyper[MOMENTUM]), eps = (VF)(hyper[EPSILON]);
    g = fma((VF)(hyper[WEIGHT_DECAY]), w, g);
#if RULE == 0
    return fma(-rate, g, w);
#elif RULE == 1
    *a = fma(mu, *a, g);
    return hyper[RATE] == 0 ? w : fma(-rate, *a, w);
#elif RULE == 2
    *a = fma(mu, *a, g);
    return fma(-rate, fma(mu, *a, g), w);
#elif RULE == 3
    *a = fma(g, g, *a);
    return w - rate * g / (sqrt(*a) + eps);
#elif RULE == 4
    *a = fma(mu, *a, ((VF)(1) - mu) * g * g);
    return w - rate * g / (sqrt(*a) + eps);
#else
    const VF beta2 = (VF)(hyper[BETA2]);
    *a = fma(mu, *a, ((VF)(1) - mu) * g);
    *b = fma(beta2, *b, ((VF)(1) - beta2) * g * g);
    const VF mean = *a / (VF)(hyper[CORRECTION1]), squares = *b / (VF)(hyper[CORRECTION2]);
    return w - rate * mean / (sqrt(squares) + eps);
#endif
}

// What is stepped: parameters of a kernel, settings that it loads once, and vector `at` of it with gradient g.
#define STEPPED_TENSORS \
    TENSOR(, w), TENSOR(, a), TENSOR(, b), TENSOR(, sum), TENSOR(const, hyper), TENSOR(const, ok)
#define STEPPED_VECTORS BLOCKS_AT(, w), BLOCKS_AT(, a), BLOCKS_AT(, b), BLOCKS_AT(, sum), settings
// Returns from the kernel where nothing is to change.
#define STEP_SETTINGS                                     \
    if (AT(ok)[0] == 0 || AT(hyper)[ENABLED] == 0)        \
        return;                                           \
    real settings[SETTINGS];                              \
    for (int setting = 0; setting < SETTINGS; setting++)  \
        settings[setting] = AT(hyper)[setting];

static inline void step_vector(size_t at, VF g, __global VF *w, __global VF *a, __global VF *b, __global VF *sum,
                               const real *settings)
{
#if SUMMED
    if (settings[FIRST_PART] == 0)
        g += sum[at];
    if (settings[LAST_PART] == 0) {
        sum[at] = g;
        return;
    }
#endif
    VF first = (VF)(0), second = (VF)(0);
#if STATES > 0
    first = a[at];
#endif
#if STATES > 1
    second = b[at];
#endif
    w[at] = stepped(w[at], g, &first, &second, settings);
#if STATES > 0
    a[at] = first;
#endif
#if STATES > 1
    b[at] = second;
#endif
}

// Brings vector `at` of what is stepped near, for compilers with the built-in.
#define FETCH(name, at) __builtin_prefetch((const void *)(size_t)(BLOCKS_AT(const, name) + (at)), 1, 2);
#if STATES == 0
#define FETCH_STEPPED(at) FETCH(w, at)
#elif STATES == 1
#define FETCH_STEPPED(at) FETCH(w, at) FETCH(a, at)
#else
#define FETCH_STEPPED(at) FETCH(w, at) FETCH(a, at) FETCH(b, at)
#endif

// A gradient's vectors, for kernels of either kind: parameters, settings, vector `at` of it.
#if UPDATE
#define GRADIENT(name) STEPPED_TENSORS
#define GRADIENT_SETTINGS STEP_SETTINGS
#define PUT_GRADIENT(name, at, g) step_vector(at, g, STEPPED_VECTORS)
#else
#define GRADIENT(name) TENSOR(, name)
#define GRADIENT_SETTINGS
#define PUT_GRADIENT(name, at, g) BLOCKS_AT(, name)[at] = g
#endif
