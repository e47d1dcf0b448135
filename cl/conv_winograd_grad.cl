// conv_winograd_grad.cl -- weight gradient of a 3x3 convolution with stride 1 by Winograd's F(3x3, 4x4).
//
//   winograd_grad_w   dw = sum over tiles of A^T [ (G dy G^T) (B^T x B) ] A: 36 products per tile of 4x4 outputs, not 144;
//                     partial sums over a chunk of the tiles, which sum_parts of conv_grad.cl adds up
//
// Tensors   x, dy channel blocks; parts [chunks] of filter blocks; scratch: per work-item
//           36 * (TB * C + TB * KG*B + KG*B * C) values: transformed x, transformed dy, sums of products
// Launch    `workers` persistent items; each takes pairs of a chunk and KG output blocks
// Tunables  TB  tiles transformed at a time (default 28)   KG  output blocks per work unit (default 4)
// Order     tiles of a chunk one after the other; chunks, TB and KG depend on the layer's shape alone
// Accuracy  as conv_winograd.cl

#include "winograd.h"

#ifndef TB
#define TB 28
#endif
#ifndef KG
#define KG 4
#endif

// One dimension of G g: 4 values to 6.
static inline void gradient_6(const VF g0, const VF g1, const VF g2, const VF g3, __private VF *o, int stride)
{
    const VF even = (g0 + g2) * (real)(-1.0 / 6), odd = (g1 + g3) * (real)(-1.0 / 6);
    const VF wide = fma((VF)(4), g2, g0) * (real)(1.0 / 24), wide_odd = fma((VF)(4), g3, g1) * (real)(1.0 / 12);
    o[0] = g0 * (real)0.25;
    o[stride] = even + odd;
    o[2 * stride] = even - odd;
    o[3 * stride] = wide + wide_odd;
    o[4 * stride] = wide - wide_odd;
    o[5 * stride] = g3;
}

// One dimension of A^T m: 6 values to 3.
static inline void output_3(const VF m0, const VF m1, const VF m2, const VF m3, const VF m4, const VF m5,
                            __private VF *o, int stride)
{
    const VF a = m1 + m2, c = m3 + m4;
    o[0] = m0 + a + c;
    o[stride] = fma((VF)(2), m3 - m4, m1 - m2);
    o[2 * stride] = fma((VF)(4), c, a) + m5;
}

// The 4x4 values of dy from (row, col) on, zeros outside, transformed: value xi goes to target[xi * stride].
static inline void transform_gradient_tile(__global const VF *g, int row, int col, int p_out, int q_out,
                                           __global VF *target, size_t stride)
{
    VF half_way[24];
    g += (size_t)row * q_out + col;
    for (int j = 0; j < 4; j++) {
        VF v[4];
        UNROLL for (int i = 0; i < 4; i++)
            v[i] = row + i < p_out && col + j < q_out ? g[i * q_out + j] : (VF)(0);
        gradient_6(v[0], v[1], v[2], v[3], half_way + j, 4);
    }
    UNROLL for (int i = 0; i < 6; i++) {
        VF out[6];
        __private VF *r = half_way + 4 * i;
        gradient_6(r[0], r[1], r[2], r[3], out, 1);
        UNROLL for (int j = 0; j < 6; j++)
            target[(size_t)(i * 6 + j) * stride] = out[j];
    }
}

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void winograd_grad_w(
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, parts), TENSOR(, scratch), int tiles, int tiles_h, int tiles_w,
    int c_total, int h_in, int w_in, int k_total, int p_out, int q_out, int pad_top, int pad_left, int chunks,
    int tiles_per_chunk)
{
    const int worker = get_global_id(0), workers = get_global_size(0), plane = h_in * w_in;
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total), groups = (k_blocks + KG - 1) / KG;
    const size_t sums_size = (size_t)36 * KG * c_blocks * B;
    __global VF *x_tiles = BLOCKS_AT(, scratch) + (size_t)worker * (36 * TB * (size_t)(c_blocks + KG) + sums_size);
    __global VF *dy_tiles = x_tiles + (size_t)36 * TB * c_blocks;
    __global VF *sums = dy_tiles + (size_t)36 * TB * KG;
    for (int work = worker; work < chunks * groups; work += workers) {
        const int chunk = work / groups, kb0 = work % groups * KG, kg = min(KG, k_blocks - kb0);
        const int first = chunk * tiles_per_chunk, last = min(first + tiles_per_chunk, tiles);
        for (size_t i = 0; i < sums_size; i++)
            sums[i] = (VF)(0);
        for (int t0 = first; t0 < last; t0 += TB) {
            const int count = min(TB, last - t0);
            for (int t = 0; t < count; t++) {
                const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                const int row = tile / tiles_w % tiles_h * 4, col = tile % tiles_w * 4;
                for (int cb = 0; cb < c_blocks; cb++)
                    transform_input_tile(BLOCKS_AT(const, x) + ((size_t)n * c_blocks + cb) * plane, row - pad_top,
                                         col - pad_left, h_in, w_in, x_tiles + (size_t)cb * TB + t,
                                         (size_t)c_blocks * TB);
                for (int j = 0; j < kg; j++)
                    transform_gradient_tile(BLOCKS_AT(const, dy) + ((size_t)n * k_blocks + kb0 + j) * p_out * q_out, row,
                                            col, p_out, q_out, dy_tiles + (size_t)j * TB + t, (size_t)KG * TB);
            }
            for (int xi = 0; xi < 36; xi++)
                for (int j = 0; j < kg; j++)
                    for (int cb = 0; cb < c_blocks; cb++) {
                        __global const VF *g = dy_tiles + ((size_t)xi * KG + j) * TB;
                        __global const real *v = (__global const real *)(x_tiles + ((size_t)xi * c_blocks + cb) * TB);
                        __global VF *sum = sums + (((size_t)xi * KG + j) * c_blocks + cb) * B;
                        VF acc[B];
                        UNROLL for (int c = 0; c < B; c++)
                            acc[c] = sum[c];
                        for (int t = 0; t < count; t++) {
                            const VF gradient = g[t];
                            UNROLL for (int c = 0; c < B; c++)
                                acc[c] = fma((VF)(v[t * B + c]), gradient, acc[c]);
                        }
                        UNROLL for (int c = 0; c < B; c++)
                            sum[c] = acc[c];
                    }
        }
        for (int j = 0; j < kg; j++)
            for (int cb = 0; cb < c_blocks; cb++)
                for (int c = 0; c < B; c++) {
                    __global const VF *m = sums + ((size_t)j * c_blocks + cb) * B + c;
                    const size_t s = (size_t)KG * c_blocks * B;
                    VF half_way[18], dw[3];
                    UNROLL for (int i = 0; i < 6; i++)
                        output_3(m[i * s], m[(6 + i) * s], m[(12 + i) * s], m[(18 + i) * s], m[(24 + i) * s],
                                 m[(30 + i) * s], half_way + i, 6);
                    __global VF *part = BLOCKS_AT(, parts) +
                                        (((size_t)chunk * k_blocks + kb0 + j) * c_blocks + cb) * 9 * B + c;
                    UNROLL for (int r = 0; r < 3; r++) {
                        __private VF *h = half_way + 6 * r;
                        output_3(h[0], h[1], h[2], h[3], h[4], h[5], dw, 1);
                        UNROLL for (int q = 0; q < 3; q++)
                            part[(r * 3 + q) * B] = dw[q];
                    }
                }
    }
}
