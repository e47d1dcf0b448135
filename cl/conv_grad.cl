// conv_grad.cl -- gradients of a convolution with respect to its weights and its bias, in two passes each.
//
//   conv_grad_w     partial sums of dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] x[n, c, i, j], i = p*stride - pad +
//                   r*dilation, likewise j, over a chunk of the rows (n, p); one work-item: chunk, `spans` times KB
//                   output blocks, `depths` input blocks, which rows that are near serve one after the other
//   conv_grad_whole the same sums over all rows, not stored in between: with UPDATE w is stepped (optimizer.h); for
//                   small images, of which x and dy stay in the cache for all taps; one group of channels
//   channel_sum     partial sums of db[k] = sum over n,p,q of dy[n,k,p,q] over a chunk of the rows
//   sum_parts       adds the partial sums in order: same bits every time; UPDATE as above
//
// Tensors   x channel blocks or, with PLANAR, [N][C][H][W]; dy channel blocks; dw filter blocks
// Launch    conv_grad_w: global (chunks, input blocks per output block / depths, output blocks / KB / spans), with
//           groups of channels depths and spans are 1; conv_grad_whole: (1, input blocks, output blocks / KB);
//           channel_sum: (chunks, blocks); sum_parts: (VFs of the sum); the numbers of chunks depend on the layer's
//           shape alone
// Tunables  KB    output blocks that an item sums at a time, a divisor of their number; 1 with groups (default 1)
//           CT    input channels likewise (default: of planar x 1, else all of a block, B)
//           ST    with PLANAR, taps of a row likewise, a divisor of the kernel's width (default 1)
//           TAPS  CT * ST, as a number
// Order     within a chunk by n, then p, q, whatever the tunables; what no channel pair of a group owns is written as
//           zero

#include "optimizer.h"

#ifndef PLANAR
#define PLANAR 0
#endif

#ifndef CT
#if PLANAR
#define CT 1
#else
#define CT B
#endif
#endif
#ifndef ST
#define ST 1
#endif
#ifndef TAPS
#define TAPS CT
#endif
#ifndef KB
#define KB 1
#endif

// Sums of an item: a vector of output channels for each of KB output blocks and, of x, each of CT channels and ST taps
// of a row. A dy serves all of x's, a value of x all output blocks.
#define CHANNEL_OF(i) ((i) / ST)
#define COLUMN_OF(i) ((i) % ST * dilation_w)
#define SUM_AT(j, i) taps[(j) * block_sums + (i) % ST * B + CHANNEL_OF(i)]
#define CLEAR_SUM(j, i) acc[j][i] = (VF)(0);
#define CLEAR_SUMS(i, a) REPEAT_4(KB, CLEAR_SUM, i)
#define LOAD_SUM(j, i) acc[j][i] = SUM_AT(j, i);
#define LOAD_SUMS(i, a) REPEAT_4(KB, LOAD_SUM, i)
#define STORE_SUM(j, i) SUM_AT(j, i) = acc[j][i];
#define STORE_SUMS(i, a) REPEAT_4(KB, STORE_SUM, i)
#define PUT_SUM(j, i) PUT_GRADIENT(total, first + (j) * block_sums + (i) % ST * B + CHANNEL_OF(i), acc[j][i]);
#define PUT_SUMS(i, a) REPEAT_4(KB, PUT_SUM, i)
#define LOAD_DY(j, q) dy_at[j] = dy_row[(j) * (size_t)p_out * q_out + (q)];
#define MULTIPLY_ADD(j, i) acc[j][i] = fma(value, dy_at[j], acc[j][i]);
#if PLANAR
#define X_AT(i) line[CHANNEL_OF(i) * (size_t)plane + q * stride_w + COLUMN_OF(i)]
#else
#define X_AT(i) line[(size_t)q * stride_w * B + (i)]
#endif
#define MULTIPLY(i, a)                   \
    {                                    \
        const VF value = (VF)(X_AT(i));  \
        REPEAT_4(KB, MULTIPLY_ADD, i)    \
    }
#define MULTIPLY_INSIDE(i, a)                                                                       \
    if (q * stride_w - shift + COLUMN_OF(i) >= 0 && q * stride_w - shift + COLUMN_OF(i) < w_in) \
        MULTIPLY(i, a)
