// conv_gemm_grad.cl -- weight gradient of a convolution as a matrix product over pixels, for GPUs.
//
//   conv_gemm_grad   sums over a chunk of the pixels (n, p, q) of
//                    dw[k,c,r,s] = sum of dy[n,k,p,q] x[n, c, p*stride - pad + r*dilation, ...];
//                    conv_grad.cl's sum_parts adds the chunks. Also a fully-connected layer's: images are pixels.
//                    With UPDATE (one chunk) the sums are not stored, but w is stepped (optimizer.h).
//   channel_sums     sums over a chunk of the pixels of db[k] = sum of dy[n,k,p,q]: each item takes every ITEMS-th
//                    pixel, then halves of the items are added up
//
// Tensors   x channel blocks or, with PLANAR, [N][C][H][W]; dy channel blocks; dw filter blocks, once for each chunk
// Tile      a work-group: MT*RT/B pairs of tap and input block (B rows each) by NT*TB blocks of output channels
// Launch    conv_gemm_grad: ITEMS * (tiles of pairs), groups * tiles of output blocks, chunks;
//           channel_sums: ITEMS * chunks, output blocks; with ITEMS a power of two
// Tunables  MT, NT  items per side (default 8, 8)   RT  rows per item, a multiple of B (default 8, or B)
//           TB  output blocks per item (default 2, at most 4; RT*TB accumulators)
//           BP  pixels per step (default 16)
//           LOCAL  1 needs 8*BP*B*(MT*RT/B + NT*TB + 2) bytes of local memory (default 1)
//           LINEAR  neighbours load along the channels, not along the pixels: images of one pixel (default 0)
// Order     each sum runs over n, p, q, in chunks that depend on the layer's shape alone: the same bits for every tile

#include "gemm.h"
#include "optimizer.h"

#ifndef RT
#if B == 16
#define RT 16
#else
#define RT 8
#endif
#endif
#ifndef TB
#define TB 2
#endif
#ifndef BP
#define BP 16
#endif

#define TR (RT / B)
#define BR (MT * TR)
#define BN (NT * TB)
#define X_LOADS ((BR * BP + ITEMS - 1) / ITEMS)
#define DY_LOADS ((BN * BP + ITEMS - 1) / ITEMS)

// Which pixel and which of `count` blocks a load is for.
#if LINEAR
#define SLOT_PIXEL(slot, count) ((slot) / (count))
#define SLOT_BLOCK(slot, count) ((slot) % (count))
#else
#define SLOT_PIXEL(slot, count) ((slot) % BP)
#define SLOT_BLOCK(slot, count) ((slot) / BP)
#endif

#define MULTIPLY_ADD(j, i) acc[i][j] = fma((VF)(value[(i) / B].lane[(i) % B]), gradient[j], acc[i][j]);
#define MULTIPLY(i, a) REPEAT_4(TB, MULTIPLY_ADD, i)

// The block of x that a tap (input block, and distance from the window's corner) reads at a pixel (image, p, q).
#define READ_X(at, tap)                                                                                     \
    ((tap).high >= 0 && (uint)((at).mid * stride_h + (tap).mid) < (uint)h_in &&                             \
             (uint)((at).low * stride_w + (tap).low) < (uint)w_in                                           \
         ? INPUT_BLOCK(x, (at).high, (tap).high,                                                            \
                       ((at).mid * stride_h + (tap).mid) * w_in + (at).low * stride_w + (tap).low)          \
         : (VF)(0))
#define READ_DY(at, kb) \
    BLOCKS_AT(const, dy)[((size_t)(at).high * k_blocks + (kb)) * p_out * q_out + (at).mid * q_out + (at).low]

