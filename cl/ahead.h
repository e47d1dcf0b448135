// ahead.h -- weights of a register tile fetched ahead of their use, and its multiply-adds.
//
// PREFETCH 1: the compiler has __builtin_prefetch (default 0). Where it is used there are `tap`, the weights of a block
// of input channels, vectors from one block of outputs to the next (`filter_stride`), the channel `c`, sums acc[j][i].

#include "common.h"

#ifndef PREFETCH
#define PREFETCH 0
#endif

// So many vectors of weights are fetched ahead: a processor by itself does not keep several rows of them coming.
#define AHEAD 32

#if PREFETCH
#define FETCH_WEIGHT(j, a) \
    __builtin_prefetch((const void *)(size_t)(tap + ((j) * (size_t)filter_stride + c + AHEAD) * B), 0, 3);
#define FETCH_WEIGHTS(deep) REPEAT_4(deep, FETCH_WEIGHT, 0)
#else
#define FETCH_WEIGHTS(deep)
#endif
#define MULTIPLY_ADD(j, i) acc[j][i] = fma(value, weight[j], acc[j][i]);
