// conv_gemm.cl -- convolution as a matrix product of pixels and output channels, for GPUs; no patch is ever stored.
//
//   conv_gemm   y[n,k,o] = f(residual + b[k] + sum over c,r,s of w[k,c,r,s] x[n,c,i]) for rows x cols outputs o of each
//               image: the taps of output (p, q) read row p*row_scale + row_shift + r*row_step of x, likewise the
//               column. One launch computes a convolution, or one phase of a transposed one (the outputs that read the
//               same taps). Also a fully-connected layer (images are pixels), and GROUPS at once (a product for each).
//   sum_chunks  y = f(residual + b + the sums of the chunks, in order)
//
// Tensors   x [N][C/B][H][W][B], or with PLANAR [N][C][H][W]; w filter blocks, with PAIRED [K/2B][POINTS][C][2][B],
//           with SWAPPED [C/B][K][B of c]; bias [K/B][B]; y, residual [N][K/B][P][Q][B], residual optional and possibly
//           y itself; y of single chunks one behind the other, without bias, residual and f
// Tile      a work-group: BM = MT*TM pixels (of all images, one after the other) by NT*TB blocks of output channels
// Launch    conv_gemm: ITEMS * (tiles of pixels), groups * tiles of blocks, chunks or 1; sum_chunks: VFs of y
// Tunables  MT, NT  items per side (default 8, 8)         TM  pixels per item, 4 or 8 (default 8)
//           TB  output blocks per item (default 2, at most 4; TM*TB accumulators)
//           KD  pairs of tap and input block per step (default 2)
//           LOCAL  1 needs 8*KD*B*(BM + NT*TB*B + 4 + B) bytes of local memory (default 1)
//           SUBGROUP  with LOCAL 0: items of a subgroup, which share weights where it divides MT (default 0)
//           LINEAR  neighbours load along the channels, not along the pixels: images of one pixel (default 0)
//           POINTWISE  one tap (default 0)
//           CHUNKED  1: an item sums all chunks itself, in their order (default 0: the chunk of its group)
// Order     each output sums over blocks of c, r, s, c, in chunks that depend on the layer's shape alone: the same bits
//           for every tile and way to load, in one pass or two. Taps outside the image add w * 0.

#include "gemm.h"

#ifndef TM
#define TM 8
#endif
#ifndef TB
#define TB 2
#endif
#ifndef KD
#define KD 2
#endif
#ifndef POINTWISE
#define POINTWISE 0
#endif
#ifndef PAIRED
#define PAIRED 0
#endif
#ifndef POINTS
#define POINTS 36
#endif
#ifndef SWAPPED
#define SWAPPED 0
#endif
#ifndef CHUNKED
#define CHUNKED 0
#endif

#define BM (MT * TM)
#define BN (NT * TB)
#define ROWS (KD * B)                              // of a step's operands
#define X_LOADS ((BM * KD + ITEMS - 1) / ITEMS)    // blocks of x that an item loads per step
#define W_LOADS ((BN * ROWS + ITEMS - 1) / ITEMS)  // vectors of weights that it loads
#define X_PITCH (BM / 4 + 1)                       // local memory, in float4: one more, against bank conflicts
#define W_PITCH (BN + 1)                           // in VF, likewise

#if POINTWISE
#define TAPS_H 1
#define TAPS_W 1
#else
#define TAPS_H taps_h
#define TAPS_W taps_w
#endif

// Pixel i of an item within the tile: fours beside each other where they are read from local memory as vectors.
#if LOCAL
#define PIXEL_OF(i) (((i) / 4 * MT + m_item) * 4 + (i) % 4)
#else
#define PIXEL_OF(i) ((i) * MT + m_item)
#endif

// Which pixel and which of KD a load is for.
#if LINEAR
#define SLOT_PIXEL(slot) ((slot) / KD)
#define SLOT_DEPTH(slot) ((slot) % KD)
#else
#define SLOT_PIXEL(slot) ((slot) % BM)
#define SLOT_DEPTH(slot) ((slot) / BM)
#endif