static inline Digits tap_of(int pair, int pairs, int cb0, int kernel_h, int kernel_w, int pad_top, int pad_left,
                            int dilation_h, int dilation_w)
{
    Digits tap = digits_of(pair, kernel_h, kernel_w);
    tap.high = pair < pairs ? cb0 + tap.high : -1;
    tap.mid = tap.mid * dilation_h - pad_top;
    tap.low = tap.low * dilation_w - pad_left;
    return tap;
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void conv_gemm_grad(
    PIECES_OF(x), TENSOR(const, dy), GRADIENT(parts), int c_total, int h_in, int w_in, int k_blocks, int p_out,
    int q_out, int group_blocks, int group_tiles, int filter_depth, int kernel_h, int kernel_w, int stride_h,
    int stride_w, int pad_top, int pad_left, int dilation_h, int dilation_w, int pixels, int chunk_pixels)
{
    const int item = get_local_id(0), m_item = item % MT, n_item = item / MT, pair0 = get_group_id(0) * BR;
    const int group = get_group_id(1) / group_tiles, kb_end = (group + 1) * group_blocks;
    const int kb0 = group * group_blocks + (int)get_group_id(1) % group_tiles * BN, cb0 = group * filter_depth;
    const int pairs = filter_depth * kernel_h * kernel_w, chunk = get_group_id(2);
    const int first = chunk * chunk_pixels, last = min(pixels, first + chunk_pixels);
#define TAP_OF(pair) tap_of(pair, pairs, cb0, kernel_h, kernel_w, pad_top, pad_left, dilation_h, dilation_w)
    GRADIENT_SETTINGS
    VF acc[RT][TB];
    UNROLL for (int i = 0; i < RT; i++)
        UNROLL for (int j = 0; j < TB; j++)
            acc[i][j] = (VF)(0);
#if LOCAL
    __local VF xs[2][BP][BR + 1], gs[2][BP][BN + 1]; // one more, against bank conflicts
    const Digits step = digits_of(BP, p_out, q_out);
    Digits x_tap[X_LOADS], x_at[X_LOADS], dy_at[DY_LOADS];
    VF x_next[X_LOADS], dy_next[DY_LOADS];
    UNROLL for (int l = 0; l < X_LOADS; l++) {
        const int slot = item + l * ITEMS;
        x_tap[l] = TAP_OF(pair0 + SLOT_BLOCK(slot, BR));
        x_at[l] = digits_of(first + SLOT_PIXEL(slot, BR), p_out, q_out);
    }
    UNROLL for (int l = 0; l < DY_LOADS; l++)
        dy_at[l] = digits_of(first + SLOT_PIXEL(item + l * ITEMS, BN), p_out, q_out);
    // Round by round: load the next step, compute this one from the other buffer, store what was loaded.
    for (int at = first - BP, buffer = 1; at < last; at += BP, buffer ^= 1) {
        const int next = at + BP;
        UNROLL for (int l = 0; l < X_LOADS; l++) {
            x_next[l] = next + SLOT_PIXEL(item + l * ITEMS, BR) < last ? READ_X(x_at[l], x_tap[l]) : (VF)(0);
            x_at[l] = advanced(x_at[l], step, p_out, q_out);
        }
        UNROLL for (int l = 0; l < DY_LOADS; l++) {
            const int slot = item + l * ITEMS, kb = kb0 + SLOT_BLOCK(slot, BN);
            dy_next[l] = next + SLOT_PIXEL(slot, BN) < last && kb < kb_end ? READ_DY(dy_at[l], kb) : (VF)(0);
            dy_at[l] = advanced(dy_at[l], step, p_out, q_out);
        }
        if (at >= first) {
            for (int pixel = 0; pixel < BP; pixel++) {
                Lanes value[TR];
                VF gradient[TB];
                UNROLL for (int i = 0; i < TR; i++)
                    value[i].vector = xs[buffer][pixel][i * MT + m_item];
                UNROLL for (int j = 0; j < TB; j++)
                    gradient[j] = gs[buffer][pixel][j * NT + n_item];
                REPEAT(RT, MULTIPLY, 0)
            }
        }
        UNROLL for (int l = 0; l < X_LOADS; l++) {
            const int slot = item + l * ITEMS;
            if (slot < BR * BP)
                xs[buffer ^ 1][SLOT_PIXEL(slot, BR)][SLOT_BLOCK(slot, BR)] = x_next[l];
        }
        UNROLL for (int l = 0; l < DY_LOADS; l++) {
            const int slot = item + l * ITEMS;
            if (slot < BN * BP)
                gs[buffer ^ 1][SLOT_PIXEL(slot, BN)][SLOT_BLOCK(slot, BN)] = dy_next[l];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#else
    const Digits one = digits_of(1, p_out, q_out);
    Digits at = digits_of(first, p_out, q_out), tap[TR];
    UNROLL for (int i = 0; i < TR; i++)
        tap[i] = TAP_OF(pair0 + i * MT + m_item);
    for (int pixel = first; pixel < last; pixel++) {
        Lanes value[TR];
        VF gradient[TB];
        UNROLL for (int i = 0; i < TR; i++)
            value[i].vector = READ_X(at, tap[i]);
        UNROLL for (int j = 0; j < TB; j++)
            gradient[j] = READ_DY(at, min(kb0 + j * NT + n_item, kb_end - 1));
        REPEAT(RT, MULTIPLY, 0)
        at = advanced(at, one, p_out, q_out);
    }
#endif
    UNROLL for (int i = 0; i < RT; i++) {
        const int pair = pair0 + i / B * MT + m_item;
        UNROLL for (int j = 0; j < TB; j++) {
            const int kb = kb0 + j * NT + n_item;
            if (pair < pairs && kb < kb_end)
                PUT_GRADIENT(parts, (((size_t)chunk * k_blocks + kb) * pairs + pair) * B + i % B, acc[i][j]);
        }
    }
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void channel_sums(TENSOR(const, dy), TENSOR(, parts),
                                                                              int k_blocks, int plane, int pixels,
                                                                              int chunk_pixels)
{
    __local VF sums[ITEMS];
    const int item = get_local_id(0), chunk = get_group_id(0), kb = get_group_id(1);
    const int first = chunk * chunk_pixels, last = min(pixels, first + chunk_pixels);
    const Digits step = digits_of(ITEMS, 1, plane);
    Digits at = digits_of(first + item, 1, plane);
    VF sum = (VF)(0);
    for (int pixel = first + item; pixel < last; pixel += ITEMS) {
        sum += BLOCKS_AT(const, dy)[((size_t)at.high * k_blocks + kb) * plane + at.low];
        at = advanced(at, step, 1, plane);
    }
    sums[item] = sum;
    for (int apart = ITEMS / 2; apart > 0; apart /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < apart)
            sums[item] += sums[item + apart];
    }
    if (item == 0)
        BLOCKS_AT(, parts)[(size_t)chunk * k_blocks + kb] = sums[0];
}
