// conv_winograd_grad.cl -- weight gradient of a 3x3 convolution with stride 1 by Winograd's F(3x3, 4x4).
//
//   winograd_grad_w   dw = sum over tiles of A^T [ (G dy G^T) (B^T x B) ] A: 36 products per tile of 4x4 outputs, not
//                     144; partial sums over a chunk of the tiles, which sum_parts of conv_grad.cl adds up, or with
//                     WHOLE dw itself, and with UPDATE the step on w (optimizer.h)
//
// Tensors   x, dy channel blocks; parts [chunks] of filter blocks; scratch: per work-item
//           36 * (plane * (C/B + 2) + 2*B + 1) vectors, plane the odd one of block_tiles and the number above:
//           transformed x, dy of two output blocks, and sums of products for one input block
// Launch    `workers` persistent items; each takes pairs of output blocks of a chunk, transforms a block of tiles of x
//           for all of them, and sums over these tiles in registers
// Tunables  CT  input channels of a register tile of 2*CT sums, a divisor of B (default B/2)
//           WHOLE  1: there is one chunk, of one block of tiles (default 0)
//           PREFETCH  1: the compiler has __builtin_prefetch (default 0): weights and states come near during products
// Order     tiles of a block one after the other, blocks of a chunk likewise; both depend on the layer's shape alone
// Accuracy  as conv_winograd.cl

#include "optimizer.h"
#include "winograd.h"

#ifndef CT
#if B > 1
#define CT (B / 2)
#else
#define CT 1
#endif
#endif
#ifndef WHOLE
#define WHOLE 0
#endif

#ifndef PREFETCH
#define PREFETCH 0
#endif

#define SUMS (2 * B + 1) // of one of the 36 products: odd, so that not all lie in one set of the cache

// One dimension of G g, times (4, -6, -6, 24, 24, 1): 4 values to 6.
static inline void gradient_6(const VF g0, const VF g1, const VF g2, const VF g3, __private VF *o, int stride)
{
    const VF even = g0 + g2, odd = g1 + g3;
    const VF wide = fma((VF)(4), g2, g0), wide_odd = fma((VF)(4), g3, g1);
    o[0] = g0;
    o[stride] = even + odd;
    o[2 * stride] = even - odd;
    o[3 * stride] = fma((VF)(2), wide_odd, wide);
    o[4 * stride] = fma((VF)(-2), wide_odd, wide);
    o[5 * stride] = g3;
}

