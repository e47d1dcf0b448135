// norm_lrn.cl -- local response normalisation y = x * s^-beta, s = k + share * (sum of x^2 over a window), and its
//                gradient dx = dy * s^-beta - 2 * beta * share * x * (sum of t over the mirrored window),
//                t = dy * x * s^(-beta - 1). share = alpha / values in the window; zeros outside.
//
//   lrn_across        window of SIZE channels, SIZE - 1 rounded down to halves before, the rest behind
//   lrn_across_grad   its gradient; recomputes s from x
//                     work-item: RUN pixels, all channel blocks one after the other
//   lrn_within        window of SIZE x SIZE pixels of one map
//   lrn_within_terms  dy * s^-beta into dx, and t
//   lrn_within_grad   dx -= 2 * beta * share * x * (sum of t over the mirrored window)
//                     work-item: RUN pixels of a row of one channel block
//
// Tensors   all in channel blocks
// Launch    dimension 0 in groups of WG
// Tunables  SIZE  window (default 5)   RUN  pixels per work-item (default 8)   WG  work-items per group (default 1)
// Order     a window is summed from its first element to its last (within: by columns first); no running sums,
//           whose rounding errors would add up
// Aliasing  lrn_across: y may be x; gradients: dx may be dy

#include "common.h"

#ifndef SIZE
#define SIZE 5
#endif
#ifndef RUN
#define RUN 8
#endif
#ifndef WG
#define WG 1
#endif

#define KERNEL __kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1)))

#define BEFORE ((SIZE - 1) / 2)
#define AFTER (SIZE / 2)
#define REACH ((AFTER + B - 1) / B) // channel blocks that a window reaches to either side
#define RING (2 * REACH + 1)

// s^-beta. The usual 3/4 takes two roots instead of pow, in a fraction of its time. OpenCL allows 2 ulp for rsqrt, of
// which the root passes on half, 3 for the root and half of one for the product: 6.5, while pow may have 16.
static inline VF inverse_power(VF s, float beta)
{
    if (beta == 0.75f) {
        const VF root = rsqrt(s);
        return root * sqrt(root);
    }
    return pow(s, (VF)(-beta));
}

// Channels at .. at + B - 1 of a ring of blocks; `at` is a constant once loops are unrolled.
static inline VF channels_from(const VF *ring, int at)
{
#if B == 1
    return ring[at];
#else
    return at % B ? shuffle2(ring[at / B], ring[at / B + 1], PASTE(as_uint, B)(LANES + (VI)(at % B))) : ring[at / B];
#endif
}

// The sum of the window around each channel of the block in the middle of a ring.
static inline VF sum_across(const VF *ring, int before)
{
    VF sum = channels_from(ring, REACH * B - before);
    UNROLL for (int t = 1; t < SIZE; t++)
        sum += channels_from(ring, REACH * B - before + t);
    return sum;
}

// Makes room for one more block at the end of a ring.
#define ADVANCE(ring)                          \
    UNROLL for (int b = 0; b + 1 < RING; b++) \
        (ring)[b] = (ring)[b + 1];

// x_plane, y_plane: pixels from one channel block to the next; `plane` of them are there
KERNEL void lrn_across(TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int blocks, int plane,
                       int runs, float k, float share, float beta)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int first = item % runs * RUN, n = item / runs, count = min(RUN, plane - first);
    __global const VF *source = BLOCKS_AT(const, x) + (size_t)n * blocks * x_plane + first;
    __global VF *target = BLOCKS_AT(, y) + (size_t)n * blocks * y_plane + first;
    VF squares[RUN][RING];
    for (int i = 0; i < RUN; i++)
        UNROLL for (int b = 0; b < RING; b++)
            squares[i][b] = (VF)(0);
    for (int ahead = 0; ahead < blocks + REACH; ahead++) {
        for (int i = 0; i < count; i++) {
            const VF value = ahead < blocks ? source[(size_t)ahead * x_plane + i] : (VF)(0);
            ADVANCE(squares[i])
            squares[i][RING - 1] = value * value;
        }
        const int cb = ahead - REACH;
        if (cb < 0)
            continue;
        for (int i = 0; i < count; i++) {
            const VF s = fma((VF)(share), sum_across(squares[i], BEFORE), (VF)(k));
            target[(size_t)cb * y_plane + i] = source[(size_t)cb * x_plane + i] * inverse_power(s, beta);
        }
    }
}

