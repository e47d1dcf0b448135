// conv_winograd.cl -- square convolution with stride 1 by Winograd's F(OUT x OUT, TAPS x TAPS), OUT + TAPS = SIDE + 1:
//                     36 products per tile or 64: for 3x3 filters 36 per 16 outputs, not 144; for 5x5 64, not 400.
//
//   winograd_conv     y = f(residual + b + A^T [ sum over c of (G w G^T) (B^T d B) ] A), fused per block of tiles;
//                     KIND: pooled over 2x2 windows side by side, argmax[n,k,p,q] the places of maxima (p_out and
//                     q_out are those before the pooling)
//
// Tensors   w filter blocks, taps reversed with FLIP (input gradient); x, y channel
//           blocks; bias [K/B][B]; scratch: per work-item SIDE^2 * (C/B * plane + 2*block_tiles) + SIDE * (2*B*chunk
//           + 1) vectors, plane the odd one of block_tiles and the number above
// Launch    `workers` persistent items;
//           each takes blocks of block_tiles tiles (a multiple of WT) and shares of the output channels, transforms
//           the tiles into its scratch, which stays in the cache, and then the filters, for all these tiles: a row of
//           the values and `chunk` channel blocks at a time, so that they stay in the innermost cache. So memory
//           holds and moves filters as they are, and training has no launches for them.
// Groups    any number that divides k_total / 2B (with FEW k_total / B) and c_total / B
// Tunables  TAPS  of a filter's row, 3 to 5 (default 3)   SIDE  6, or 8 for 4 and 5 taps without FEW (default 6)
//           WT   tiles per register tile (default 7)
//           FEW  1: block_tiles is WT; transformed filters stay in registers, of 6*WT sums. Two output blocks at a time
//                else, and 2*WT sums (default 0)
//           PREFETCH  1: the compiler has __builtin_prefetch (default 0): the next filters come near during products
// Order     tiles lie on the grid of the whole image, each sum runs over c: same bits for every block size and chunk.
// Accuracy  the transforms amplify rounding: errors are within 16 times the direct kernel's bound
//           (Lavin and Gray 2016; measured in tests/test_winograd.py).

#include "winograd.h"

#ifndef WT
#define WT 7
#endif
#ifndef FEW
#define FEW 0
#endif
#ifndef FLIP
#define FLIP 0
#endif
#ifndef PREFETCH
#define PREFETCH 0
#endif

#define TAP(r, s) ((FLIP ? TAPS * TAPS - 1 - TAPS * (r) - (s) : TAPS * (r) + (s)) * B)
#define POINTS (SIDE * SIDE)
#define FILTER (TAPS * TAPS * B * B) // values of a pair of channel blocks

// Row i of G w at column s of the taps; where i is a constant, some of the loads are left.
static inline VF filter_row(__global const weight_t *w, int i, int s)
{
    if (i == 0 || i == SIDE - 1)
        return LOAD_W(w, TAP(i ? TAPS - 1 : 0, s));
    VF taps[TAPS];
    UNROLL for (int r = 0; r < TAPS; r++)
        taps[r] = LOAD_W(w, TAP(i > 4 ? TAPS - 1 - r : r, s)); // at the halves reversed
    const int square = i < 3 ? 1 : 4;
    return fma((VF)((i < 3 ? 1 : 2) * (i % 2 ? 1 : -1)), ODD(taps, square), EVEN(taps, square));
}

// Row i of G w G^T.
#define TRANSFORMED_ROW(o, stride, w, i)           \
    {                                              \
        VF row_of_taps[TAPS];                      \
        UNROLL for (int s = 0; s < TAPS; s++)      \
            row_of_taps[s] = filter_row(w, i, s);  \
        FILTER_ROW(o, stride, row_of_taps)         \
    }

#if FEW
#define AHEAD ((TAPS * TAPS + 4) / 5) // vectors to fetch for each channel and each of five rows

