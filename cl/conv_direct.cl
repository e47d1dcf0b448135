// conv_direct.cl -- convolution and its transpose, direct, any kernel, stride, padding, dilation and groups.
//
//   conv_direct   y[n,k,p,q] = f(residual + b[k] + sum over c,r,s of w[k,c,r,s] x[n, c, i, j]),
//                 i = p*stride - pad + r*dilation, likewise j
//                 TRANSPOSED: y[n,k,h,w] gathers every x[n,c,p,q] with p*stride - pad + r*dilation = h, likewise w;
//                 the same kernel computes the input gradient of a convolution.
//                 KIND: y is that, pooled over 2x2 windows side by side; argmax[n,k,p,q] the places of maxima.
//
// Tensors   x [N][C/B][H][W][B], or with PLANAR [N][C][H][W]; w filter blocks; bias [K/B][B];
//           y, residual [N][K/B][P][Q][B], residual optional and possibly y itself
// Tile      one work-item: WT outputs of a row (STEP apart when TRANSPOSED) times KB blocks of output channels; pooled,
//           of two rows, one after the other: p_out counts pairs of rows, q_out is even, and so is WT
// Launch    global (N * P * tiles per row, output blocks / KB); work-group (WG, 1)
// Tunables  WT  outputs per item (default 7)       KB  output channel blocks per item (default 2);
//           WT * KB vectors of B floats should fit in the registers (tuning.py: accumulators)
//           WG  work-items per group (default 1)   SW  column stride when not TRANSPOSED (default 1)
//           REACH  with PLANAR, columns from a window's first to its last (default 1)
//           POINTWISE  1: a window of one tap without padding, x in blocks, rows of WT outputs or more (default 0)
//           PREFETCH  but for PLANAR, 1: the compiler has __builtin_prefetch (default 0): weights come ahead
// Order     each output sums over blocks of c, then r, s, c (PLANAR: r, c, s), whatever the tile: same bits for every
//           choice.
// Inside    one innermost loop in POINTWISE: with two the compilers keep half the sums in memory between them.
// Borders   a tap whose columns leave the row is read through a private copy padded with zeros, all taps of planar x at
//           once.

#include "ahead.h"
#include "pooling.h"

#ifndef WT
#define WT 7
#endif
#ifndef KB
#define KB 2
#endif
#ifndef WG
#define WG 1
#endif
#ifndef SW
#define SW 1
#endif
#ifndef TRANSPOSED
#define TRANSPOSED 0
#endif
#ifndef PLANAR
#define PLANAR 0
#endif

#ifndef REACH
#define REACH 1
#endif
#ifndef POINTWISE
#define POINTWISE 0
#endif
#ifdef KIND
#define ROWS 2
#else
#define ROWS 1
#endif

// acc[j][i] += w[j][c] * x[i][c] for the channels of one block and one tap, with x[i][c] in the image or in the copy;
// with PLANAR for one channel and the taps of a row.
#if PLANAR
#define IN_IMAGE(i) line[(i) * SW + s * dilation_w]
#define IN_COPY(i) copy[(i) * SW + s * dilation_w]
#define LOAD_WEIGHT(j, a) weight[j] = LOAD_W(tap, (j) * (size_t)filter_stride + s * B);
#define STEPS for (int s = 0; s < kernel_w; s++)
#define FETCH
#else
#define IN_IMAGE(i) pixels[(i) * SW * B + c]
#define IN_COPY(i) ((const real *)copy)[(i) * B + c]
#define LOAD_WEIGHT(j, a) weight[j] = LOAD_W(tap, (j) * (size_t)filter_stride + c);
#define STEPS for (int c = 0; c < channels; c++)
#define FETCH FETCH_WEIGHTS(KB)
#endif
#define MULTIPLY(i, VALUE)                \
    {                                     \
        const VF value = (VF)(VALUE(i));  \
        REPEAT_4(KB, MULTIPLY_ADD, i)     \
    }
