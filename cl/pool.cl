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
// Tunables  WG    work-items per group (default 1)
// Variants  KIND  what the program computes (default MAXIMUM)
//           ARGMAX  bytes per stored place: 0 (not stored), 1 or 4 (default 0)
// Order     by r, then s; gradients by p, then q: the same bits whatever the rectangle
// NaN       is the maximum of its window, as in PyTorch

#include "common.h"

#define MAXIMUM 0
#define MEAN 1
#define NORM 2
#define GLOBAL_MEAN 3

#ifndef WG
#define WG 1
#endif
#ifndef KIND
#define KIND MAXIMUM
#endif
#ifndef ARGMAX
#define ARGMAX 0
#endif

#define GROUPED __attribute__((reqd_work_group_size(WG, 1, 1)))

#if KIND != GLOBAL_MEAN

// A stored place, alone (PLACE) and for the channels of a block (PLACES). Tensor offsets count 4 bytes, so that of
// a tensor of bytes is four times as many elements.
#if ARGMAX == 4
typedef int PLACE;
typedef VI PLACES;
#define STORED(places) (places)
#define LOADED(places) (places)
#define PLACES_AT(Q, name) ((__global Q PLACES *)AT(name))
#else
typedef uchar PLACE;
#if B == 1
typedef uchar PLACES;
#define STORED(places) convert_uchar(places)
#define LOADED(places) convert_int(places)
#else
typedef PASTE(uchar, B) PLACES;
#define STORED(places) PASTE(convert_uchar, B)(places)
#define LOADED(places) PASTE(convert_int, B)(places)
#endif
#define PLACES_AT(Q, name) ((__global Q PLACES *)(name##_buffer + name##_offset * 4))
#endif

// How many of the elements start .. start + size - 1 lie in low .. high - 1.
static inline int counted(int start, int size, int low, int high)
{
    return min(start + size, high) - max(start, low);
}

// low_*, high_*: the rows and columns that a mean counts; may include padding
__kernel GROUPED void pool(PIECES_OF(x), TENSOR(, y), TENSOR_OF(, PLACE, argmax), int items, int c_blocks, int h_in,
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
    __global const VF *image = (__global const VF *)PIECE_BLOCK(x, n, cb, (size_t)h_in * w_in);

    for (int p = p_begin; p < p_end; p++) {
        const int h = p * stride_h - pad_top, r_begin = max(0, -h), r_end = min(kernel_h, h_in - h);
        const size_t out = ((size_t)n_cb * p_out + p) * q_out;
        for (int q = q_begin; q < q_end; q++) {
            const int w = q * stride_w - pad_left, s_begin = max(0, -w), s_end = min(kernel_w, w_in - w);
            VF result = (VF)(KIND == MAXIMUM ? -INFINITY : 0.0f);
#if ARGMAX
            VI places = (VI)(r_begin * kernel_w + s_begin);
#endif
            for (int r = r_begin; r < r_end; r++) {
                __global const VF *taps = image + (long)(h + r) * w_in + w;
                for (int s = s_begin; s < s_end; s++) {
                    const VF tap = taps[s];
#if KIND == MAXIMUM
                    const VI larger = (tap > result) | isnan(tap);
                    result = select(result, tap, larger);
#if ARGMAX
                    places = select(places, (VI)(r * kernel_w + s), larger);
#endif
#elif KIND == MEAN
                    result += tap;
#else
                    result = fma(tap, tap, result);
#endif
                }
            }
#if KIND == MEAN
            result /= (float)(counted(h, kernel_h, low_h, high_h) * counted(w, kernel_w, low_w, high_w));
#elif KIND == NORM
            result = sqrt(result);
#endif
            BLOCKS_AT(, y)[out + q] = result;
#if ARGMAX
            PLACES_AT(, argmax)[out + q] = STORED(places);
#endif
        }
    }
}

// The first window that reaches element `at` of the padded input: after those that end before it.
static inline int first_window(int at, int size, int stride)
{
    return at < size ? 0 : (at - size) / stride + 1;
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
        const int row = h + pad_top;
        const int p_begin = first_window(row, kernel_h, stride_h), p_end = min(p_out, row / stride_h + 1);
        // Windows q_begin .. q_end - 1 cover column w; each bound moves by at most one from column to column.
        int q_begin = first_window(w_begin + pad_left, kernel_w, stride_w);
        int q_end = min(q_out, (w_begin + pad_left) / stride_w + 1);
        for (int w = w_begin; w < w_end; w++) {
            const int col = w + pad_left;
            const size_t pixel = ((size_t)n_cb * h_in + h) * w_in + w;
            if (q_begin * stride_w + kernel_w <= col)
                q_begin++;
            if (q_end < q_out && q_end * stride_w <= col)
                q_end++;
            VF sum = (VF)(0);
            for (int p = p_begin; p < p_end; p++) {
                const size_t windows = ((size_t)n_cb * p_out + p) * q_out;
#if KIND == MEAN
                const int height = counted(p * stride_h - pad_top, kernel_h, low_h, high_h);
#endif
                for (int q = q_begin; q < q_end; q++) {
                    const VF g = BLOCKS_AT(const, dy)[windows + q];
#if KIND == MAXIMUM
                    const int place = (row - p * stride_h) * kernel_w + col - q * stride_w;
                    sum += select((VF)(0), g, LOADED(PLACES_AT(const, argmax)[windows + q]) == (VI)(place));
#elif KIND == MEAN
                    sum += g / (float)(height * counted(q * stride_w - pad_left, kernel_w, low_w, high_w));
#else
                    const VF norm = BLOCKS_AT(const, y)[windows + q];
                    sum += select(g / norm, (VF)(0), norm == (VF)(0));
#endif
                }
            }
#if KIND == NORM
            sum *= BLOCKS_AT(const, x)[pixel];
#endif
            BLOCKS_AT(, dx)[pixel] = sum;
        }
    }
}

#else

__kernel GROUPED void global_mean(PIECES_OF(x), TENSOR(, y), int items, int c_blocks, int plane, int chunks,
                                  int divisor)
{
    const int item = get_global_id(0); // [n][cb][chunk]
    if (item >= items)
        return;
    const int length = (plane + chunks - 1) / chunks, n_cb = item / chunks;
    const int begin = item % chunks * length, end = min(begin + length, plane);
    __global const VF *image = (__global const VF *)PIECE_BLOCK(x, n_cb / c_blocks, n_cb % c_blocks, (size_t)plane);
    VF sum[4] = {(VF)(0), (VF)(0), (VF)(0), (VF)(0)};
    int pixel = begin;
    for (; pixel + 4 <= end; pixel += 4)
        UNROLL for (int i = 0; i < 4; i++)
            sum[i] += image[pixel + i];
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
