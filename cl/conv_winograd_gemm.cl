// conv_winograd_gemm.cl -- Winograd's F(4x4, 3x3) for GPUs: the transforms around 36 matrix products at once.
//
//   winograd_input    v[xi] = (B^T d B)[xi] for a range of 6x6 input tiles and all input channels
//   winograd_output   y = f(residual + b + A^T m A) for the same range, from the products m[xi] = u[xi] v[xi] that
//                     conv_gemm.cl computes (groups are the 36 values xi, pixels the tiles)
//
// Tensors   x, y, residual channel blocks; bias [K/B][B]; v [36][C/B][tiles][B]; m [36][2*ceil(K/2B)][tiles][B]
// Launch    1-D: one item per tile of the range and channel block, neighbours are neighbouring tiles; work-group (WG)
// Tunables  WG  work-items per group (default 64)
// Order     tiles lie on the grid of the whole image: the same bits for every range
// Accuracy  as conv_winograd.cl

#include "winograd.h"

#ifndef WG
#define WG 64
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void winograd_input(
    PIECES_OF(x), TENSOR(, v), int first, int count, int c_blocks, int tiles_h, int tiles_w, int h_in, int w_in,
    int pad_top, int pad_left)
{
    const int item = get_global_id(0), tile = first + item % count, cb = item / count;
    if (cb >= c_blocks)
        return;
    const int n = tile / (tiles_h * tiles_w);
    const int row = tile / tiles_w % tiles_h * 4 - pad_top, col = tile % tiles_w * 4 - pad_left;
    transform_input_tile((__global const VF *)PIECE_BLOCK(x, n, cb), row, col, h_in, w_in, BLOCKS_AT(, v) + item,
                         (size_t)c_blocks * count);
}

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void winograd_output(
    TENSOR(const, m), TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y), int first, int count,
    int k_total, int pairs, int tiles_h, int tiles_w, int p_out, int q_out, int activation, float slope)
{
    const int item = get_global_id(0), tile = first + item % count, kb = item / count;
    if (kb >= BLOCKS(k_total))
        return;
    const int n = tile / (tiles_h * tiles_w), row = tile / tiles_w % tiles_h * 4, col = tile % tiles_w * 4;
    const size_t stride = (size_t)2 * pairs * count;
    __global const VF *product = BLOCKS_AT(const, m) + item;
    VF half_way[24];
    UNROLL for (int i = 0; i < 6; i++)
        output_4(product[i * stride], product[(6 + i) * stride], product[(12 + i) * stride], product[(18 + i) * stride],
                 product[(24 + i) * stride], product[(30 + i) * stride], half_way + i, 6);
    const VF offset = bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0);
    __global VF *out = OUTPUT_BLOCK(y, n, kb) + row * q_out + col;
    __global const VF *add =
        BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb) * residual_plane + row * q_out + col;
    UNROLL for (int p = 0; p < 4; p++) {
        VF results[4];
        __private VF *r = half_way + 6 * p;
        output_4(r[0], r[1], r[2], r[3], r[4], r[5], results, 1);
        UNROLL for (int q = 0; q < 4; q++) {
            if (row + p >= p_out || col + q >= q_out)
                continue;
            VF result = results[q] + offset;
            if (residual_buffer)
                result += add[p * q_out + q];
            result = activate(result, activation, slope);
            out[p * q_out + q] = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
        }
    }
}