#define MULTIPLY_PIXELS(first, last, STEP)        \
    for (int q = (first); q < (last); q++) {      \
        VF dy_at[KB];                             \
        REPEAT_4(KB, LOAD_DY, q)                  \
        REPEAT(TAPS, STEP, 0)                     \
    }

// Rows p_first .. p_last - 1 of one image for tap (r, s), with PLANAR of ST taps from s, of CT channels from c0: added
// to acc. Columns q all of whose taps lie inside the row, q*stride - pad + s*dilation in [0, w_in), are q_first ..
// q_last - 1.
#define ADD_ROWS                                                                                       \
    {                                                                                                  \
        const int shift = pad_left - s * dilation_w, room = w_in - 1 + shift - (ST - 1) * dilation_w;  \
        const int q_first = clamp((shift + stride_w - 1) / stride_w, 0, q_out);                        \
        const int q_last = room < 0 ? q_first : clamp(room / stride_w + 1, q_first, q_out);            \
        for (int p = p_first; p < p_last; p++) {                                                       \
            const int h = p * stride_h - pad_top + r * dilation_h;                                     \
            if (h < 0 || h >= h_in)                                                                    \
                continue;                                                                              \
            __global const VF *dy_row = dy_block + (size_t)p * q_out;                                  \
            __global const real *line = LINE_OF(h);                                                    \
            BORDER_PIXELS(0, q_first)                                                                  \
            MULTIPLY_PIXELS(q_first, q_last, MULTIPLY)                                                 \
            BORDER_PIXELS(q_last, q_out)                                                               \
        }                                                                                              \
    }
#if PLANAR
#define BLOCK_OF(n) (AT(x) + ((size_t)(n) * c_total + cb * B) * plane)
#define LINE_OF(h) block + (size_t)c0 * plane + (size_t)(h) * w_in - shift
#define BORDER_PIXELS(first, last) MULTIPLY_PIXELS(first, last, MULTIPLY_INSIDE) // some of the taps lie inside
#else
#define BLOCK_OF(n) (AT(x) + ((size_t)(n) * c_blocks + cb) * plane * B)
#define LINE_OF(h) block + ((long)(h) * w_in - shift) * B + c0
#define BORDER_PIXELS(first, last)
#endif
#define DY_OF(n) (BLOCKS_AT(const, dy) + ((size_t)(n) * k_blocks + kb) * p_out * q_out)

#define ADD_PIXEL(i, a) sum[i] += dy_row[q + (i)];

#define GEOMETRY                                                                                               \
    int batch, int c_total, int h_in, int w_in, int k_total, int p_out, int q_out, int kernel_h, int kernel_w, \
        int stride_h, int stride_w, int pad_top, int pad_left, int dilation_h, int dilation_w

// Of an item's pairs of KB output blocks, from kb on, and an input block, cb: their sums, `part`.
#define FOR_PAIRS                                                                                                      \
    for (int pair = 0, kb = first_kb; pair < spans && kb < k_blocks; pair++, kb += KB)                                 \
        for (int depth = first_depth; depth < last_depth; depth++)
#define PAIR                                                                                                           \
    const int cb = kb * B / k_per_group * c_per_group / B + depth;                                                     \
    const int channels = min(B, c_total - cb * B); /* not positive past the last block: zeros are written */          \
    __global VF *part =                                                                                                \
        BLOCKS_AT(, parts) + ((size_t)chunk * k_blocks + kb) * block_sums + (size_t)depth * taps_of_block;

