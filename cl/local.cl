// local.cl -- the locally-connected layer, a convolution whose every place has its own weights, and its gradients.
//
//   local_forward y[n,k,p,q] = f(b[k,p,q] + sum over c,r,s of w[k,c,r,s,p,q] x[n, c, p*stride - pad + r, ...])
//   local_grad_x  dx[n,c,h,w] = sum over k and all p,q,r,s with p*stride - pad + r = h, likewise w, of
//                 w[k,c,r,s,p,q] dy[n,k,p,q]
//   local_grad_w  dw[k,c,r,s,p,q] = sum over n of dy[n,k,p,q] x[n, c, p*stride - pad + r, ...]
//
// Tensors   x, y, dx, dy [N][C/B][H][W][B]; bias [K/B][P][Q][B]; w, dw [K/B][P][Q][C/B][R][S][B of c][B of k]
// Tile      NT images: the weights, by far the largest operand, are read from memory once, from the cache after that
//           local_forward one output block at one place
//           local_grad_x  CT channels of one block at one place
//           local_grad_w  all taps between an input and an output block at one place; all images
// Launch    1-D, work-group (WG); image tiles of the same place lie next to each other
// Tunables  NT  images per item (default 4)           CT  channels per item of local_grad_x (default B, divides B);
//           CT * NT vectors of B floats should fit in the registers (tuning.py: accumulators)
//           WG  work-items per group (default 1)
// Order     local_forward by c block, r, s, c; local_grad_x by k block, r, s for each lane of k, then over the lanes
//           by halves; local_grad_w by n: same bits for every choice of tiles

#include "common.h"

#ifndef NT
#define NT 4
#endif
#ifndef CT
#define CT B
#endif
#ifndef WG
#define WG 1
#endif