// One dimension of A^T m, 6 values to 3, of such products: 24 times too large.
static inline void output_3(const VF m0, const VF m1, const VF m2, const VF m3, const VF m4, const VF m5,
                            __private VF *o, int stride)
{
    const VF a = m1 + m2, c = m3 + m4;
    o[0] = fma((VF)(6), m0, fma((VF)(-4), a, c));
    o[stride] = fma((VF)(2), m3 - m4, (m1 - m2) * -4);
    o[2 * stride] = fma((VF)(24), m5, (c - a) * 4);
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
    TENSOR(const, x), TENSOR(const, dy), TENSOR(, scratch), int tiles, int tiles_h, int tiles_w, int c_total, int h_in,
    int w_in, int k_total, int p_out, int q_out, int pad_top, int pad_left, int chunks, int tiles_per_chunk,
    int block_tiles,
#if WHOLE
    GRADIENT(total))
{
    GRADIENT_SETTINGS
#else
    TENSOR(, parts))
{
#endif
    const int worker = get_global_id(0), workers = get_global_size(0), plane = block_tiles | 1;
    const int c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total), pairs = (k_blocks + 1) / 2;
    __global VF *x_tiles = BLOCKS_AT(, scratch) + (size_t)worker * 36 * ((size_t)plane * (c_blocks + 2) + SUMS);
    __global VF *dy_tiles = x_tiles + (size_t)36 * plane * c_blocks, *sums = dy_tiles + 72 * plane;
    const int last_work = (long)chunks * pairs * (worker + 1) / workers;
    for (int work = (long)chunks * pairs * worker / workers, next; work < last_work; work = next) {
        const int chunk = work / pairs, first_pair = work % pairs;
        next = min(last_work, work + pairs - first_pair);
        const int first = chunk * tiles_per_chunk, last = min(first + tiles_per_chunk, tiles);
        for (int t0 = first; t0 < last; t0 += block_tiles) {
            const int count = min(block_tiles, last - t0);
            for (int cb = 0; cb < c_blocks; cb++)
                for (int t = 0; t < count; t++) {
                    const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                    const int top = tile / tiles_w % tiles_h * 4 - pad_top, left = tile % tiles_w * 4 - pad_left;
                    transform_input_tile(BLOCKS_AT(const, x) + ((size_t)n * c_blocks + cb) * h_in * w_in, top, left,
                                         h_in, w_in, x_tiles + (size_t)cb * 36 * plane + t, plane);
                }
            for (int pair = first_pair; pair < first_pair + next - work; pair++) {
                const int together = min(2, k_blocks - pair * 2);
                for (int j = 0; j < together; j++)
                    for (int t = 0; t < count; t++) {
                        const int tile = t0 + t, n = tile / (tiles_h * tiles_w);
                        transform_gradient_tile(
                            BLOCKS_AT(const, dy) + ((size_t)n * k_blocks + pair * 2 + j) * p_out * q_out,
                            tile / tiles_w % tiles_h * 4, tile % tiles_w * 4, p_out, q_out,
                            dy_tiles + (size_t)j * 36 * plane + t, plane);
                    }
                for (int cb = 0; cb < c_blocks; cb++) {
#if WHOLE && UPDATE && PREFETCH
                    const size_t filter = (size_t)c_blocks * 9 * B, stepped = pair * 2 * filter + (size_t)cb * 9 * B;
#endif
                    for (int xi = 0; xi < 36; xi++) {
#if WHOLE && UPDATE && PREFETCH
                        for (int v = xi * B / 4; v < (xi + 1) * B / 4; v++)
                            for (int j = 0; j < together; j++) {
                                FETCH_STEPPED(stepped + j * filter + v)
                            }
#endif
                        __global const VF *even = dy_tiles + xi * plane, *odd = even + 36 * plane;
                        for (int c0 = 0; c0 < B; c0 += CT) {
                            __global const real *v =
                                (__global const real *)(x_tiles + ((size_t)cb * 36 + xi) * plane) + c0;
                            VF acc[2 * CT];
                            UNROLL for (int c = 0; c < 2 * CT; c++)
                                acc[c] = (VF)(0);
                            for (int t = 0; t < count; t++) {
                                const VF g0 = even[t], g1 = odd[t];
                                UNROLL for (int c = 0; c < CT; c++) {
                                    const VF value = (VF)(v[t * B + c]);
                                    acc[c] = fma(value, g0, acc[c]);
                                    acc[CT + c] = fma(value, g1, acc[CT + c]);
                                }
                            }
                            UNROLL for (int c = 0; c < CT; c++) {
                                sums[xi * SUMS + c0 + c] = acc[c];
                                sums[xi * SUMS + B + c0 + c] = acc[CT + c];
                            }
                        }
                    }
                    for (int c = 0; c < together * B; c++) {
                        __global const VF *m = sums + c;
                        const size_t at = (((size_t)pair * 2 + c / B) * c_blocks + cb) * 9 * B + c % B;
                        VF half_way[18], dw[3];
                        UNROLL for (int i = 0; i < 6; i++)
                            output_3(m[i * SUMS], m[(6 + i) * SUMS], m[(12 + i) * SUMS], m[(18 + i) * SUMS],
                                     m[(24 + i) * SUMS], m[(30 + i) * SUMS], half_way + i, 6);
                        UNROLL for (int r = 0; r < 3; r++) {
                            __private VF *h = half_way + 6 * r;
                            output_3(h[0], h[1], h[2], h[3], h[4], h[5], dw, 1);
                            UNROLL for (int q = 0; q < 3; q++) {
                                const VF sum = dw[q] * (real)(1.0 / 576);
#if WHOLE
                                PUT_GRADIENT(total, at + (r * 3 + q) * B, sum);
#else
                                __global VF *part = BLOCKS_AT(, parts) + (size_t)chunk * k_blocks * c_blocks * 9 * B +
                                                    at + (r * 3 + q) * B;
                                *part = t0 == first ? sum : *part + sum;
#endif
                            }
                        }
                    }
                }
            }
        }
    }
}