// Adds row i of the products of WT tiles and an output block to `sums`, over the `channels` of a block whose
// transformed inputs are v, stride values from one of the 36 to the next; `first`: sums begin at zero. Meanwhile some
// of the filters `ahead`, of the next block, are fetched.
static inline void add_row(const int i, __global const weight_t *w, __global const real *v, size_t stride, int channels,
                           int first, __global VF *sums, __global const weight_t *ahead)
{
    VF acc[6 * WT];
    UNROLL for (int n = 0; n < 6 * WT; n++)
        acc[n] = first ? (VF)(0) : sums[n];
    for (int c = 0; c < channels; c++) {
        VF u[6];
        __global const weight_t *tap = w + c * B;
        TRANSFORMED_ROW(u, 1, tap, i)
#if PREFETCH
        if (i < 5) {
            UNROLL for (int n = 0; n < AHEAD; n++)
                __builtin_prefetch((const void *)(size_t)(ahead + ((i * B + c) * AHEAD + n) * B), 0, 2);
        }
#endif
        UNROLL for (int t = 0; t < WT; t++) {
            UNROLL for (int j = 0; j < 6; j++)
                acc[j * WT + t] = fma((VF)(v[j * stride + t * B + c]), u[j], acc[j * WT + t]);
        }
    }
    UNROLL for (int n = 0; n < 6 * WT; n++)
        sums[n] = acc[n];
}
#else
// Row i of the transformed filters of `chunk` channel blocks: u[SIDE][channels][2], `stride` vectors from one of these
// to the next, for one of the two output blocks.
static inline void transform_filters(const int i, __global const weight_t *w, int chunk, __global VF *u, size_t stride)
{
    for (int cb = 0; cb < chunk; cb++)
        for (int c = 0; c < B; c++) {
            __global const weight_t *tap = w + (size_t)cb * FILTER + c * B;
            TRANSFORMED_ROW(u, stride, tap, i)
            u += 2;
        }
}

