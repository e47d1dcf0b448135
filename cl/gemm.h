// gemm.h -- what the matrix products of the GPU class share: positions in sums, and the names of a tile.
//
// Unit      one channel block: on GPUs 4 values, so that each load of an item takes 16 bytes, neighbours read what
//           lies side by side, and what lies in local memory is again read in vectors.
// Tile      MT x NT work-items, each with a register tile. LOCAL 1: the operands of a step are staged in local memory,
//           in two buffers, while the step before is computed: one barrier per step. LOCAL 0: no barrier, operands come
//           straight from the caches. SUBGROUP: as LOCAL 0, but what the items of a subgroup share is loaded once,
//           by some of them each, and passed on.
// SUBGROUP  how many items a subgroup has, as the device says; 0: none. Results are right for any size and any order of
//           the items in it: where it has too few items, or they do not share all, every item loads for itself.

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
#ifndef SUBGROUP
#define SUBGROUP 0
#endif
#ifndef ANY_SIZE
#define ANY_SIZE 0 // 1: the size is not asked for, even where that can be done
#endif

#if SUBGROUP
#ifdef cl_khr_subgroups
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#endif
// Only the last subgroup of a group may be smaller.
#define LANE ((int)get_sub_group_local_id())
#define ITEM ((int)(get_sub_group_id() * get_max_sub_group_size()) + LANE)
#if defined(cl_intel_required_subgroup_size) && !ANY_SIZE
#define SUBGROUPED __attribute__((intel_reqd_sub_group_size(SUBGROUP)))
#define SUBGROUP_SHARES(items, lanes) ((items) % SUBGROUP == 0 && (lanes) <= SUBGROUP)
#else
#define SUBGROUPED
#define SUBGROUP_SHARES(items, lanes) \
    ((items) % get_max_sub_group_size() == 0 && (lanes) <= get_sub_group_size())
#endif
#if B == 1
#define BROADCAST(v, lane) sub_group_broadcast(v, lane)
#else
static inline VF broadcast(VF v, uint lane)
{
    Lanes all = {.vector = v};
    UNROLL for (int b = 0; b < B; b++)
        all.lane[b] = sub_group_broadcast(all.lane[b], lane);
    return all.vector;
}
#define BROADCAST(v, lane) broadcast(v, lane)
#endif
#else
#define ITEM ((int)get_local_id(0))
#define SUBGROUPED
#endif

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

// Where a pixel's first tap lies in x; image -1: no pixel.
typedef struct {
    int image, row, col;
} Place;

static inline Place place_of(int pixel, int batch, int rows, int cols, int row_scale, int col_scale, int row_shift,
                             int col_shift)
{
    const Digits at = digits_of(pixel, rows, cols);
    Place place;
    place.image = at.high < batch ? at.high : -1;
    place.row = at.mid * row_scale + row_shift;
    place.col = at.low * col_scale + col_shift;
    return place;
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
