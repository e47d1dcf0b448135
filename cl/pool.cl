// pool.cl -- maximum, mean or Euclidean norm of sliding windows, mean of whole images; with their gradients.
//
//   pool              y[n,c,p,q] = reduction of x[n,c,h,w] over h in p*stride - pad + [0, R), w likewise, where the
//                     image is; for the maximum also its place r*S + s in the window, the first of equals
//   pool_grad         dx[n,c,h,w] = sum over the windows (p, q) that cover (h, w), gathered, of
//                     maximum  dy where the place is that of (h, w)      (reads dy and argmax)
//                     mean     dy / counted elements                     (reads dy)
//                     norm     dy * x / y, 0 where y = 0                 (reads dy, x and y)
//   global_mean       sum of a chunk of each channel's image, over a divisor; run again over the chunks' sums
//   global_mean_grad  dx = dy / (H*W)
//
// Tensors   channel blocks; argmax like y, in bytes or 32-bit integers
// Launch    1-D over work-items, guarded by `items`; one item: a rectangle of rows x cols pixels of one channel block
//           (global_mean: a chunk of one; global_mean_grad: `span` pixels of one); work-group (WG)
// Tunables  WG      work-items per group (default 1)
//           KW, SW  columns of the window and its column stride, where constants pay (default: the arguments)
// Variants  KIND  what the program computes (default MAXIMUM)
//           ARGMAX  bytes per stored place: 0 (not stored), 1 or 4 (default 0)
// Order     by r, then s; gradients by p, then q: the same bits whatever the rectangle

#ifndef KIND
#define KIND 0 // MAXIMUM
#endif

#include "pooling.h"

#ifndef WG
#define WG 1
#endif
#ifndef KW
#define KW kernel_w
#endif
#ifndef SW
#define SW stride_w
#endif

#define GROUPED __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1)))

#if KIND != GLOBAL_MEAN

// How many of the elements start .. start + size - 1 lie in low .. high - 1.
static inline int counted(int start, int size, int low, int high)
{
    return min(start + size, high) - max(start, low);
}

// low_*, high_*: the rows and columns that a mean counts; may include padding
__kernel GROUPED void pool(PIECES_OF(x), OUTPUT(y), TENSOR_OF(, PLACE, argmax), int items, int c_blocks, int h_in,
                           int w_in, int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                           int pad_top, int pad_left, int low_h, int high_h, int low_w, int high_w, int rows,
                           int cols)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int across = (q_out + cols - 1) / cols, down = (p_out + rows - 1) / rows;
    const int q_begin = item % across * cols, q_end = min(q_begin + cols, q_out);
    const int p_begin = item / across % down * rows, p_end = min(p_begin + rows, p_out);
    const int n_cb = item / across / down, n = n_cb / c_blocks, cb = n_cb % c_blocks;
    __global const VF *image = (__global const VF *)PIECE_BLOCK(x, n, cb);

    for (int p = p_begin; p < p_end; p++) {
        const int h = p * stride_h - pad_top, r_begin = max(0, -h), r_end = min(kernel_h, h_in - h);
#if ARGMAX
        const size_t out = ((size_t)n_cb * p_out + p) * q_out;
#endif
        for (int q = q_begin; q < q_end; q++) {
            const int w = q * SW - pad_left, s_begin = max(0, -w), s_end = min(KW, w_in - w);
            VF result = NOTHING;
            VI places = (VI)(r_begin * KW + s_begin);
            for (int r = r_begin; r < r_end; r++) {
                __global const VF *taps = image + (long)(h + r) * w_in + w;
                if (s_end - s_begin == KW)
                    for (int s = 0; s < KW; s++)
                        reduce(taps[s], r * KW + s, &result, &places);
                else
                    for (int s = s_begin; s < s_end; s++)
                        reduce(taps[s], r * KW + s, &result, &places);
            }
#if KIND == MEAN
            result /= (float)(counted(h, kernel_h, low_h, high_h) * counted(w, KW, low_w, high_w));
#elif KIND == NORM
            result = sqrt(result);
#endif
            OUTPUT_BLOCK(y, n, cb)[p * q_out + q] = result;
#if ARGMAX
            PLACES_AT(, argmax)[out + q] = STORED(places);
#endif
        }
    }
}