// Row `row` (an input channel of a tap) of the filter of output block kb; transformed filters have one group per point.
#if PAIRED
#define IN_GROUP(kb) ((kb) - group * group_blocks)
#define FILTER_ROW(kb, row) \
    LOAD_W(WEIGHTS_AT(w), ((size_t)(IN_GROUP(kb) / 2 * POINTS + group) * filter_rows + (row)) * 2 + IN_GROUP(kb) % 2)
#else
#define FILTER_ROW(kb, row) LOAD_W(WEIGHTS_AT(w), (size_t)(kb) * filter_rows + (row))
#endif
#define TAP_ROW(at) ((((at).high * filter_taps + tap_first + (at).mid * tap_row + (at).low * tap_col)) * B)

// Which of KD a load of weights is for: a row of an output block, or with SWAPPED B rows of an output channel.
#if SWAPPED
#define W_DEPTH(slot) ((slot) / (BN * B))
#define W_BLOCK(slot) (kb0 + (slot) % (BN * B) / B)
#define READ_W(slot, at) LOAD_W(WEIGHTS_AT(w), (size_t)(at).high * k_total + kb0 * B + (slot) % (BN * B))
#else
#define W_DEPTH(slot) ((slot) % ROWS / B)
#define W_BLOCK(slot) (kb0 + (slot) / ROWS)
#define READ_W(slot, at) FILTER_ROW(W_BLOCK(slot), TAP_ROW(at) + (slot) % B)
#endif

typedef union {
    float4 four[TM / 4];
    real lane[TM];
} Pixels;

// Without local memory: the weights of an item's output blocks for input channel c of a tap.
#define OWN_WEIGHT(j, c) FILTER_ROW(min(kb0 + (j) * NT + n_item, kb_end - 1), TAP_ROW(at) + (c))
#if SUBGROUP
#define SHARED (TB * B) // vectors of weights for a tap and input block
#define LOADERS (SUBGROUP < SHARED ? SUBGROUP : SHARED)
#define WEIGHT(j, c) \
    (shares ? BROADCAST(loaded[((j) * B + (c)) / LOADERS], ((j) * B + (c)) % LOADERS) : OWN_WEIGHT(j, c))
#else
#define WEIGHT(j, c) OWN_WEIGHT(j, c)
#endif

#define MULTIPLY_ADD(j, i) acc[i][j] = fma((VF)(pixels.lane[i]), weight[j], acc[i][j]);
#define MULTIPLY(i, a) REPEAT_4(TB, MULTIPLY_ADD, i)

#define PLACE_OF(pixel) place_of(m0 + (pixel), batch, rows, cols, row_scale, col_scale, row_shift, col_shift)

