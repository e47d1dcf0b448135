// layout.cl -- conversions between row-major arrays and channel blocks, and the transpose of a filter.
//
//   to_blocks     [N][C][H][W] -> [N][C/B][H][W][B], tails zero     work-item: one block of one pixel
//   to_plain      the inverse                                       work-item: one block of one pixel
//   to_phases     [N][C][H][W] -> blocks (N, C*sh*sw, P, Q) of the phases of a stride (sh, sw): channel
//                 (c*sh + r)*sw + s of (p, q) is x[c, p*sh + r - pad_top, q*sw + s - pad_left], 0 outside
//                                                                             work-item: one block of one row
//   flatten       blocks (N, C, H, W) -> blocks (N, C*H*W, 1, 1) in NCHW order; a gather
//   unflatten     its inverse, which is also its gradient
//   shift_rows    moves rows of every plane towards its first, in place; work-item: one ROW, a block or a value
//   copy_columns  columns of an image to columns of another one; 2-D: columns, then rows of all planes
//                                                                   work-item: the same
//   filter_swap   filter (K, C/g, R, S) -> filter (C, K/g, R, S): input and output channels change places
//   filter_turn   the same where there is one group: a tap of a pair of blocks per work-item, B x B values transposed
//
// Launch    1-D over work-items as named but for 2-D ones, any work-group size; the guard is `items`, or `width`
// Tunables  ROW_HALF  rows that are moved or copied hold float16; ROW_PLAIN: of row-major images

#include "common.h"

#ifdef ROW_HALF
typedef ushort row_t;
#if B == 1
typedef ushort row_block;
#else
typedef PASTE(ushort, B) row_block;
#endif
#else
typedef real row_t;
typedef VF row_block;
#endif
#ifdef ROW_PLAIN
#define ROW row_t
#else
#define ROW row_block
#endif

// x_plane, y_plane: pixels from one channel, or block of channels, to the next; `plane` of them are converted
__kernel void to_blocks(TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int c_blocks = BLOCKS(channels);
    const int pixel = item % plane, cb = item / plane % c_blocks, n = item / plane / c_blocks;
    __global const real *source = AT(x) + ((size_t)n * channels + cb * B) * x_plane + pixel;
    __global real *target = AT(y) + ((size_t)(item / plane) * y_plane + pixel) * B;
    for (int c = 0; c < B; c++)
        target[c] = cb * B + c < channels ? source[(size_t)c * x_plane] : 0;
}

// WG: work-items per group: with many, some compilers scatter what several of them write.
#ifndef WG
#define WG 1
#endif
// ACROSS: phases that lie side by side in x and in a block, the stride or 1.
#ifndef ACROSS
#define ACROSS 1
#endif
#if ACROSS == 1
#define LOAD_ACROSS(p) (*(p))
#define STORE_ACROSS(v, p) *(p) = v
typedef real phases_t;
#elif ACROSS == 2
#define LOAD_ACROSS(p) vload2(0, p)
#define STORE_ACROSS(v, p) vstore2(v, 0, p)
typedef float2 phases_t;
#else
#define LOAD_ACROSS(p) vload4(0, p)
#define STORE_ACROSS(v, p) vstore4(v, 0, p)
typedef float4 phases_t;
#endif
#define PARTS (B / ACROSS)

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void to_phases(
    TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int channels, int h_in, int w_in, int rows,
    int columns, int stride_h, int stride_w, int pad_top, int pad_left)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int phases = channels * stride_h * stride_w, c_blocks = BLOCKS(phases);
    const int row = item % rows, cb = item / rows % c_blocks, n = item / rows / c_blocks;
    __global real *target = AT(y) + ((size_t)(item / rows) * y_plane + row * columns) * B;
    long lines[PARTS]; // where the row of x begins that a part of the block comes from
    int inside[PARTS];
    for (int i = 0; i < PARTS; i++) {
        const int phase = cb * B + i * ACROSS, c = min(phase / (stride_h * stride_w), channels - 1);
        const int h = row * stride_h + phase / stride_w % stride_h - pad_top;
        inside[i] = phase < phases && h >= 0 && h < h_in;
        lines[i] = ((long)n * channels + c) * x_plane + (inside[i] ? h : 0) * w_in;
    }
    const int begin = min(columns, (pad_left + stride_w - 1) / stride_w);
    const int end = max(begin, min(columns, (w_in + pad_left) / stride_w));
    for (int q = begin; q < end; q++) {
        UNROLL for (int i = 0; i < PARTS; i++) {
            const int w = q * stride_w - pad_left + (cb * B + i * ACROSS) % stride_w;
            const phases_t found = LOAD_ACROSS(AT(x) + lines[i] + w);
            STORE_ACROSS(inside[i] ? found : (phases_t)(0), target + q * B + i * ACROSS);
        }
    }
    for (int q = begin ? 0 : end; q < columns; q = q + 1 == begin ? end : q + 1)
        for (int lane = 0; lane < B; lane++) {
            const int part = lane / ACROSS, w = q * stride_w - pad_left + (cb * B + lane) % stride_w;
            target[q * B + lane] = inside[part] && w >= 0 && w < w_in ? AT(x)[lines[part] + w] : 0;
        }
}

