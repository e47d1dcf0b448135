// conv_winograd_gemm.cl -- Winograd's F(4x4, 3x3) and F(2x2, 3x3) for GPUs: the transforms around matrix products,
// 36 or 16 of them
//                          at once.
//
//   winograd_filter   u = G w G^T for each pair of channels
//   winograd_input    v[xi] = (B^T d B)[xi] for a range of input tiles, SIDE x SIDE, and all input channels
//   winograd_output   y = f(residual + b + A^T m A) for the same range, from the products m[xi] = u[xi] v[xi] that
//                     conv_gemm.cl computes (groups are the values xi, pixels the tiles)
//
// Tensors   x, y, residual channel blocks; bias [K/B][B]; w filter blocks, taps reversed with FLIP (input gradient);
//           for POINTS = SIDE * SIDE: u [ceil(K/2B)][POINTS][C][2][B], v [POINTS][C/B][tiles][B],
//           m [POINTS][2*ceil(K/2B)][tiles][B]
// Launch    1-D: one item per tile of the range and channel block, neighbours are neighbouring tiles; winograd_filter:
//           one per output block and input channel; work-group (WG)
// Tunables  WG  work-items per group (default 64)   SIDE  6: F(4x4, 3x3), or 4: F(2x2, 3x3) (default 6)
// Order     tiles lie on the grid of the whole image: the same bits for every range
// Accuracy  as conv_winograd.cl; with SIDE 4, whose transforms only add, within 4 times the direct kernel's bound

#include "winograd.h"

#ifndef WG
#define WG 64
#endif
#ifndef FLIP
#define FLIP 0
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void winograd_filter(
    TENSOR(const, w), TENSOR(, u), int items, int k_blocks, int c_blocks)
{
    const int item = get_global_id(0); // [k block, up to an even number][c]
    if (item >= items)
        return;
    const int c = item % (c_blocks * B), kb = item / (c_blocks * B);
    const size_t plane = (size_t)c_blocks * B * 2;
    __global VF *target = BLOCKS_AT(, u) + kb / 2 * SIDE * SIDE * plane + c * 2 + kb % 2;
    __global const VF *filter = BLOCKS_AT(const, w) + ((size_t)kb * c_blocks + c / B) * TAPS * TAPS * B + c % B;
    VF rows[SIDE * TAPS];
    for (int s = 0; s < TAPS; s++) {
        VF taps[TAPS];
        for (int r = 0; r < TAPS; r++) {
            const int tap = TAPS * r + s;
            taps[r] = kb < k_blocks ? filter[(FLIP ? TAPS * TAPS - 1 - tap : tap) * B] : (VF)(0);
        }
        FILTER_ROW(rows + s, TAPS, taps)
    }
    for (int i = 0; i < SIDE; i++) {
        VF out[SIDE];
        __private const VF *row = rows + TAPS * i;
        FILTER_ROW(out, 1, row)
        for (int j = 0; j < SIDE; j++)
            target[(i * SIDE + j) * plane] = out[j];
    }
}

__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void winograd_input(
    PIECES_OF(x), TENSOR(, v), int first, int count, int c_blocks, int tiles_h, int tiles_w, int h_in, int w_in,
    int pad_top, int pad_left)
{
    const int item = get_global_id(0), tile = first + item % count, cb = item / count;
    if (cb >= c_blocks)
        return;
    const int n = tile / (tiles_h * tiles_w);
    const int row = tile / tiles_w % tiles_h * OUT - pad_top, col = tile % tiles_w * OUT - pad_left;
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
    const int n = tile / (tiles_h * tiles_w), row = tile / tiles_w % tiles_h * OUT, col = tile % tiles_w * OUT;
    const size_t at = (size_t)row * q_out + col;
    __global const VF *add = BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb) * residual_plane + at;
    write_output_tile(BLOCKS_AT(const, m) + item, (size_t)2 * pairs * count, OUTPUT_BLOCK(y, n, kb) + at, 0,
                      residual_buffer ? add : 0, bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0), row, col, p_out,
                      q_out, kb, k_total, activation, slope);
}
