// conv_grad.cl -- gradients of a convolution with respect to its weights and its bias, in two passes each.
//
//   conv_grad_w     partial sums of dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] x[n, c, p*stride - pad + r*dilation, ...]
//                   over a chunk of the rows (n, p); one work-item: chunk, output block, input block
//   channel_sum     partial sums of db[k] = sum over n,p,q of dy[n,k,p,q] over a chunk of the rows
//   sum_parts       adds the partial sums in order: same bits every time; with UPDATE the sum is not stored, but w is
//                   stepped (optimizer.h)
//
// Tensors   x channel blocks or, with PLANAR, [N][C][H][W]; dy channel blocks; dw filter blocks
// Launch    conv_grad_w: global (chunks, input blocks per output block, output blocks); channel_sum: (chunks, blocks);
//           sum_parts: (VFs of the sum); the numbers of chunks depend on the layer's shape alone
// Tunables  CT  input channels that an item sums at a time (default: of planar x 1, else all of a block, B)
//           ST  with PLANAR, taps of a row that it sums at a time, a divisor of the kernel's width (default 1)
//           TAPS  CT * ST, as a number
// Order     within a chunk by n, then p, q; what no channel pair of a group owns is written as zero

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
#define TAPS 1
#endif

// Steps of conv_grad_w: the sums of one tap, a vector of output channels for each input channel c.
#define LOAD_SUM(c, a) acc[c] = tap[c];
#define STORE_SUM(c, a) tap[c] = acc[c];
#define MULTIPLY_ADD(c, a) acc[c] = fma((VF)(block[pixel * B + (c)]), g, acc[c]);
// The same for planar x, where they are the sums of CT channels times ST taps of a row: one dy serves them all.
#define TAP_CHANNEL(i) ((i) / ST)
#define TAP_COLUMN(i) ((i) % ST * dilation_w)
#define TAP_SUM(i) taps[(i) % ST * B + TAP_CHANNEL(i)]
#define LOAD_TAP(i, a) acc[i] = TAP_SUM(i);
#define STORE_TAP(i, a) TAP_SUM(i) = acc[i];
#define MULTIPLY_TAP(i, a) \
    acc[i] = fma((VF)(line[TAP_CHANNEL(i) * (size_t)plane + q * stride_w + TAP_COLUMN(i)]), g, acc[i]);
#define MULTIPLY_TAP_INSIDE(i, a)                                                            \
    if (q * stride_w - shift + TAP_COLUMN(i) >= 0 && q * stride_w - shift + TAP_COLUMN(i) < w_in) \
        MULTIPLY_TAP(i, a)
#define MULTIPLY_TAPS(STEP)         \
    {                               \
        const VF g = dy_row[q];     \
        REPEAT(TAPS, STEP, 0)       \
    }