__kernel void to_plain(TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int c_blocks = BLOCKS(channels);
    const int pixel = item % plane, cb = item / plane % c_blocks, n = item / plane / c_blocks;
    __global const real *source = AT(x) + ((size_t)(item / plane) * x_plane + pixel) * B;
    __global real *target = AT(y) + ((size_t)n * channels + cb * B) * y_plane + pixel;
    for (int c = 0; c < min(B, channels - cb * B); c++)
        target[(size_t)c * y_plane] = source[c];
}

// Where element `flat` of image n, counted in CHW order, sits in a tensor of channel blocks.
static inline size_t block_index(int n, int flat, int channels, int plane)
{
    const int c = flat / plane, pixel = flat % plane;
    return (((size_t)n * BLOCKS(channels) + c / B) * plane + pixel) * B + c % B;
}

__kernel void flatten(TENSOR(const, x), TENSOR(, y), int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int length = channels * plane, padded = BLOCKS(length) * B;
    const int n = item / padded, flat = item % padded;
    AT(y)[item] = flat < length ? AT(x)[block_index(n, flat, channels, plane)] : 0;
}

__kernel void unflatten(TENSOR(const, x), TENSOR(, y), int items, int channels, int plane)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int length = channels * plane, padded = BLOCKS(length) * B;
    const int c = item / (plane * B) % BLOCKS(channels) * B + item % B;
    const int pixel = item / B % plane, n = item / (plane * B) / BLOCKS(channels);
    AT(y)[item] = c < channels ? AT(x)[(size_t)n * padded + c * plane + pixel] : 0;
}

// First input block that output block kb of a grouped filter reads (shapes.py: filter_start).
static inline int filter_start(int kb, int k_per_group, int c_per_group)
{
    return kb * B / k_per_group * c_per_group / B;
}

__kernel void filter_swap(TENSOR(const, w), TENSOR(, swapped), int items, int k_total, int c_total, int k_per_group,
                          int c_per_group, int taps, int depth, int swapped_depth)
{
    const int item = get_global_id(0); // one row of B values of c: [c block][j][tap][k lane]
    if (item >= items)
        return;
    const int k_lane = item % B, tap = item / B % taps, j = item / B / taps % swapped_depth;
    const int cb = item / B / taps / swapped_depth;
    const int k = (filter_start(cb, c_per_group, k_per_group) + j) * B + k_lane, kb = k / B;
    const int first = filter_start(kb, k_per_group, c_per_group);
    __global real *target = AT(swapped) + (size_t)item * B;
    for (int lane = 0; lane < B; lane++) {
        const int c = cb * B + lane;
        const bool owned = k < k_total && c < c_total && k / k_per_group == c / c_per_group;
        const size_t source = (((size_t)kb * depth + cb - first) * taps + tap) * B + lane;
        target[lane] = owned ? AT(w)[source * B + k % B] : 0;
    }
}

__kernel void filter_turn(TENSOR(const, w), TENSOR(, swapped), int items, int k_blocks, int c_blocks, int taps)
{
    const int item = get_global_id(0); // [c block][k block][tap]
    if (item >= items)
        return;
    const int tap = item % taps, kb = item / taps % k_blocks, cb = item / taps / k_blocks;
    __global const VF *source = BLOCKS_AT(const, w) + (((size_t)kb * c_blocks + cb) * taps + tap) * B;
    __global VF *target = BLOCKS_AT(, swapped) + (size_t)item * B;
#if B == 1
    target[0] = source[0];
#else
    // Merging the halves lane by lane, once for each bit of a lane's number, is a transpose.
    VF rows[B], merged[B];
    UNROLL for (int c = 0; c < B; c++)
        rows[c] = source[c];
    UNROLL for (int bit = 1; bit < B; bit *= 2) {
        UNROLL for (int i = 0; i < B / 2; i++) {
            merged[2 * i].even = rows[i].lo;
            merged[2 * i].odd = rows[i + B / 2].lo;
            merged[2 * i + 1].even = rows[i].hi;
            merged[2 * i + 1].odd = rows[i + B / 2].hi;
        }
        UNROLL for (int i = 0; i < B; i++)
            rows[i] = merged[i];
    }
    UNROLL for (int k = 0; k < B; k++)
        target[k] = rows[k];
#endif
}

__kernel void shift_rows(TENSOR_OF(, row_t, x), int items, int width, int plane, int from, int to, int rows)
{
    const int item = get_global_id(0); // [plane][column]: one work-item moves a column, whose rows may overlap
    if (item >= items)
        return;
    __global ROW *column = (__global ROW *)AT(x) + (size_t)(item / width) * plane + item % width;
    for (int row = 0; row < rows; row++)
        column[(size_t)(to + row) * width] = column[(size_t)(from + row) * width];
}

// x_plane, x_width: pixels from one plane of x to the next, and from one of its rows to the next; x_begin: the first
// column of x that is copied; y likewise. rows: of each plane.
__kernel void copy_columns(TENSOR_OF(const, row_t, x), int x_plane, int x_width, int x_begin, TENSOR_OF(, row_t, y),
                           int y_plane, int y_width, int y_begin, int width, int rows)
{
    const int column = get_global_id(0), row = get_global_id(1) % rows;
    const size_t plane = get_global_id(1) / rows;
    if (column >= width)
        return;
    __global const ROW *source = (__global const ROW *)AT(x) + plane * x_plane + (size_t)row * x_width;
    __global ROW *target = (__global ROW *)AT(y) + plane * y_plane + (size_t)row * y_width;
    target[y_begin + column] = source[x_begin + column];
}