#define MULTIPLY_TAP(VALUE)                  \
    STEPS {                                  \
        VF weight[KB];                       \
        FETCH                                \
        REPEAT_4(KB, LOAD_WEIGHT, 0)         \
        REPEAT(WT, MULTIPLY, VALUE)          \
    }

// An output that is there and the tile's own.
#define IS_OUTPUT(i) (q0 + (i) * step >= q_first && q0 + (i) * step < q_out)

// Pixels of a row of planar x that a tile reads.
#define LINE ((WT - 1) * SW + REACH)

// The columns of the tile that are there, and zeros.
#define IS_COLUMN(i) (col + (i) * SW >= 0 && col + (i) * SW < w_in)
#define COPY(i, a) copy[i] = IS_COLUMN(i) ? ((__global const VF *)pixels)[(i) * SW] : (VF)(0);

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void conv_direct(
    PIECES_OF(x), TENSOR(const, w), TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y),
    TENSOR_OF(, PLACE, argmax), int items, int c_total, int h_in, int w_in, int k_total, int p_out, int q_out,
    int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, int dilation_h, int dilation_w,
    int filter_depth, int k_per_group, int c_per_group, int tiles, int activation, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int k_blocks = BLOCKS(k_total), c_blocks = BLOCKS(c_total);
    const int kb0 = min((int)get_global_id(1) * KB, max(k_blocks - KB, 0));
    const int kb_skip = get_global_id(1) * KB - kb0;
    const int p_item = item / tiles % p_out, n = item / tiles / p_out;
#if TRANSPOSED
    // Outputs of equal column phase (mod stride) read the same taps: the tile steps by the stride.
    const int phase_tiles = tiles / stride_w;
    const int phase = item % tiles / phase_tiles;
    const int step = stride_w;
    const int q_first = phase + item % tiles % phase_tiles * WT * step, q0 = q_first;
#else
    const int step = 1, q_first = item % tiles * WT;
#if POINTWISE
    const int q0 = min(q_first, q_out - WT); // never beyond the row
#else
    const int q0 = q_first;
#endif
#endif
    const int filter_stride = filter_depth * kernel_h * kernel_w * B;
    const int cb0 = kb0 * B / k_per_group * c_per_group / B;
    __global const weight_t *filter = WEIGHTS_AT(w) + (size_t)kb0 * filter_stride * B;

#ifdef KIND
    VF pooled[KB][WT / 2];
    VI places[KB][WT / 2];
