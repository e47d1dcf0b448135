// fc.cl -- fully-connected layer: matrix product of images with the weights, and its gradients.
//
//   fc          y[n,k] = f(b[k] + sum over l of w[k,l] x[n,l])
//   fc_grad_x   dx[n,l] = sum over k of dy[n,k] w[k,l]
//   fc_grad_w   dw[k,l] = sum over n of dy[n,k] x[n,l]; with UPDATE it is not stored, but w is stepped (optimizer.h)
//
// Tensors   x [N][L], the images' channel blocks as one row of L values (tails are zero on both sides);
//           w [K/B][L][B]; bias [K/B][B]; y, dy [N][K/B][B]
// Launch    fc: global (tiles of NT images, output blocks / KB); fc_grad_x: (tiles of LX values), for all images;
//           fc_grad_w: (tiles of LT values, blocks / KB); work-group (WG) or (WG, 1)
// Tunables  NT  images per item (default 7)     KB  output blocks per item (default 4)
//           LT, LX  values of l per item of fc_grad_w (default B), of fc_grad_x (1 to 4, default 1)
//           WG  work-items per group (default 1)
//           PREFETCH  of fc, 1: the compiler has __builtin_prefetch (default 0)
//           UPDATE, RULE  see optimizer.h
// Order     each output sums over l (over n), one after the other, whatever the tile; fc_grad_x sums each lane over
//           the blocks of k, then the lanes by halves.

#include "optimizer.h"

#ifndef NT
#define NT 7
#endif
#ifndef KB
#define KB 4
#endif
#ifndef LT
#define LT B
#endif
#ifndef LX
#define LX 1
#endif
#ifndef WG
#define WG 1
#endif
#ifndef PREFETCH
#define PREFETCH 0
#endif

// Steps of a product: a vector of each output block, times one value of each row.
#define LOAD_WEIGHT(j, a) weight[j] = LOAD_W(weights, (size_t)(j) * length + l);
// So many values of l are weights fetched before they are used: what a processor does by itself does not keep several
// rows of weights coming while it multiplies.
#define AHEAD 16
#define FETCH(j, a) \
    __builtin_prefetch((const void *)(size_t)(weights + ((size_t)(j) * length + l + AHEAD) * B), 0, 3);
#define LOAD_GRADIENT(j, a) g[j] = BLOCKS_AT(const, dy)[(size_t)n * k_blocks + kb0 + (j)];
#define MULTIPLY_ADD(j, i) acc[j][i] = fma(value, weight[j], acc[j][i]);
#define MULTIPLY_ADD_GRADIENT(j, i) acc[j][i] = fma(value, g[j], acc[j][i]);
#define MULTIPLY(i, a)                                            \
    {                                                             \
        const VF value = (VF)(rows[(size_t)(i) * length + l]);    \
        REPEAT_4(KB, MULTIPLY_ADD, i)                             \
    }
#define MULTIPLY_GRADIENT(i, a)                   \
    {                                             \
        const VF value = (VF)(row[i]);            \
        REPEAT_4(KB, MULTIPLY_ADD_GRADIENT, i)    \
    }

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void fc(TENSOR(const, x), TENSOR(const, w),
                                                                   TENSOR(const, bias), OUTPUT(y), int items,
                                                                   int batch, int length, int k_total, int activation,
                                                                   float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const int k_blocks = BLOCKS(k_total);
    const int kb0 = min((int)get_global_id(1) * KB, max(k_blocks - KB, 0)), kb_skip = get_global_id(1) * KB - kb0;
    const int n0 = min(item * NT, max(batch - NT, 0)), n_skip = item * NT - n0;
    __global const weight_t *weights = WEIGHTS_AT(w) + (size_t)kb0 * length * B;
    __global const real *rows = AT(x) + (size_t)n0 * length;
    VF acc[KB][NT];
    UNROLL for (int j = 0; j < KB; j++)
        UNROLL for (int i = 0; i < NT; i++)
            acc[j][i] = (VF)(0);
    for (int l = 0; l < length; l++) {
        VF weight[KB];
        REPEAT_4(KB, LOAD_WEIGHT, 0)
#if PREFETCH
        REPEAT_4(KB, FETCH, 0)
#endif
        REPEAT(NT, MULTIPLY, 0)
    }
    UNROLL for (int j = 0; j < KB; j++) {
        const int kb = kb0 + j;
        const VF offset = bias_buffer ? BLOCKS_AT(const, bias)[kb] : (VF)(0);
        UNROLL for (int i = 0; i < NT; i++) {
            if (j < kb_skip || i < n_skip)
                continue;
            VF result = activate(acc[j][i] + offset, activation, slope);
            *OUTPUT_BLOCK(y, n0 + i, kb) =
                activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
        }
    }
}

// Steps of fc_grad_x: a vector of weights, times one of each image's gradient.
#define MULTIPLY_WEIGHT(i, j) acc[i][j] = fma(weight, gradients[(size_t)(i) * k_blocks], acc[i][j]);
#define MULTIPLY_COLUMN(j, a)                                 \
    {                                                         \
        const VF weight = weights[(size_t)kb * length + (j)]; \
        REPEAT(NT, MULTIPLY_WEIGHT, j)                        \
    }

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void fc_grad_x(
    TENSOR(const, dy), TENSOR(const, w), TENSOR(, dx), int items, int batch, int length, int k_blocks)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    __global const VF *weights = BLOCKS_AT(const, w) + (size_t)item * LX;
    // What the item reads of w stays in the cache from one tile of images to the next.
    for (int tile = 0; tile < batch; tile += NT) {
        const int n = min(tile, max(batch - NT, 0));
        VF acc[NT][LX];
        UNROLL for (int i = 0; i < NT; i++)
            UNROLL for (int j = 0; j < LX; j++)
                acc[i][j] = (VF)(0);
        for (int kb = 0; kb < k_blocks; kb++) {
            __global const VF *gradients = BLOCKS_AT(const, dy) + (size_t)n * k_blocks + kb;
            REPEAT_4(LX, MULTIPLY_COLUMN, 0)
        }
        UNROLL for (int i = 0; i < NT; i++)
            UNROLL for (int j = 0; j < LX; j++)
                AT(dx)[(size_t)(n + i) * length + item * LX + j] = sum_lanes(acc[i][j]);
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(WG, 1, 1))) void fc_grad_w(
    TENSOR(const, x), TENSOR(const, dy), GRADIENT(dw), int items, int batch, int length, int k_blocks)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    GRADIENT_SETTINGS
    const int kb0 = min((int)get_global_id(1) * KB, max(k_blocks - KB, 0)), kb_skip = get_global_id(1) * KB - kb0;
    const int l0 = item * LT;
    VF acc[KB][LT];
    UNROLL for (int j = 0; j < KB; j++)
        UNROLL for (int i = 0; i < LT; i++)
            acc[j][i] = (VF)(0);
    for (int n = 0; n < batch; n++) {
        VF g[KB];
        REPEAT_4(KB, LOAD_GRADIENT, 0)
        __global const real *row = AT(x) + (size_t)n * length + l0;
        REPEAT(LT, MULTIPLY_GRADIENT, 0)
    }
    UNROLL for (int j = 0; j < KB; j++)
        if (j >= kb_skip)
            UNROLL for (int i = 0; i < LT; i++)
                PUT_GRADIENT(dw, (size_t)(kb0 + j) * length + l0 + i, acc[j][i]);
}
