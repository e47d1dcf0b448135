// conv_depthwise.cl -- depthwise convolution (every channel by itself), its input and its weight gradient.
//
//   conv_depthwise         y[n,c,p,q] = f(b[c] + sum over r,s of w[c,r,s] x[n, c, p*stride - pad + r*dilation, ...]);
//                          `flip` reads the taps backwards: the input gradient at stride 1
//   conv_depthwise_gather  y[n,c,h,w] gathers every x[n,c,p,q] with p*stride - pad + r*dilation = h, likewise w:
//                          the transpose, and the input gradient at any other stride
//   conv_depthwise_grad_w  partial sums of dw[c,r,s] = sum over n,p,q of
//                          dy[n,c,p,q] x[n, c, p*stride - pad + r*dilation, ...] over a chunk of the rows (n, p);
//                          conv_grad.cl's sum_parts adds them up
//
// Tensors   x, y, dy [N][C/B][H][W][B]; w, dw [C/B][R][S][B]; bias [C/B][B]
// Tile      WT outputs of a row (STRIDE_W apart when gathering); a work-item walks over the tiles of `tiles_per_item`
//           in each of `rows` rows of one channel block, so that work-items are few where starting them is dear
// Launch    1-D: (planes * row chunks * spans of a row), work-group (WG); grad_w: (row chunks, channel blocks)
// Tunables  WT  outputs per tile (default 7)          WG  work-items per group (default 1)
//           TAPS  3 or 5: windows of TAPS x TAPS without dilation, taps and input in registers; 0: any (default 0)
//           STRIDE_H, STRIDE_W  the stride (default 1); STRIDE_H matters to conv_depthwise_gather alone
// Order     by r, then s; within a chunk of grad_w by n, then p, q, in a fixed number of sums: same bits for every
//           choice of tiles
// Borders   tiles that reach over an edge of the image check each column, the others none

#include "common.h"

#ifndef WT
#define WT 7
#endif
#ifndef WG
#define WG 1
#endif
#ifndef TAPS
#define TAPS 0
#endif
#ifndef STRIDE_H
#define STRIDE_H 1
#endif
#ifndef STRIDE_W
#define STRIDE_W 1
#endif

// The pixel `offset` columns right of `column`, to which `source` points.
#define INSIDE(offset) source[offset]
#define CHECKED(offset) ((uint)(column + (offset)) < (uint)w_in ? source[offset] : (VF)(0))

// acc[i] += x[i*STRIDE_W + s*dilation] * w[s], for the taps of one row of the window.
#define ADD_KEPT(i, s) acc[i] = fma(pixels[(i) * STRIDE_W + (s)], weight[r * TAPS + (s)], acc[i]);
#define ADD_READ(i, PIXEL) acc[i] = fma(PIXEL((i) * STRIDE_W + s * dilation_w), tap, acc[i]);
#define ADD_GATHERED(i, PIXEL) acc[i] = fma(PIXEL(i), tap, acc[i]);
#if TAPS
#define ADD_ROW(PIXEL)                                                        \
    {                                                                         \
        VF pixels[(WT - 1) * STRIDE_W + TAPS];                                \
        UNROLL for (int j = 0; j < (WT - 1) * STRIDE_W + TAPS; j++)           \
            pixels[j] = PIXEL(j);                                             \
        UNROLL for (int s = 0; s < TAPS; s++) {                               \
            REPEAT(WT, ADD_KEPT, s)                                           \
        }                                                                     \
    }
#else
#define ADD_ROW(PIXEL)                                                              \
    for (int s = 0; s < kernel_w; s++) {                                            \
        const VF tap = taps[flip ? kernel_h * kernel_w - 1 - r * kernel_w - s : r * kernel_w + s]; \
        REPEAT(WT, ADD_READ, PIXEL)                                                 \
    }
#endif