__kernel GROUPED void pool_grad(TENSOR(const, dy), TENSOR_OF(const, PLACE, argmax), TENSOR(const, x),
                                TENSOR(const, y), TENSOR(, dx), int items, int h_in, int w_in, int p_out, int q_out,
                                int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left,
                                int low_h, int high_h, int low_w, int high_w, int rows, int cols)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int across = (w_in + cols - 1) / cols, down = (h_in + rows - 1) / rows;
    const int w_begin = item % across * cols, w_end = min(w_begin + cols, w_in);
    const int h_begin = item / across % down * rows, h_end = min(h_begin + rows, h_in);
    const int n_cb = item / across / down;

    for (int h = h_begin; h < h_end; h++) {
        // Rows of windows p_begin .. p_end - 1 cover row h; one after the other adds to it, while it is in the cache.
        const int row = h + pad_top;
        const int p_begin = row < kernel_h ? 0 : (row - kernel_h) / stride_h + 1;
        const int p_end = min(p_out, row / stride_h + 1);
        __global VF *pixels = BLOCKS_AT(, dx) + ((size_t)n_cb * h_in + h) * w_in;
        if (p_begin >= p_end)
            for (int w = w_begin; w < w_end; w++)
                pixels[w] = (VF)(0);
        for (int p = p_begin; p < p_end; p++) {
            const size_t windows = ((size_t)n_cb * p_out + p) * q_out;
            __global const VF *dy_row = BLOCKS_AT(const, dy) + windows;
            // Windows start at q*SW of the padded row: window q0 and those `back` before it cover q0*SW + j.
            for (int q0 = (w_begin + pad_left) / SW; q0 * SW < w_end + pad_left; q0++)
                for (int j = 0; j < SW; j++) {
                    const int w = q0 * SW + j - pad_left;
                    if (w < w_begin || w >= w_end)
                        continue;
                    VF sum = p == p_begin ? (VF)(0) : pixels[w];
                    for (int back = (KW - 1 - j) / SW; back >= 0 && j < KW; back--) {
                        const int q = q0 - back;
                        if (q < 0 || q >= q_out)
                            continue;
#if KIND == MAXIMUM
                        const VI places = LOADED(PLACES_AT(const, argmax)[windows + q]);
                        const int place = (row - p * stride_h) * KW + j + back * SW;
                        sum += select((VF)(0), dy_row[q], places == (VI)(place));
#elif KIND == MEAN
                        const int height = counted(p * stride_h - pad_top, kernel_h, low_h, high_h);
                        const int width = counted(q * SW - pad_left, KW, low_w, high_w);
                        // The quotient is a scalar's: a division of vectors would take longer than the memory.
                        sum = fma(dy_row[q], (VF)(1.0f / (float)(height * width)), sum);
#else
                        const VF norm = BLOCKS_AT(const, y)[windows + q];
                        sum += select(dy_row[q] / norm, (VF)(0), norm == (VF)(0));
#endif
                    }
#if KIND == NORM
                    if (p == p_end - 1)
                        sum *= BLOCKS_AT(const, x)[((size_t)n_cb * h_in + h) * w_in + w];
#endif
                    pixels[w] = sum;
                }
        }
    }
}

#else

#define ADD_PIXEL(i, a) sum[i] += image[pixel + (i)];

__kernel GROUPED void global_mean(PIECES_OF(x), TENSOR(, y), int items, int c_blocks, int plane, int chunks,
                                  int divisor)
{
    const int item = get_global_id(0); // [n][cb][chunk]
    if (item >= items)
        return;
    const int length = (plane + chunks - 1) / chunks, n_cb = item / chunks;
    const int begin = item % chunks * length, end = min(begin + length, plane);
    __global const VF *image = (__global const VF *)PIECE_BLOCK(x, n_cb / c_blocks, n_cb % c_blocks);
    VF sum[4] = {(VF)(0), (VF)(0), (VF)(0), (VF)(0)};
    int pixel = begin;
    for (; pixel + 4 <= end; pixel += 4) {
        REPEAT(4, ADD_PIXEL, 0)
    }
    for (; pixel < end; pixel++)
        sum[0] += image[pixel];
    BLOCKS_AT(, y)[item] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)divisor;
}

__kernel GROUPED void global_mean_grad(TENSOR(const, dy), TENSOR(, dx), int items, int plane, int span)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int spans = (plane + span - 1) / span, n_cb = item / spans;
    const int begin = item % spans * span, end = min(begin + span, plane);
    const VF share = BLOCKS_AT(const, dy)[n_cb] / (float)plane;
    __global VF *image = BLOCKS_AT(, dx) + (size_t)n_cb * plane;
    for (int pixel = begin; pixel < end; pixel++)
        image[pixel] = share;
}

#endif
