// fc_gemm.cl -- fully-connected layer for a few images on GPUs: a matrix-vector product that reads each weight once.
//
//   fc_vector   y[n,k] = f(b[k] + sum over l of w[k,l] x[n,l]); for many images conv_gemm.cl does the same
//
// Tensors   x [N][L], the images' channel blocks as one row of L values; w [K/B][L][B]; bias [K/B][B];
//           y [N][K/B][B]; y of single chunks without the bias and f (conv_gemm.cl: sum_chunks)
// Tile      a work-group: KT output channels, one per item, for NT images, over a chunk of l. Weights are staged in
//           local memory: neighbours load what lies side by side, and each item then adds up its own channel.
// Launch    KT * (tiles of channels), chunks, tiles of images; work-group (KT, 1, 1)
// Tunables  KT  channels per group, a multiple of B (default 64)   NT  images per group (default 1)
//           LT  values of l per step (default 16); 8*LT*(KT + B + NT) bytes of local memory
// Order     each output sums over l, in chunks that depend on the layer's shape alone, as conv_gemm.cl does: same bits

#include "common.h"

#ifndef KT
#define KT 64
#endif
#ifndef NT
#define NT 1
#endif
#ifndef LT
#define LT 16
#endif

#define KB (KT / B)
#define W_LOADS ((KB * LT + KT - 1) / KT)
#define X_LOADS ((NT * LT + KT - 1) / KT)
#define MULTIPLY_ADD(i, a) acc[i] = fma(xs[buffer][i][l], weight, acc[i]);

__kernel __attribute__((reqd_work_group_size(KT, 1, 1))) void fc_vector(TENSOR(const, x), TENSOR(const, w),
                                                                        TENSOR(const, bias), OUTPUT(y), int batch,
                                                                        int length, int k_total, int chunk_length,
                                                                        int activation, float slope)
{
    const int item = get_local_id(0), kb0 = get_group_id(0) * KB, k_blocks = BLOCKS(k_total);
    const int n0 = get_group_id(2) * NT, chunk = get_group_id(1);
    const int first = chunk * chunk_length, last = min(length, first + chunk_length);
    __local VF ws[2][LT][KB + 1]; // one more, against bank conflicts
    __local real xs[2][NT][LT];
    VF w_next[W_LOADS];
    real x_next[X_LOADS], acc[NT];
    UNROLL for (int i = 0; i < NT; i++)
        acc[i] = 0;
    // Round by round: load the next step, compute this one from the other buffer, store what was loaded.
    for (int at = first - LT, buffer = 1; at < last; at += LT, buffer ^= 1) {
        const int next = at + LT;
        UNROLL for (int j = 0; j < W_LOADS; j++) {
            const int slot = item + j * KT, l = next + slot % LT, kb = kb0 + slot / LT;
            w_next[j] = l < last && kb < k_blocks ? LOAD_W(WEIGHTS_AT(w), (size_t)kb * length + l) : (VF)(0);
        }
        UNROLL for (int j = 0; j < X_LOADS; j++) {
            const int slot = item + j * KT, l = next + slot % LT, n = n0 + slot / LT;
            x_next[j] = l < last && n < batch && slot < NT * LT ? AT(x)[(size_t)n * length + l] : 0;
        }
        if (at >= first) {
            for (int l = 0; l < LT; l++) {
                const real weight = ((__local const real *)ws[buffer][l])[item];
                REPEAT(NT, MULTIPLY_ADD, 0)
            }
        }
        UNROLL for (int j = 0; j < W_LOADS; j++) {
            const int slot = item + j * KT;
            if (slot < KB * LT)
                ws[buffer ^ 1][slot % LT][slot / LT] = w_next[j];
        }
        UNROLL for (int j = 0; j < X_LOADS; j++) {
            const int slot = item + j * KT;
            if (slot < NT * LT)
                xs[buffer ^ 1][slot / LT][slot % LT] = x_next[j];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const int kb = kb0 + item / B, k = kb * B + item % B;
    if (kb >= k_blocks)
        return;
    UNROLL for (int i = 0; i < NT; i++) {
        const int n = n0 + i;
        if (n < batch) {
            const real sum = acc[i] + (bias_buffer ? AT(bias)[k] : 0);
            const Lanes result = {.vector = activate((VF)(sum), activation, slope)};
            ((__global real *)OUTPUT_BLOCK(y, chunk * batch + n, kb))[item % B] =
                activation == SIGMOID && k >= k_total ? 0 : result.lane[0];
        }
    }
}
