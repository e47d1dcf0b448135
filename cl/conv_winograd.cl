// conv_winograd.cl -- 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): 36 products per 16 outputs, not 144.
//
//   winograd_filter   u = G w G^T for each pair of channels, once per weight; FLIP: taps reversed (input gradient)
//   winograd_conv     y = f(residual + b + A^T [ sum over c of u (B^T d B) ] A), fused per block of tiles
//
// Tensors   w filter blocks; u [ceil(K/2B)][36][C][2][B]; x, y channel blocks; bias [K/B][B];
//           scratch: per work-item 36 * block_tiles * (C + KC*B) values, C padded to blocks
// Launch    winograd_filter: one item per (output block, input channel). winograd_conv: `workers` persistent items;
//           each takes blocks of block_tiles tiles (a multiple of WT) and shares of the output channels, transforms
//           the tiles into its scratch (which stays in the cache), multiplies 36 small matrices and transforms back.
// Tunables  WT  tiles per register tile (default 14)   KC  output blocks between two transforms back, even (default 4)
// Order     tiles lie on the grid of the whole image, each sum runs over c: same bits for every block size.
// Accuracy  the transforms amplify rounding: errors are within 16 times the direct kernel's bound
//           (Lavin and Gray 2016; measured in tests/test_winograd.py).

#include "winograd.h"

#ifndef WT
#define WT 14
#endif
#ifndef KC
#define KC 4
#endif
#ifndef FLIP
#define FLIP 0
#endif

// One dimension of G w: 3 values to 6.
#define FILTER_6(o, stride, a, b, c)                                \
    {                                                               \
        const VF even = (a + c) * (real)(-1.0 / 6), odd = b * (real)(-1.0 / 6);  \
        const VF wide = a * (real)(1.0 / 24) + c * (real)(1.0 / 6), half_odd = b * (real)(1.0 / 12); \
        o[0] = a * (real)0.25;                                      \
        o[stride] = even + odd;                                     \
        o[2 * stride] = even - odd;                                 \
        o[3 * stride] = wide + half_odd;                            \
        o[4 * stride] = wide - half_odd;                            \
        o[5 * stride] = c;                                          \
    }

