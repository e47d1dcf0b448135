// optimizer.cl -- one step of an optimizer: a weight and its states, in place; and whether a loss is finite.
//
//   update   RULE (optimizer.pyx: RULES), with g = gradient + weight_decay * w:
//            0 sgd       w -= rate g
//            1 momentum  v = mu v + g;  w -= rate v
//            2 nesterov  v = mu v + g;  w -= rate (g + mu v)
//            3 adagrad   s = s + g^2;   w -= rate g / (sqrt(s) + eps)            Duchi et al. (2011)
//            4 rmsprop   s = decay s + (1 - decay) g^2, w likewise               Tieleman and Hinton (2012)
//            5 adam      m = beta1 m + (1 - beta1) g;  s = beta2 s + (1 - beta2) g^2;
//                        w -= rate m' / (sqrt(s') + eps), both divided by 1 - beta^t   Kingma and Ba (2015)
//   finite   ok = 1 where all values are finite, else 0
//
// Tensors   w, g, states: the stored elements of any layout; g = 0 where w is padding keeps the padding zero
// Settings  hyper: see optimizer.pyx; nothing happens unless hyper[ENABLED] and ok[0] are set
// Launch    1-D, `run` channel blocks per work-item, any work-group size; finite: one work-item
// Tunables  RULE

#include "common.h"

#ifndef RULE
#define RULE 0
#endif

#define RATE 0
#define WEIGHT_DECAY 1
#define MOMENTUM 2
#define BETA2 3
#define EPSILON 4
#define CORRECTION1 5
#define CORRECTION2 6
#define ENABLED 7

// One vector: the new weight is returned, the states are replaced.
static inline VF stepped(VF w, VF g, VF *a, VF *b, const real *hyper)
{
    const VF rate = (VF)(hyper[RATE]), mu = (VF)(hyper[MOMENTUM]), eps = (VF)(hyper[EPSILON]);
    g = fma((VF)(hyper[WEIGHT_DECAY]), w, g);
#if RULE == 0
    return fma(-rate, g, w);
#elif RULE == 1
    *a = fma(mu, *a, g);
    return fma(-rate, *a, w);
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

#if RULE == 0
#define STATES 0
#elif RULE < 5
#define STATES 1
#else
#define STATES 2
#endif

static inline VF part(__global const real *from, int count)
{
    Lanes lanes = {.vector = (VF)(0)};
    for (int i = 0; i < count; i++)
        lanes.lane[i] = from[i];
    return lanes.vector;
}

static inline void put_part(__global real *to, VF vector, int count)
{
    Lanes lanes = {.vector = vector};
    for (int i = 0; i < count; i++)
        to[i] = lanes.lane[i];
}

__kernel void update(TENSOR(, w), TENSOR(const, g), TENSOR(, a), TENSOR(, b), TENSOR(const, hyper),
                     TENSOR(const, ok), int items, int run, int vectors, int rest)
{
    const int item = get_global_id(0);
    if (item >= items || AT(ok)[0] == 0 || AT(hyper)[ENABLED] == 0)
        return;
    real settings[ENABLED];
    for (int i = 0; i < ENABLED; i++)
        settings[i] = AT(hyper)[i];
    const int begin = item * run, end = min(begin + run, vectors);
    VF first = (VF)(0), second = (VF)(0);
    for (int i = begin; i < end; i++) {
#if STATES > 0
        first = BLOCKS_AT(, a)[i];
#endif
#if STATES > 1
        second = BLOCKS_AT(, b)[i];
#endif
        BLOCKS_AT(, w)[i] = stepped(BLOCKS_AT(, w)[i], BLOCKS_AT(const, g)[i], &first, &second, settings);
#if STATES > 0
        BLOCKS_AT(, a)[i] = first;
#endif
#if STATES > 1
        BLOCKS_AT(, b)[i] = second;
#endif
    }
    if (item < items - 1 || rest == 0)
        return;
    const size_t tail = (size_t)vectors * B; // elements behind the last whole vector, of row-major weights
#if STATES > 0
    first = part(AT(a) + tail, rest);
#endif
#if STATES > 1
    second = part(AT(b) + tail, rest);
#endif
    put_part(AT(w) + tail, stepped(part(AT(w) + tail, rest), part(AT(g) + tail, rest), &first, &second, settings), rest);
#if STATES > 0
    put_part(AT(a) + tail, first, rest);
#endif
#if STATES > 1
    put_part(AT(b) + tail, second, rest);
#endif
}

__kernel void finite(TENSOR(const, loss), TENSOR(, ok), int count)
{
    if (get_global_id(0) > 0)
        return;
    int fine = 1;
    for (int i = 0; i < count; i++)
        fine &= isfinite(AT(loss)[i]) != 0;
    AT(ok)[0] = fine;
}