#endif
    for (int below = 0; below < ROWS; below++) {
        const int p = p_item * ROWS + below;
        VF acc[KB][WT];
        UNROLL for (int j = 0; j < KB; j++)
            UNROLL for (int i = 0; i < WT; i++)
                acc[j][i] = (VF)(0);

#if POINTWISE
        const size_t first = (size_t)(p * stride_h * w_in + q0 * SW) * B;
        for (int depth = 0; depth < filter_depth && cb0 + depth < c_blocks; depth++) {
            const int channels = min(B, c_total - (cb0 + depth) * B);
            __global const weight_t *tap = filter + (size_t)depth * B * B;
            __global const real *pixels = PIECE_BLOCK(x, n, cb0 + depth) + first;
            MULTIPLY_TAP(IN_IMAGE)
        }
#else
        for (int depth = 0; depth < filter_depth && cb0 + depth < c_blocks; depth++) {
            const int cb = cb0 + depth;
            const int channels = min(B, c_total - cb * B);
#if PLANAR
            __global const real *block = AT(x0) + ((size_t)n * c_total + cb * B) * x_plane0;
#else
            __global const real *block = PIECE_BLOCK(x, n, cb);
#endif
            for (int r = 0; r < kernel_h; r++) {
#if TRANSPOSED
                const int lifted = p + pad_top - r * dilation_h;
                if (lifted < 0 || lifted % stride_h)
                    continue;
                const int row = lifted / stride_h;
#else
                const int row = p * stride_h - pad_top + r * dilation_h;
#endif
                if (row < 0 || row >= h_in)
                    continue;
#if PLANAR
                const int col = q0 * SW - pad_left, begin = max(0, -col), end = min(LINE, w_in - col);
                for (int c = 0; c < channels; c++) {
                    __global const weight_t *tap = filter + ((size_t)(depth * kernel_h + r) * kernel_w * B + c) * B;
                    __global const real *line = block + (size_t)c * x_plane0 + (long)row * w_in + col;
                    if (begin == 0 && end == LINE) {
                        MULTIPLY_TAP(IN_IMAGE)
                    } else {
                        real copy[LINE];
                        for (int i = 0; i < LINE; i++)
                            copy[i] = i >= begin && i < end ? line[i] : 0;
                        MULTIPLY_TAP(IN_COPY)
                    }
                }
#else
                for (int s = 0; s < kernel_w; s++) {
#if TRANSPOSED
                    const int shifted = q0 + pad_left - s * dilation_w;
                    if ((shifted % stride_w + stride_w) % stride_w)
                        continue;
                    const int col = shifted / stride_w;
#else
                    const int col = q0 * SW - pad_left + s * dilation_w;
#endif
                    if (col >= w_in || col + (WT - 1) * SW < 0)
                        continue;
                    __global const weight_t *tap = filter + ((size_t)(depth * kernel_h + r) * kernel_w + s) * B * B;
                    __global const real *pixels = block + ((long)row * w_in + col) * B;
                    if (col >= 0 && col + (WT - 1) * SW < w_in) {
                        MULTIPLY_TAP(IN_IMAGE)
                    } else {
                        VF copy[WT];
                        REPEAT(WT, COPY, 0)
                        MULTIPLY_TAP(IN_COPY)
                    }
                }
#endif
            }
        }
#endif

        const VF least = (VF)(activation ? 0.0f : -INFINITY), most = (VF)(activation == RELU6 ? 6.0f : INFINITY);
        UNROLL for (int j = 0; j < KB; j++) {
            const int kb = kb0 + j;
            if (j < kb_skip || kb >= k_blocks)
                continue;
            const VF offset = bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0);
            __global const VF *add =
                BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb) * residual_plane + p * q_out;
            UNROLL for (int i = 0; i < WT; i++)
                acc[j][i] += offset;
            if (residual_buffer) {
                UNROLL for (int i = 0; i < WT; i++)
                    if (IS_OUTPUT(i))
                        acc[j][i] += add[q0 + i * step];
            }
            if (CLAMPS(activation)) {
                UNROLL for (int i = 0; i < WT; i++)
                    acc[j][i] = clamp_values(acc[j][i], least, most);
            } else {
                // Not unrolled: rare, and much code. A copy, as what is indexed at run time lies in memory.
                VF results[WT];
                UNROLL for (int i = 0; i < WT; i++)
                    results[i] = acc[j][i];
                for (int i = 0; i < WT; i++) {
                    const VF result = activate(results[i], activation, slope);
                    results[i] = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
                }
                UNROLL for (int i = 0; i < WT; i++)
                    acc[j][i] = results[i];
            }
#ifdef KIND
            reduce_pairs(below, WT / 2, acc[j], pooled[j], places[j]);
            const size_t out = ((size_t)n * y_depth + kb) * y_plane + p_item * (q_out / 2) + q0 / 2;
            for (int i = 0; below && i < WT / 2; i++)
                if (IS_OUTPUT(2 * i)) {
                    BLOCKS_AT(, y)[out + i] = pooled[j][i];
#if ARGMAX
                    PLACES_AT(, argmax)[out + i] = STORED(places[j][i]);
#endif
                }
#else
            __global VF *out = OUTPUT_BLOCK(y, n, kb) + p * q_out;
            UNROLL for (int i = 0; i < WT; i++)
                if (IS_OUTPUT(i))
                    out[q0 + i * step] = acc[j][i];
#endif
        }
    }
}