__kernel void winograd_filter(TENSOR(const, w), TENSOR(, u), int items, int k_blocks, int c_blocks)
{
    const int item = get_global_id(0); // [k block, up to an even number][c]
    if (item >= items)
        return;
    const int c = item % (c_blocks * B), kb = item / (c_blocks * B);
    const size_t plane = (size_t)c_blocks * B * 2;
    __global VF *target = BLOCKS_AT(, u) + kb / 2 * 36 * plane + c * 2 + kb % 2;
    VF taps[9], rows[18];
    for (int t = 0; t < 9; t++)
        taps[t] = kb < k_blocks
                      ? BLOCKS_AT(const, w)[(((size_t)kb * c_blocks + c / B) * 9 + (FLIP ? 8 - t : t)) * B + c % B]
                      : (VF)(0);
    for (int s = 0; s < 3; s++)
        FILTER_6((rows + s), 3, taps[s], taps[3 + s], taps[6 + s])
    for (int i = 0; i < 6; i++) {
        VF out[6];
        FILTER_6(out, 1, rows[3 * i], rows[3 * i + 1], rows[3 * i + 2])
        for (int j = 0; j < 6; j++)
            target[(i * 6 + j) * plane] = out[j];
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void winograd_conv(
    PIECES_OF(x), TENSOR(const, u), TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y),
    TENSOR(, scratch), int tiles, int tiles_h, int tiles_w, int c_total, int h_in, int w_in, int k_total, int p_out, int q_out, int pad_top, int pad_left,
    int tile_blocks, int block_tiles, int shares, int activation, float slope)
{
    const int worker = get_global_id(0), workers = get_global_size(0);
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total), pairs = (k_blocks + 1) / 2;
    __global VF *spectra = BLOCKS_AT(, scratch) + (size_t)worker * 36 * block_tiles * (c_blocks + KC);
    __global VF *products = spectra + (size_t)36 * block_tiles * c_blocks;
    const int works = tile_blocks * shares, last_work = (long)works * (worker + 1) / workers;
    int transformed = -1;
    for (int work = (long)works * worker / workers; work < last_work; work++) {
        const int t0 = work / shares * block_tiles, count = min(block_tiles, tiles - t0), share = work % shares;
        for (int cb = t0 == transformed ? c_blocks : 0; cb < c_blocks; cb++)
            for (int t = 0; t < count; t++) {
                const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                const int row = tile / tiles_w % tiles_h * 4 - pad_top, col = tile % tiles_w * 4 - pad_left;
                transform_input_tile((__global const VF *)PIECE_BLOCK(x, n, cb), row, col, h_in, w_in,
                                     spectra + (size_t)cb * block_tiles + t, (size_t)c_blocks * block_tiles);
            }
        transformed = t0;
        // Output blocks in shares of whole pairs, KC at a time.
        const int first = (long)pairs * share / shares * 2, last = (long)pairs * (share + 1) / shares * 2;
        for (int kb0 = first; kb0 < last; kb0 += KC) {
            const int chunk = min(KC, last - kb0);
            for (int xi = 0; xi < 36; xi++)
                for (int j = 0; j < chunk; j += 2) {
                    __global const VF *filter = BLOCKS_AT(const, u) +
                                                ((size_t)(kb0 + j) / 2 * 36 + xi) * c_blocks * B * 2;
                    for (int t = 0; t < count; t += WT) {
                        VF even[WT], odd[WT];
                        UNROLL for (int i = 0; i < WT; i++)
                            even[i] = odd[i] = (VF)(0);
                        __global const VF *tap = filter;
                        for (int cb = 0; cb < c_blocks; cb++) {
                            __global const real *v =
                                (__global const real *)(spectra + ((size_t)xi * c_blocks + cb) * block_tiles + t);
                            const int channels = min(B, c_total - cb * B);
                            for (int c = 0; c < channels; c++) {
                                const VF w0 = tap[0], w1 = tap[1];
                                tap += 2;
                                UNROLL for (int i = 0; i < WT; i++) {
                                    const VF value = (VF)(v[i * B + c]);
                                    even[i] = fma(value, w0, even[i]);
                                    odd[i] = fma(value, w1, odd[i]);
                                }
                            }
                        }
                        __global VF *product = products + ((size_t)xi * KC + j) * block_tiles + t;
                        UNROLL for (int i = 0; i < WT; i++) {
                            product[i] = even[i];
                            product[block_tiles + i] = odd[i];
                        }
                    }
                }
            for (int j = 0; j < min(chunk, k_blocks - kb0); j++) {
                const VF offset = bias_buffer ? BLOCKS_AT(const, bias)[kb0 + j] : (VF)(0);
                for (int t = 0; t < count; t++) {
                    const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                    const int row = tile / tiles_w % tiles_h * 4, col = tile % tiles_w * 4;
                    __global const VF *m = products + (size_t)j * block_tiles + t;
                    VF half_way[24];
                    UNROLL for (int i = 0; i < 6; i++) {
                        const size_t s = (size_t)KC * block_tiles;
                        output_4(m[i * s], m[(6 + i) * s], m[(12 + i) * s], m[(18 + i) * s], m[(24 + i) * s],
                                 m[(30 + i) * s], half_way + i, 6);
                    }
                    __global VF *out = OUTPUT_BLOCK(y, n, kb0 + j) + row * q_out + col;
                    __global const VF *add = BLOCKS_AT(const, residual) +
                                             ((size_t)n * y_depth + kb0 + j) * residual_plane + row * q_out + col;
                    UNROLL for (int p = 0; p < 4; p++) {
                        VF results[4];
                        __private VF *r = half_way + 6 * p;
                        output_4(r[0], r[1], r[2], r[3], r[4], r[5], results, 1);
                        if (row + p < p_out) {
                            UNROLL for (int q = 0; q < 4; q++) {
                                if (col + q < q_out) {
                                    VF result = results[q] + offset;
                                    if (residual_buffer)
                                        result += add[p * q_out + q];
                                    result = activate(result, activation, slope);
                                    out[p * q_out + q] =
                                        activation == SIGMOID ? keep_channels(result, kb0 + j, k_total) : result;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