// y[q0 + i*step] = f(acc[i] + bias) for the outputs of a tile that exist.
#define STORE_TILE(step)                                                                      \
    UNROLL for (int i = 0; i < WT; i++)                                                       \
        if (q0 + i * (step) < q_out) {                                                        \
            VF result = activate(acc[i] + shift, activation, slope);                          \
            out[q0 + i * (step)] = activation == SIGMOID ? keep_channels(result, cb, channels) : result; \
        }

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void conv_depthwise(
    PIECES_OF(x), TENSOR(const, w), TENSOR(const, bias), OUTPUT(y), int items, int channels, int h_in, int w_in,
    int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int pad_top, int pad_left, int dilation_h,
    int dilation_w, int flip, int chunks, int rows, int spans, int tiles, int tiles_per_item, int activation,
    float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int span = item % spans, chunk = item / spans % chunks, plane = item / spans / chunks;
    const int c_blocks = BLOCKS(channels), n = plane / c_blocks, cb = plane % c_blocks;
    const int p_end = min(p_out, (chunk + 1) * rows), tile_end = min(tiles, (span + 1) * tiles_per_item);
    __global const VF *block = (__global const VF *)PIECE_BLOCK(x, n, cb);
    __global const VF *taps = BLOCKS_AT(const, w) + (size_t)cb * kernel_h * kernel_w;
    const VF shift = bias_buffer ? BLOCKS_AT(const, bias)[cb] : (VF)(0);
#if TAPS
    VF weight[TAPS * TAPS];
    UNROLL for (int t = 0; t < TAPS * TAPS; t++)
        weight[t] = taps[flip ? TAPS * TAPS - 1 - t : t];
    const int reach = (WT - 1) * STRIDE_W + TAPS;
#else
    const int reach = (WT - 1) * STRIDE_W + (kernel_w - 1) * dilation_w + 1;
#endif
    for (int p = chunk * rows; p < p_end; p++) {
        __global VF *out = OUTPUT_BLOCK(y, n, cb) + p * q_out;
        for (int t = span * tiles_per_item; t < tile_end; t++) {
            const int q0 = t * WT, column = q0 * STRIDE_W - pad_left;
            const bool inside = column >= 0 && column + reach <= w_in;
            VF acc[WT];
            UNROLL for (int i = 0; i < WT; i++)
                acc[i] = (VF)(0);
#if TAPS
            UNROLL for (int r = 0; r < TAPS; r++) {
#else
            for (int r = 0; r < kernel_h; r++) {
#endif
                const int row = p * stride_h - pad_top + r * dilation_h;
                if (row < 0 || row >= h_in)
                    continue;
                __global const VF *source = block + (row * w_in + column);
                if (inside)
                    ADD_ROW(INSIDE)
                else
                    ADD_ROW(CHECKED)
            }
            STORE_TILE(1)
        }
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void conv_depthwise_gather(
    TENSOR(const, x), TENSOR(const, w), TENSOR(const, bias), TENSOR(, y), int items, int channels, int h_in, int w_in,
    int p_out, int q_out, int kernel_h, int kernel_w, int pad_top, int pad_left, int dilation_h, int dilation_w,
    int chunks, int rows, int spans, int tiles, int tiles_per_item, int activation, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int span = item % spans, chunk = item / spans % chunks, plane = item / spans / chunks;
    const int c_blocks = BLOCKS(channels), cb = plane % c_blocks;
    const int p_end = min(p_out, (chunk + 1) * rows), tile_end = min(tiles, (span + 1) * tiles_per_item);
    __global const VF *block = BLOCKS_AT(const, x) + (size_t)plane * h_in * w_in;
    __global const VF *taps = BLOCKS_AT(const, w) + (size_t)cb * kernel_h * kernel_w;
    const VF shift = bias_buffer ? BLOCKS_AT(const, bias)[cb] : (VF)(0);
    for (int p = chunk * rows; p < p_end; p++) {
        __global VF *out = BLOCKS_AT(, y) + ((size_t)plane * p_out + p) * q_out;
        for (int t = span * tiles_per_item; t < tile_end; t++) {
            // Outputs of equal column phase (mod stride) read the same taps: neighbouring tiles differ in phase.
            const int q0 = t % STRIDE_W + t / STRIDE_W * WT * STRIDE_W;
            VF acc[WT];
            UNROLL for (int i = 0; i < WT; i++)
                acc[i] = (VF)(0);
            for (int r = 0; r < kernel_h; r++) {
                const int lifted = p + pad_top - r * dilation_h, row = lifted / STRIDE_H;
                if (lifted < 0 || lifted % STRIDE_H || row >= h_in)
                    continue;
                for (int s = 0; s < kernel_w; s++) {
                    const int shifted = q0 + pad_left - s * dilation_w, column = shifted / STRIDE_W;
                    if (shifted % STRIDE_W)
                        continue;
                    __global const VF *source = block + (row * w_in + column);
                    const VF tap = taps[r * kernel_w + s];
                    if (column >= 0 && column + WT <= w_in) {
                        REPEAT(WT, ADD_GATHERED, INSIDE)
                    } else {
                        REPEAT(WT, ADD_GATHERED, CHECKED)
                    }
                }
            }
            STORE_TILE(STRIDE_W)
        }
    }
}

#define ADD_COLUMN(i, a) sum[i] = fma(x_row[(q + (i)) * stride_w - shift], dy_row[q + (i)], sum[i]);

// Adds dy[q] * x to the sum of every tap for columns from .. to - 1; FITS(r, s) tells which taps see the image.
#define EVERY_TAP(r, s) true
#define SEEN_TAP(r, s) ((uint)(h0 + (r)) < (uint)h_in && (uint)(q * stride_w - pad_left + (s)) < (uint)w_in)
#define ADD_TAP_IF(s, FITS)                                                                               \
    if (FITS(r, s))                                                                                       \
        acc[r * TAPS + (s)] = fma(corner[r * w_in + (s)], g, acc[r * TAPS + (s)]);
#define ADD_PIXELS(from, to, FITS)                                                                        \
    for (int q = from; q < to; q++) {                                                                     \
        const VF g = dy_row[q];                                                                           \
        __global const VF *corner = x_row + (q * stride_w - pad_left);                                    \
        UNROLL for (int r = 0; r < TAPS; r++) {                                                           \
            REPEAT(TAPS, ADD_TAP_IF, FITS)                                                                \
        }                                                                                                 \
    }

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void conv_depthwise_grad_w(
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, parts), int channels, int batch, int h_in, int w_in, int p_out,
    int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, int dilation_h,
    int dilation_w, int chunks, int rows_per_chunk)
{
    const int chunk = get_global_id(0), cb = get_global_id(1), c_blocks = BLOCKS(channels);
    if (chunk >= chunks)
        return;
    const int first_row = chunk * rows_per_chunk, end_row = min(first_row + rows_per_chunk, batch * p_out);
    __global VF *part = BLOCKS_AT(, parts) + ((size_t)chunk * c_blocks + cb) * kernel_h * kernel_w;
#if TAPS
    // Columns whose taps all lie inside a row: q*stride - pad in [0, w_in - TAPS].
    const int q_first = min((pad_left + stride_w - 1) / stride_w, q_out);
    const int room = w_in - TAPS + pad_left, q_end = room < 0 ? 0 : min(room / stride_w + 1, q_out);
    VF acc[TAPS * TAPS];
    UNROLL for (int t = 0; t < TAPS * TAPS; t++)
        acc[t] = (VF)(0);
    for (int row = first_row; row < end_row; row++) {
        const int n = row / p_out, p = row % p_out, h0 = p * stride_h - pad_top;
        __global const VF *dy_row = BLOCKS_AT(const, dy) + (((size_t)n * c_blocks + cb) * p_out + p) * q_out;
        __global const VF *x_row = BLOCKS_AT(const, x) + ((size_t)n * c_blocks + cb) * h_in * w_in + h0 * w_in;
        const bool whole = h0 >= 0 && h0 + TAPS <= h_in && q_first < q_end;
        const int left = whole ? q_first : q_out, right = whole ? q_end : q_out;
        ADD_PIXELS(0, left, SEEN_TAP)
        ADD_PIXELS(left, right, EVERY_TAP)
        ADD_PIXELS(right, q_out, SEEN_TAP)
    }
    UNROLL for (int t = 0; t < TAPS * TAPS; t++)
        part[t] = acc[t];
#else
    for (int r = 0; r < kernel_h; r++)
        for (int s = 0; s < kernel_w; s++) {
            // Columns q whose tap lies inside the row: q*stride - pad + s*dilation in [0, w_in)
            const int shift = pad_left - s * dilation_w;
            const int q_first = max(0, (shift + stride_w - 1) / stride_w);
            const int q_end = w_in - 1 + shift < 0 ? 0 : min(q_out, (w_in - 1 + shift) / stride_w + 1);
            VF sum[4] = {(VF)(0), (VF)(0), (VF)(0), (VF)(0)}; // several, for the latency of an fma
            for (int row = first_row; row < end_row; row++) {
                const int n = row / p_out, p = row % p_out, h = p * stride_h - pad_top + r * dilation_h;
                if (h < 0 || h >= h_in)
                    continue;
                __global const VF *dy_row = BLOCKS_AT(const, dy) + (((size_t)n * c_blocks + cb) * p_out + p) * q_out;
                __global const VF *x_row = BLOCKS_AT(const, x) + (((size_t)n * c_blocks + cb) * h_in + h) * w_in;
                int q = q_first;
                for (; q + 4 <= q_end; q += 4) {
                    REPEAT(4, ADD_COLUMN, 0)
                }
                for (; q < q_end; q++)
                    sum[0] = fma(x_row[q * stride_w - shift], dy_row[q], sum[0]);
            }
            part[r * kernel_w + s] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
#endif
}