#define ADD_PIXEL(i, a) sum[i] += dy_row[q + (i)];

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void conv_grad_w(
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, parts), int batch, int c_total, int h_in, int w_in, int k_total,
    int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left,
    int dilation_h, int dilation_w, int filter_depth, int k_per_group, int c_per_group, int rows_per_chunk)
{
    const int chunk = get_global_id(0), depth = get_global_id(1), kb = get_global_id(2);
    const int plane = h_in * w_in, k_blocks = BLOCKS(k_total), c_blocks = BLOCKS(c_total);
    const int cb = kb * B / k_per_group * c_per_group / B + depth;
    const int channels = min(B, c_total - cb * B); // not positive past the last block: zeros are written
    const size_t filter_blocks = (size_t)k_blocks * filter_depth;
    __global VF *part = BLOCKS_AT(, parts) +
                        ((size_t)chunk * filter_blocks + (size_t)kb * filter_depth + depth) * kernel_h * kernel_w * B;
    const int first_row = chunk * rows_per_chunk, last_row = min(first_row + rows_per_chunk, batch * p_out);

    for (int t = 0; t < kernel_h * kernel_w * B; t++)
        part[t] = (VF)(0);
    int row = channels > 0 ? first_row : last_row;
    while (row < last_row) {
        // The rows of one image: its blocks of x and dy stay in the cache while all taps pass over them.
        const int n = row / p_out, p_first = row % p_out, p_last = min(p_out, p_first + last_row - row);
#if PLANAR
        __global const real *block = AT(x) + ((size_t)n * c_total + cb * B) * plane;
#else
        __global const real *block = AT(x) + ((size_t)n * c_blocks + cb) * plane * B;
#endif
        __global const VF *dy_block = BLOCKS_AT(const, dy) + ((size_t)n * k_blocks + kb) * p_out * q_out;
#if PLANAR
        for (int r = 0; r < kernel_h; r++)
            for (int c0 = 0; c0 < channels; c0 += CT)
                for (int s0 = 0; s0 < kernel_w; s0 += ST) {
                    __global VF *taps = part + (r * kernel_w + s0) * B + c0;
                    VF acc[TAPS];
                    REPEAT(TAPS, LOAD_TAP, 0)
                    // Columns q all of whose taps lie inside the row: from q_first up to q_last.
                    const int shift = pad_left - s0 * dilation_w, room = w_in - 1 + shift - (ST - 1) * dilation_w;
                    const int q_first = clamp((shift + stride_w - 1) / stride_w, 0, q_out);
                    const int q_last = room < 0 ? q_first : clamp(room / stride_w + 1, q_first, q_out);
                    for (int p = p_first; p < p_last; p++) {
                        const int h = p * stride_h - pad_top + r * dilation_h;
                        if (h < 0 || h >= h_in)
                            continue;
                        __global const VF *dy_row = dy_block + (size_t)p * q_out;
                        __global const real *line = block + (size_t)c0 * plane + (size_t)h * w_in - shift;
                        for (int q = 0; q < q_first; q++)
                            MULTIPLY_TAPS(MULTIPLY_TAP_INSIDE)
                        for (int q = q_first; q < q_last; q++)
                            MULTIPLY_TAPS(MULTIPLY_TAP)
                        for (int q = q_last; q < q_out; q++)
                            MULTIPLY_TAPS(MULTIPLY_TAP_INSIDE)
                    }
                    REPEAT(TAPS, STORE_TAP, 0)
                }
#else
        for (int r = 0; r < kernel_h; r++)
            for (int s = 0; s < kernel_w; s++) {
                __global VF *tap = part + (r * kernel_w + s) * B;
                VF acc[CT];
                REPEAT(CT, LOAD_SUM, 0)
                // Columns q whose tap lies inside the row: q*stride - pad + s*dilation in [0, w_in)
                const int shift = pad_left - s * dilation_w;
                const int q_first = max(0, (shift + stride_w - 1) / stride_w);
                const int q_last = w_in - 1 + shift < 0 ? 0 : min(q_out, (w_in - 1 + shift) / stride_w + 1);
                for (int p = p_first; p < p_last; p++) {
                    const int h = p * stride_h - pad_top + r * dilation_h;
                    if (h < 0 || h >= h_in)
                        continue;
                    __global const VF *dy_row = dy_block + (size_t)p * q_out;
                    for (int q = q_first; q < q_last; q++) {
                        const VF g = dy_row[q];
                        const size_t pixel = (size_t)h * w_in + q * stride_w - shift;
                        REPEAT(CT, MULTIPLY_ADD, 0)
                    }
                }
                REPEAT(CT, STORE_SUM, 0)
            }
#endif
        row += p_last - p_first;
    }
    if (k_per_group < k_total) {
        // Lanes of other groups share the block: their sums are no weights.
        for (int t = 0; t < kernel_h * kernel_w * B; t++) {
            const int group = (cb * B + t % B) / c_per_group;
            const VI lane_group = (LANES + kb * B) / k_per_group;
            part[t] = select((VF)(0), part[t], lane_group == (VI)(group));
        }
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void channel_sum(TENSOR(const, dy), TENSOR(, parts), int batch,
                                                                          int k_blocks, int p_out, int q_out,
                                                                          int rows_per_chunk)
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