// rows_at_once: rows of an image, whose x and dy stay in the nearest cache while all taps pass over them
__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void conv_grad_w(
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, parts), GEOMETRY, int filter_depth, int k_per_group, int c_per_group,
    int rows_per_chunk, int rows_at_once, int depths, int spans)
{
    const int chunk = get_global_id(0), first_kb = get_global_id(2) * spans * KB;
    const int first_depth = get_global_id(1) * depths, last_depth = min(first_depth + depths, filter_depth);
    const int plane = h_in * w_in, k_blocks = BLOCKS(k_total), c_blocks = BLOCKS(c_total);
    const int taps_of_block = kernel_h * kernel_w * B;
    const size_t block_sums = (size_t)filter_depth * taps_of_block;
    const int first_row = chunk * rows_per_chunk, last_row = min(first_row + rows_per_chunk, batch * p_out);

    FOR_PAIRS
    {
        PAIR
        for (int j = 0; j < KB; j++)
            for (int t = 0; t < taps_of_block; t++)
                part[j * block_sums + t] = (VF)(0);
    }
    int row = first_row;
    while (row < last_row) {
        const int n = row / p_out, p_first = row % p_out;
        const int p_last = min(p_out, p_first + min(rows_at_once, last_row - row));
        FOR_PAIRS
        {
            PAIR
            __global const real *block = BLOCK_OF(n);
            __global const VF *dy_block = DY_OF(n);
            for (int r = 0; r < kernel_h; r++)
                for (int c0 = 0; c0 < channels; c0 += CT)
                    for (int s = 0; s < kernel_w; s += ST) {
                        __global VF *taps = part + (r * kernel_w + s) * B + c0;
                        VF acc[KB][TAPS];
                        REPEAT(TAPS, LOAD_SUMS, 0)
                        ADD_ROWS
                        REPEAT(TAPS, STORE_SUMS, 0)
                    }
        }
        row += p_last - p_first;
    }
    if (k_per_group < k_total) {
        // Lanes of other groups share the block: their sums are no weights.
        FOR_PAIRS
        {
            PAIR
            for (int t = 0; t < taps_of_block; t++) {
                const int group = (cb * B + t % B) / c_per_group;
                const VI lane_group = (LANES + kb * B) / k_per_group;
                part[t] = select((VF)(0), part[t], lane_group == (VI)(group));
            }
        }
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void conv_grad_whole(
    TENSOR(const, x), TENSOR(const, dy), GRADIENT(total), GEOMETRY)
{
    const int cb = get_global_id(1), kb = get_global_id(2) * KB;
    const int plane = h_in * w_in, k_blocks = BLOCKS(k_total), c_blocks = BLOCKS(c_total);
    const int p_first = 0, p_last = p_out;
    const size_t block_sums = (size_t)c_blocks * kernel_h * kernel_w * B;
    GRADIENT_SETTINGS
    for (int r = 0; r < kernel_h; r++)
        for (int c0 = 0; c0 < B; c0 += CT)
            for (int s = 0; s < kernel_w; s += ST) {
                VF acc[KB][TAPS];
                REPEAT(TAPS, CLEAR_SUMS, 0)
                for (int n = 0; n < batch; n++) {
                    __global const real *block = BLOCK_OF(n);
                    __global const VF *dy_block = DY_OF(n);
                    ADD_ROWS
                }
                const size_t first = kb * block_sums + (((size_t)cb * kernel_h + r) * kernel_w + s) * B + c0;
                REPEAT(TAPS, PUT_SUMS, 0)
            }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void channel_sum(
    TENSOR(const, dy), TENSOR(, parts), int batch, int k_blocks, int p_out, int q_out, int rows_per_chunk)
{
    const int chunk = get_global_id(0), kb = get_global_id(1);
    const int first_row = chunk * rows_per_chunk, last_row = min(first_row + rows_per_chunk, batch * p_out);
    VF sum[4] = {(VF)(0), (VF)(0), (VF)(0), (VF)(0)};
    for (int row = first_row; row < last_row; row++) {
        const int n = row / p_out, p = row % p_out;
        __global const VF *dy_row = BLOCKS_AT(const, dy) + (((size_t)n * k_blocks + kb) * p_out + p) * q_out;
        int q = 0;
        for (; q + 4 <= q_out; q += 4) {
            REPEAT(4, ADD_PIXEL, 0)
        }
        for (; q < q_out; q++)
            sum[0] += dy_row[q];
    }
    BLOCKS_AT(, parts)[(size_t)chunk * k_blocks + kb] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

__kernel void sum_parts(TENSOR(const, parts), GRADIENT(total), int items, int chunks)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    GRADIENT_SETTINGS
    VF gradient = (VF)(0);
    for (int chunk = 0; chunk < chunks; chunk++)
        gradient += BLOCKS_AT(const, parts)[(size_t)chunk * items + item];
    PUT_GRADIENT(total, item, gradient);
}