// Steps of the products: one image of local_forward, one image or one channel of an image of local_grad_x, one channel
// of local_grad_w.
#define MULTIPLY_IMAGE(i, a) acc[i] = fma((VF)(pixel[(i) * image + c]), weight, acc[i]);
#define LOAD_GRADIENT(i, a) g[i] = grad[(i) * image];
#define MULTIPLY_GRADIENT(i, c) acc[c][i] = fma(tap[c], g[i], acc[c][i]);
#define MULTIPLY_CHANNEL(c, a) acc[c] = fma((VF)(pixel[n * image + (c)]), g, acc[c]);

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void local_forward(
    TENSOR(const, x), TENSOR(const, w), TENSOR(const, bias), TENSOR(, y), int items, int batch, int c_total, int h_in,
    int w_in, int k_total, int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top,
    int pad_left, int tiles, int activation, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int place = item / tiles; // [k block][p][q]
    const int q = place % q_out, p = place / q_out % p_out, kb = place / q_out / p_out;
    const int n0 = min(item % tiles * NT, max(batch - NT, 0)), skip = item % tiles * NT - n0;
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total);
    const size_t image = (size_t)c_blocks * h_in * w_in * B;
    __global const VF *filter = BLOCKS_AT(const, w) + (size_t)place * c_blocks * kernel_h * kernel_w * B;
    const int h0 = p * stride_h - pad_top, w0 = q * stride_w - pad_left;
    const int r_first = max(0, -h0), r_end = min(kernel_h, h_in - h0);
    const int s_first = max(0, -w0), s_end = min(kernel_w, w_in - w0);

    VF acc[NT];
    UNROLL for (int i = 0; i < NT; i++)
        acc[i] = (VF)(0);
    for (int cb = 0; cb < c_blocks; cb++) {
        const int channels = min(B, c_total - cb * B);
        for (int r = r_first; r < r_end; r++)
            for (int s = s_first; s < s_end; s++) {
                __global const VF *tap = filter + ((size_t)(cb * kernel_h + r) * kernel_w + s) * B;
                __global const real *pixel =
                    AT(x) + n0 * image + (((size_t)cb * h_in + h0 + r) * w_in + w0 + s) * B;
                for (int c = 0; c < channels; c++) {
                    const VF weight = tap[c];
                    REPEAT(NT, MULTIPLY_IMAGE, 0)
                }
            }
    }
    const VF shift = bias_buffer ? BLOCKS_AT(const, bias)[place] : (VF)(0);
    UNROLL for (int i = 0; i < NT; i++)
        if (i >= skip) {
            const VF result = activate(acc[i] + shift, activation, slope);
            __global VF *out = BLOCKS_AT(, y) + (((size_t)(n0 + i) * k_blocks + kb) * p_out + p) * q_out + q;
            *out = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
        }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void local_grad_x(
    TENSOR(const, dy), TENSOR(const, w), TENSOR(, dx), int items, int batch, int c_total, int h_in, int w_in,
    int k_total, int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top,
    int pad_left, int tiles)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int place = item / tiles; // [c block][h][w][part of the block]
    const int c0 = place % (B / CT) * CT, column = place / (B / CT) % w_in, row = place / (B / CT) / w_in % h_in;
    const int cb = place / (B / CT) / w_in / h_in;
    const int n0 = min(item % tiles * NT, max(batch - NT, 0)), skip = item % tiles * NT - n0;
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total), taps = kernel_h * kernel_w;
    const size_t image = (size_t)k_blocks * p_out * q_out;

    VF acc[CT][NT];
    UNROLL for (int c = 0; c < CT; c++)
        UNROLL for (int i = 0; i < NT; i++)
            acc[c][i] = (VF)(0);
    for (int kb = 0; kb < k_blocks; kb++)
        for (int r = 0; r < kernel_h; r++) {
            const int lifted = row + pad_top - r, p = lifted / stride_h;
            if (lifted < 0 || lifted % stride_h || p >= p_out)
                continue;
            for (int s = 0; s < kernel_w; s++) {
                const int shifted = column + pad_left - s, q = shifted / stride_w;
                if (shifted < 0 || shifted % stride_w || q >= q_out)
                    continue;
                const size_t source = ((size_t)kb * p_out + p) * q_out + q;
                __global const VF *tap =
                    BLOCKS_AT(const, w) + ((source * c_blocks + cb) * taps + r * kernel_w + s) * B + c0;
                __global const VF *grad = BLOCKS_AT(const, dy) + n0 * image + source;
                VF g[NT];
                REPEAT(NT, LOAD_GRADIENT, 0)
                UNROLL for (int c = 0; c < CT; c++) {
                    REPEAT(NT, MULTIPLY_GRADIENT, c)
                }
            }
        }
    UNROLL for (int i = 0; i < NT; i++)
        if (i >= skip) {
            __global real *out =
                AT(dx) + ((((size_t)(n0 + i) * c_blocks + cb) * h_in + row) * w_in + column) * B + c0;
            UNROLL for (int c = 0; c < CT; c++)
                out[c] = sum_lanes(acc[c][i]);
        }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void local_grad_w(
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, dw), int items, int batch, int c_total, int h_in, int w_in,
    int k_total, int p_out, int q_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top,
    int pad_left)
{
    const int item = get_global_id(0); // [k block][p][q][c block]
    if (item >= items)
        return;
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total);
    const int cb = item % c_blocks, place = item / c_blocks;
    const int q = place % q_out, p = place / q_out % p_out;
    const size_t image = (size_t)c_blocks * h_in * w_in * B, grad_image = (size_t)k_blocks * p_out * q_out;
    __global VF *filter = BLOCKS_AT(, dw) + (size_t)item * kernel_h * kernel_w * B;
    for (int r = 0; r < kernel_h; r++)
        for (int s = 0; s < kernel_w; s++) {
            const int row = p * stride_h - pad_top + r, column = q * stride_w - pad_left + s;
            const bool seen = row >= 0 && row < h_in && column >= 0 && column < w_in;
            __global const real *pixel = AT(x) + (((size_t)cb * h_in + row) * w_in + column) * B;
            __global const VF *grad = BLOCKS_AT(const, dy) + place;
            VF acc[B];
            UNROLL for (int c = 0; c < B; c++)
                acc[c] = (VF)(0);
            for (int n = 0; n < batch && seen; n++) {
                const VF g = grad[n * grad_image];
                REPEAT(B, MULTIPLY_CHANNEL, 0)
            }
            __global VF *tap = filter + (r * kernel_w + s) * B;
            UNROLL for (int c = 0; c < B; c++)
                tap[c] = acc[c];
        }
}
