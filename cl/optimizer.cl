// optimizer.cl -- one step of an optimizer: a weight and its states, in place; and whether a loss is finite.
//
//   update   a step of RULE, see optimizer.h
//   finite   ok = 1 where all values are finite, else 0
//
// Tensors   w, g, states: the stored elements of any layout; g = 0 where w is padding keeps the padding zero
// Settings  hyper: see optimizer.pyx; nothing happens unless hyper[ENABLED] and ok[0] are set
// Launch    1-D, `run` channel blocks per work-item, any work-group size; finite: one work-item
// Tunables  RULE, SUMMED

#include "optimizer.h"

// The first `count` lanes of the vector at `from`, which may lie at the end of memory; zeros in the others.
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

// As step_vector, for `count` elements from `at` on.
static inline void step_part(size_t at, int count, __global const real *g, __global real *w, __global real *a,
                             __global real *b, __global real *sum, const real *settings)
{
    VF gradient = part(g + at, count);
#if SUMMED
    if (settings[FIRST_PART] == 0)
        gradient += part(sum + at, count);
    if (settings[LAST_PART] == 0) {
        put_part(sum + at, gradient, count);
        return;
    }
#endif
    VF first = (VF)(0), second = (VF)(0);
#if STATES > 0
    first = part(a + at, count);
#endif
#if STATES > 1
    second = part(b + at, count);
#endif
    put_part(w + at, stepped(part(w + at, count), gradient, &first, &second, settings), count);
#if STATES > 0
    put_part(a + at, first, count);
#endif
#if STATES > 1
    put_part(b + at, second, count);
#endif
}

__kernel void update(TENSOR(const, g), STEPPED_TENSORS, int items, int run, int vectors, int rest)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    STEP_SETTINGS
    const int begin = item * run, end = min(begin + run, vectors);
    for (int i = begin; i < end; i++)
        step_vector(i, BLOCKS_AT(const, g)[i], STEPPED_VECTORS);
    if (item == items - 1 && rest > 0) // of row-major weights
        step_part((size_t)vectors * B, rest, AT(g), AT(w), AT(a), AT(b), AT(sum), settings);
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