KERNEL void lrn_across_grad(TENSOR(const, x), TENSOR(const, dy), TENSOR(, dx), int items, int blocks, int plane,
                            int runs, float k, float share, float beta)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int first = item % runs * RUN, n = item / runs, count = min(RUN, plane - first);
    const size_t start = (size_t)n * blocks * plane + first;
    __global const VF *source = BLOCKS_AT(const, x) + start, *gradient = BLOCKS_AT(const, dy) + start;
    __global VF *target = BLOCKS_AT(, dx) + start;
    const VF factor = (VF)(-2 * beta * share);
    VF squares[RUN][RING], terms[RUN][RING];
    for (int i = 0; i < RUN; i++)
        UNROLL for (int b = 0; b < RING; b++)
            squares[i][b] = terms[i][b] = (VF)(0);
    // Three blocks are in work at once: squares of `ahead`, s of `cb`, dx of `cb` - REACH.
    for (int ahead = 0; ahead < blocks + 2 * REACH; ahead++) {
        for (int i = 0; i < count; i++) {
            const VF value = ahead < blocks ? source[(size_t)ahead * plane + i] : (VF)(0);
            ADVANCE(squares[i])
            squares[i][RING - 1] = value * value;
        }
        const int cb = ahead - REACH, behind = cb - REACH;
        for (int i = 0; i < count; i++) {
            ADVANCE(terms[i])
            terms[i][RING - 1] = (VF)(0);
            if (cb >= 0 && cb < blocks) {
                const size_t at = (size_t)cb * plane + i;
                const VF s = fma((VF)(share), sum_across(squares[i], BEFORE), (VF)(k));
                const VF itself = gradient[at] * inverse_power(s, beta);
                terms[i][RING - 1] = itself * source[at] / s;
                target[at] = itself;
            }
        }
        if (behind < 0)
            continue;
        for (int i = 0; i < count; i++) {
            const size_t at = (size_t)behind * plane + i;
            target[at] = fma(factor * source[at], sum_across(terms[i], AFTER), target[at]);
        }
    }
}

// sums[i] = sum over a window of SIZE x SIZE pixels of f(value), for RUN pixels of row p from column q0 on.
#define SUM_WITHIN(sums, rows, f, before)                                      \
    VF sums[RUN];                                                              \
    {                                                                          \
        VF columns[RUN + SIZE - 1];                                            \
        const int above = max(p - (before), 0), below = min(p - (before) + SIZE, height); \
        for (int j = 0; j < RUN + SIZE - 1; j++) {                             \
            const int q = q0 - (before) + j;                                   \
            VF sum = (VF)(0);                                                  \
            if (q >= 0 && q < width)                                           \
                for (int r = above; r < below; r++)                            \
                    sum = f((rows)[(size_t)r * width + q], sum);               \
            columns[j] = sum;                                                  \
        }                                                                      \
        UNROLL for (int i = 0; i < RUN; i++) {                                 \
            sums[i] = columns[i];                                              \
            for (int t = 1; t < SIZE; t++)                                     \
                sums[i] += columns[i + t];                                     \
        }                                                                      \
    }
#define ADD_SQUARE(value, sum) fma(value, value, sum)
#define ADD_VALUE(value, sum) ((value) + (sum))

// The place of a work-item: its row of a map, its first column and its first pixel's index.
#define PLACE_WITHIN                                                               \
    const int item = get_global_id(0);                                             \
    if (item >= items)                                                             \
        return;                                                                    \
    const int q0 = item % runs * RUN, p = item / runs % height;                    \
    const int count = min(RUN, width - q0);                                        \
    const size_t map = (size_t)(item / runs / height) * height * width;            \
    const size_t start = map + (size_t)p * width + q0;

KERNEL void lrn_within(TENSOR(const, x), TENSOR(, y), int items, int height, int width, int runs, float k, float share,
                       float beta)
{
    PLACE_WITHIN
    SUM_WITHIN(sums, BLOCKS_AT(const, x) + map, ADD_SQUARE, BEFORE)
    for (int i = 0; i < count; i++) {
        const VF s = fma((VF)(share), sums[i], (VF)(k));
        BLOCKS_AT(, y)[start + i] = BLOCKS_AT(const, x)[start + i] * inverse_power(s, beta);
    }
}

KERNEL void lrn_within_terms(TENSOR(const, x), TENSOR(const, dy), TENSOR(, dx), TENSOR(, terms), int items, int height,
                             int width, int runs, float k, float share, float beta)
{
    PLACE_WITHIN
    SUM_WITHIN(sums, BLOCKS_AT(const, x) + map, ADD_SQUARE, BEFORE)
    for (int i = 0; i < count; i++) {
        const VF s = fma((VF)(share), sums[i], (VF)(k));
        const VF itself = BLOCKS_AT(const, dy)[start + i] * inverse_power(s, beta);
        BLOCKS_AT(, dx)[start + i] = itself;
        BLOCKS_AT(, terms)[start + i] = itself * BLOCKS_AT(const, x)[start + i] / s;
    }
}

KERNEL void lrn_within_grad(TENSOR(const, x), TENSOR(const, terms), TENSOR(, dx), int items, int height, int width,
                            int runs, float share, float beta)
{
    PLACE_WITHIN
    SUM_WITHIN(sums, BLOCKS_AT(const, terms) + map, ADD_VALUE, AFTER)
    const VF factor = (VF)(-2 * beta * share);
    __global VF *target = BLOCKS_AT(, dx) + start;
    for (int i = 0; i < count; i++)
        target[i] = fma(factor * BLOCKS_AT(const, x)[start + i], sums[i], target[i]);
}