// Adds the products of WT tiles and two output blocks to `sums`, over `channels` channels in blocks, of which v are the
// transformed inputs, plane values from one block to the next. From one output block to the next are `other` sums.
static inline void add_products(__global const VF *u, __global const real *v, size_t plane, int channels, int first,
                                __global VF *sums, size_t other)
{
    VF even[WT], odd[WT];
    UNROLL for (int i = 0; i < WT; i++) {
        even[i] = first ? (VF)(0) : sums[i];
        odd[i] = first ? (VF)(0) : sums[other + i];
    }
    for (; channels > 0; channels -= B, v += plane)
        for (int c = 0; c < min(B, channels); c++) {
            const VF w0 = u[0], w1 = u[1];
            u += 2;
            UNROLL for (int i = 0; i < WT; i++) {
                const VF value = (VF)(v[i * B + c]);
                even[i] = fma(value, w0, even[i]);
                odd[i] = fma(value, w1, odd[i]);
            }
        }
    UNROLL for (int i = 0; i < WT; i++) {
        sums[i] = even[i];
        sums[other + i] = odd[i];
    }
}
#endif

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void winograd_conv(
    PIECES_OF(x), TENSOR(const, w), TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y),
    TENSOR_OF(, PLACE, argmax), TENSOR(, scratch), int tiles, int tiles_h, int tiles_w, int c_total, int c_group,
    int k_group, int h_in, int w_in, int k_total, int p_out, int q_out, int pad_top, int pad_left, int tile_blocks,
    int block_tiles, int shares, int chunk, int activation, float slope)
{
    const int worker = get_global_id(0), workers = get_global_size(0);
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total), units = (k_blocks + !FEW) / (2 - FEW);
    // An odd number of vectors between what is written together: not all in one set of the cache. What a chunk's
    // products read lies together.
    const size_t plane = block_tiles + 1 - block_tiles % 2, depth = POINTS * plane;
    const size_t row = 2 * B * chunk + 1, filter = (size_t)BLOCKS(c_group) * FILTER;
    __global VF *spectra = BLOCKS_AT(, scratch) + worker * (c_blocks * depth + 2 * POINTS * block_tiles + SIDE * row);
    __global VF *products = spectra + c_blocks * depth, *u = products + 2 * POINTS * block_tiles;
    const int works = tile_blocks * shares, last_work = (long)works * (worker + 1) / workers;
    int transformed = -1;
    for (int work = (long)works * worker / workers; work < last_work; work++) {
        const int t0 = work / shares * block_tiles, count = min(block_tiles, tiles - t0), share = work % shares;
        for (int cb = t0 == transformed ? c_blocks : 0; cb < c_blocks; cb++)
            for (int t = 0; t < count; t++) {
                const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                const int top = tile / tiles_w % tiles_h * OUT - pad_top, left = tile % tiles_w * OUT - pad_left;
                transform_input_tile((__global const VF *)PIECE_BLOCK(x, n, cb), top, left, h_in, w_in,
                                     spectra + cb * depth + t, plane);
            }
        transformed = t0;
        const int last = (long)units * (share + 1) / shares;
        for (int unit = (long)units * share / shares; unit < last; unit++) {
            const int kb0 = unit * (2 - FEW), together = min(2 - FEW, k_blocks - kb0);
            __global const weight_t *filters = WEIGHTS_AT(w) + kb0 * filter;
            // Of several groups each has whole blocks, and an even number of output blocks.
            __global const VF *inputs = spectra + kb0 * B / k_group * (c_group / B) * depth;
#if FEW
            for (int cb = 0; cb * B < c_group; cb++) {
                const int channels = min(B, c_group - cb * B);
                __global const weight_t *tap = filters + (size_t)cb * FILTER;
                __global const real *v = (__global const real *)(inputs + cb * depth);
#define ADD_ROW(i) \
    add_row(i, tap, v + i * 6 * plane * B, plane * B, channels, cb == 0, products + i * 6 * WT, tap + FILTER);
                ADD_ROW(0) ADD_ROW(1) ADD_ROW(2) ADD_ROW(3) ADD_ROW(4) ADD_ROW(5)
            }
#else
            for (int cb = 0; cb * B < c_group; cb += chunk) {
                const int blocks = min(chunk, BLOCKS(c_group) - cb);
#if PREFETCH
                // The filters of the next chunk, or of the next output blocks; some of their vectors before each
                // product.
                const bool more = cb + chunk < BLOCKS(c_group);
                __global const weight_t *ahead = filters + (more ? (size_t)(cb + chunk) * FILTER : 2 * filter);
                const int steps = POINTS * ((count + WT - 1) / WT), vectors = (blocks * FILTER / B + steps - 1) / steps;
#endif
                for (int i = 0; i < SIDE; i++) {
                    for (int j = 0; j < together; j++)
                        transform_filters(i, filters + j * filter + (size_t)cb * FILTER, blocks, u + j, row);
                    for (int xi = i * SIDE; xi < (i + 1) * SIDE; xi++)
                        for (int t = 0; t < count; t += WT) {
#if PREFETCH
                            for (int n = 0; n < vectors; n++, ahead += B) {
                                __builtin_prefetch((const void *)(size_t)ahead, 0, 2);
                                __builtin_prefetch((const void *)(size_t)(ahead + filter), 0, 2);
                            }
#endif
                            add_products(u + (xi - i * SIDE) * row,
                                         (__global const real *)(inputs + cb * depth + xi * plane + t), depth * B,
                                         min(c_group - cb * B, blocks * B), cb == 0,
                                         products + (size_t)xi * 2 * block_tiles + t, block_tiles);
                        }
                }
            }
#endif
            for (int j = 0; j < together; j++)
                for (int t = 0; t < count; t++) {
                    const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                    const int top = tile / tiles_w % tiles_h * OUT, left = tile % tiles_w * OUT;
                    const size_t at = (size_t)top * q_out + left;
#ifdef KIND
                    const size_t place = top / 2 * (q_out / 2) + left / 2;
#else
                    const size_t place = at;
#endif
                    write_output_tile(
                        products + (size_t)j * block_tiles + t, (2 - FEW) * block_tiles,
                        OUTPUT_BLOCK(y, n, kb0 + j) + place,
                        PLACES_AT(, argmax) + ((size_t)n * y_depth + kb0 + j) * y_plane + place,
                        residual_buffer
                            ? BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb0 + j) * residual_plane + at
                            : 0,
                        bias_buffer ? BLOCKS_AT(const, bias)[kb0 + j] : (VF)(0), top, left, p_out, q_out, kb0 + j,
                        k_total, activation, slope);
                }
        }
    }
}