// The block of x that a place's tap reads; zero outside the image.
#define READ_X(place, at)                                                                                      \
    ((place).image >= 0 && (uint)((place).row + (at).mid * row_step) < (uint)h_in &&                           \
             (uint)((place).col + (at).low * col_step) < (uint)w_in                                            \
         ? INPUT_BLOCK(x, (place).image, cb0 + (at).high,                                                      \
                       ((place).row + (at).mid * row_step) * w_in + (place).col + (at).low * col_step)         \
         : (VF)(0))

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) SUBGROUPED void conv_gemm(
    PIECES_OF(x), TENSOR(const, w), TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y),
    int batch, int c_total, int h_in, int w_in, int k_total, int group_blocks, int group_tiles, int filter_depth,
    int filter_taps, int rows, int cols, int row_scale, int col_scale, int row_shift, int col_shift, int row_step,
    int col_step, int taps_h, int taps_w, int tap_first, int tap_row, int tap_col, int out_first, int out_row,
    int out_col, int length, int chunk_length, int chunks, int activation, float slope)
{
    const int item = ITEM, m_item = item % MT, n_item = item / MT, m0 = get_group_id(0) * BM;
    const int group = get_group_id(1) / group_tiles, kb_end = (group + 1) * group_blocks;
    const int kb0 = group * group_blocks + (int)get_group_id(1) % group_tiles * BN, cb0 = group * filter_depth;
    const int filter_rows = filter_depth * filter_taps * B;
    VF acc[TM][TB];
#if LOCAL
    __local float4 xs[2][ROWS][X_PITCH];
    __local VF ws[2][ROWS][W_PITCH];
#endif
#if CHUNKED
    VF total[TM][TB];
    for (int chunk = 0; chunk < chunks; chunk++) {
#else
    const int chunk = get_group_id(2);
#endif
        const int first = chunk * chunk_length, last = min(length, first + chunk_length);
        UNROLL for (int i = 0; i < TM; i++)
            UNROLL for (int j = 0; j < TB; j++)
                acc[i][j] = (VF)(0);
#if LOCAL
        const Digits step = digits_of(KD, TAPS_H, TAPS_W);
        Place x_place[X_LOADS];
        Digits x_at[X_LOADS], w_at[W_LOADS];
        VF x_next[X_LOADS], w_next[W_LOADS];
        UNROLL for (int l = 0; l < X_LOADS; l++) {
            const int slot = item + l * ITEMS;
            x_place[l] = PLACE_OF(SLOT_PIXEL(slot));
            x_at[l] = digits_of(first + SLOT_DEPTH(slot), TAPS_H, TAPS_W);
        }
        UNROLL for (int l = 0; l < W_LOADS; l++)
            w_at[l] = digits_of(first + W_DEPTH(item + l * ITEMS), TAPS_H, TAPS_W);
        // Round by round: load the next step, compute this one from the other buffer, store what was loaded.
        for (int at = first - KD, buffer = 1; at < last; at += KD, buffer ^= 1) {
            const int next = at + KD;
            UNROLL for (int l = 0; l < X_LOADS; l++) {
                x_next[l] = next + SLOT_DEPTH(item + l * ITEMS) < last ? READ_X(x_place[l], x_at[l]) : (VF)(0);
                x_at[l] = advanced(x_at[l], step, TAPS_H, TAPS_W);
            }
            UNROLL for (int l = 0; l < W_LOADS; l++) {
                const int slot = item + l * ITEMS;
                w_next[l] = next + W_DEPTH(slot) < last && W_BLOCK(slot) < kb_end ? READ_W(slot, w_at[l]) : (VF)(0);
                w_at[l] = advanced(w_at[l], step, TAPS_H, TAPS_W);
            }
            if (at >= first) {
                for (int row = 0; row < ROWS; row++) {
                    Pixels pixels;
                    VF weight[TB];
                    UNROLL for (int i = 0; i < TM / 4; i++)
                        pixels.four[i] = xs[buffer][row][i * MT + m_item];
                    UNROLL for (int j = 0; j < TB; j++)
                        weight[j] = ws[buffer][row][j * NT + n_item];
                    REPEAT(TM, MULTIPLY, 0)
                }
            }
            UNROLL for (int l = 0; l < X_LOADS; l++) {
                const int slot = item + l * ITEMS;
                const Lanes block = {.vector = x_next[l]};
                if (slot < BM * KD)
                    UNROLL for (int c = 0; c < B; c++)
                        ((__local real *)xs[buffer ^ 1][SLOT_DEPTH(slot) * B + c])[SLOT_PIXEL(slot)] = block.lane[c];
            }
            UNROLL for (int l = 0; l < W_LOADS; l++) {
                const int slot = item + l * ITEMS;
                if (slot < BN * ROWS) {
#if SWAPPED
                    const Lanes rows_of = {.vector = w_next[l]};
                    UNROLL for (int c = 0; c < B; c++)
                        ((__local real *)ws[buffer ^ 1][W_DEPTH(slot) * B + c])[slot % (BN * B)] = rows_of.lane[c];
#else
                    ws[buffer ^ 1][slot % ROWS][slot / ROWS] = w_next[l];
#endif
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
#else
        const Digits one = digits_of(1, TAPS_H, TAPS_W);
        Digits at = digits_of(first, TAPS_H, TAPS_W);
        Place place[TM];
        UNROLL for (int i = 0; i < TM; i++)
            place[i] = PLACE_OF(PIXEL_OF(i));
#if SUBGROUP
        const bool shares = SUBGROUP_SHARES(MT, LOADERS);
#endif
        for (int kd = first; kd < last; kd++) {
            Lanes block[TM];
            UNROLL for (int i = 0; i < TM; i++)
                block[i].vector = READ_X(place[i], at);
#if SUBGROUP
            VF loaded[SHARED / LOADERS];
            UNROLL for (int l = 0; l < SHARED / LOADERS; l++) {
                const int vector = l * LOADERS + LANE % LOADERS;
                loaded[l] = OWN_WEIGHT(vector / B, vector % B);
            }
#endif
            UNROLL for (int c = 0; c < B; c++) {
                Pixels pixels;
                VF weight[TB];
                UNROLL for (int i = 0; i < TM; i++)
                    pixels.lane[i] = block[i].lane[c];
                UNROLL for (int j = 0; j < TB; j++)
                    weight[j] = WEIGHT(j, c);
                REPEAT(TM, MULTIPLY, 0)
            }
            at = advanced(at, one, TAPS_H, TAPS_W);
        }
#endif
#if CHUNKED
        UNROLL for (int i = 0; i < TM; i++)
            UNROLL for (int j = 0; j < TB; j++)
                total[i][j] = chunk ? total[i][j] + acc[i][j] : acc[i][j];
    }
#define SUM total
#else
#define SUM acc
#endif

    UNROLL for (int i = 0; i < TM; i++) {
        const Digits at = digits_of(m0 + PIXEL_OF(i), rows, cols);
        const int out = out_first + at.mid * out_row + at.low * out_col;
        UNROLL for (int j = 0; j < TB; j++) {
            const int kb = kb0 + j * NT + n_item;
            if (at.high < batch && kb < kb_end) {
                VF result = SUM[i][j] + (bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0));
                if (residual_buffer)
                    result += BLOCKS_AT(const, residual)[((size_t)at.high * y_depth + kb) * residual_plane + out];
                OUTPUT_BLOCK(y, get_group_id(2) * batch + at.high, kb)[out] = activate_usual(result, activation);
            }
        }
    }
    if (CLAMPS(activation))
        return;
    // Written out for every sum, other activations would make most of the program.
    for (int pair = 0; pair < TM * TB; pair++) {
        const int i = pair / TB, kb = kb0 + pair % TB * NT + n_item;
        const Digits at = digits_of(m0 + PIXEL_OF(i), rows, cols);
        if (at.high < batch && kb < kb_end) {
            __global VF *target = OUTPUT_BLOCK(y, at.high, kb) + out_first + at.mid * out_row + at.low * out_col;
            const VF result = activate(*target, activation, slope);
            *target = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
        }
    }
}

__kernel void sum_chunks(TENSOR(const, parts), TENSOR(const, bias), TENSOR(const, residual), int residual_plane,
                         OUTPUT(y), int items, int chunks, int k_total, int plane, int activation, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int out = item % plane, kb = item / plane % BLOCKS(k_total), n = item / plane / BLOCKS(k_total);
    VF sum = BLOCKS_AT(const, parts)[item];
    for (int chunk = 1; chunk < chunks; chunk++)
        sum += BLOCKS_AT(const, parts)[(size_t)chunk * items + item];
    VF result = sum + (bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0));
    if (residual_buffer)
        result += BLOCKS_AT(const, residual)[((size_t)n * y_depth + kb) * residual_plane + out];
    result = activate(result, activation, slope);
    OUTPUT_BLOCK(y, n, kb)[out] = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
}
