// gemm.h -- what the matrix products of the GPU class share: positions in sums, and the names of a tile.
//
// Unit      one channel block: on GPUs 4 values, so that each load of an item takes 16 bytes, neighbours read what
//           lies side by side, and what lies in local memory is again read in vectors.
// Tile      MT x NT work-items, each with a register tile. LOCAL 1: the operands of a step are staged in local memory,
//           in two buffers, while the step before is computed: one barrier per step. LOCAL 0: no barrier, operands come
//           straight from the caches. Nothing depends on the size of a subgroup.

#include "common.h"

#ifndef LOCAL
#define LOCAL 1
#endif
#ifndef MT
#define MT 8
#endif
#ifndef NT
#define NT 8
#endif
#ifndef PLANAR
#define PLANAR 0
#endif
#ifndef LINEAR
#define LINEAR 0
#endif
#define ITEMS (MT * NT)

// A number in mixed radix: (image, row, column) of a pixel or (input block, row, column) of a tap.
typedef struct {
    int high, mid, low;
} Digits;

static inline Digits digits_of(int number, int mids, int lows)
{
    Digits d;
    d.low = number % lows;
    d.mid = number / lows % mids;
    d.high = number / lows / mids;
    return d;
}

// d + by without a division.
static inline Digits advanced(Digits d, Digits by, int mids, int lows)
{
    d.low += by.low;
    const int low_over = d.low >= lows;
    d.low -= low_over ? lows : 0;
    d.mid += by.mid + low_over;
    const int mid_over = d.mid >= mids;
    d.mid -= mid_over ? mids : 0;
    d.high += by.high + mid_over;
    return d;
}

// One channel block of one pixel; planar: from B planes, of `channels` that are there.
#if PLANAR
static inline VF planar_block(__global const real *pixel, int plane, int channels)
{
    Lanes block;
    UNROLL for (int c = 0; c < B; c++)
        block.lane[c] = c < channels ? pixel[(size_t)c * plane] : 0;
    return block.vector;
}
#define INPUT_BLOCK(name, n, cb, pixel)                                                         \
    planar_block(AT(name##0) + ((size_t)(n) * c_total + (cb) * B) * name##_plane0 + (pixel),    \
                 name##_plane0, c_total - (cb) * B)
#else
#define INPUT_BLOCK(name, n, cb, pixel) ((__global const VF *)PIECE_BLOCK(name, n, cb))[pixel]
#endif
