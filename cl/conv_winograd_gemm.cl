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
    const size_t at = (size_t)row * q_out + col;
    __global const VF *add = BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb) * residual_plane + at;
    write_output_tile(BLOCKS_AT(const, m) + item, (size_t)2 * pairs * count, OUTPUT_BLOCK(y, n, kb) + at,
                      residual_buffer ? add : 0, bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0), row, col, p_out,
                      q_out, kb, k_total, activation, slope);
}
