// winograd.h -- transforms of Winograd's F(OUT x OUT, TAPS x TAPS), OUT + TAPS = 7: all share the input's, with the points
// 0, 1, -1, 2, -2, infinity.

#include "common.h"

// Taps of a filter's row, 3 to 5, and outputs of a tile's.
#ifndef TAPS
#define TAPS 3
#endif
#define OUT (7 - TAPS)

// One dimension of B^T d: 6 values to 6.
static inline void input_6(const VF d0, const VF d1, const VF d2, const VF d3, const VF d4, const VF d5,
                           __private VF *o, int stride)
{
    const VF a = fma((VF)(-4), d2, d4), b = fma((VF)(-4), d1, d3), c = d4 - d2, e = (d3 - d1) * 2;
    o[0] = fma((VF)(4), d0, fma((VF)(-5), d2, d4));
    o[stride] = a + b;
    o[2 * stride] = a - b;
    o[3 * stride] = c + e;
    o[4 * stride] = c - e;
    o[5 * stride] = fma((VF)(4), d1, fma((VF)(-5), d3, d5));
}

// The 6x6 values of an input tile whose first one is (row, col) of a channel block `d` of h rows and w columns (which may
// lie outside: zeros), transformed: value xi goes to target[xi * stride].
static inline void transform_input_tile(__global const VF *d, int row, int col, int h, int w, __global VF *target,
                                        size_t stride)
{
    VF half_way[36];
    if (row >= 0 && row + 6 <= h && col >= 0 && col + 6 <= w) {
        d += row * w + col;
        UNROLL for (int j = 0; j < 6; j++)
            input_6(d[j], d[w + j], d[2 * w + j], d[3 * w + j], d[4 * w + j], d[5 * w + j], half_way + j, 6);
    } else {
        // Loads are from the nearest pixel, then thrown away: branches would take longer.
        UNROLL for (int j = 0; j < 6; j++) {
            const int inside = min(max(col + j, 0), w - 1);
            VF v[6];
            UNROLL for (int i = 0; i < 6; i++) {
                const VF nearest = d[min(max(row + i, 0), h - 1) * w + inside];
                v[i] = row + i >= 0 && row + i < h && inside == col + j ? nearest : (VF)(0);
            }
            input_6(v[0], v[1], v[2], v[3], v[4], v[5], half_way + j, 6);
        }
    }
    UNROLL for (int i = 0; i < 6; i++) {
        VF out[6];
        __private VF *r = half_way + 6 * i;
        input_6(r[0], r[1], r[2], r[3], r[4], r[5], out, 1);
        UNROLL for (int j = 0; j < 6; j++)
            target[(size_t)(i * 6 + j) * stride] = out[j];
    }
}

// One dimension of G w, times (4, -6, -6, 24, 24, 1), so that its factors are whole: TAPS values to 6.
#if TAPS == 3
#define EVEN(v, square) fma((VF)(square), (v)[2], (v)[0])
#define ODD(v, square) (v)[1]
#elif TAPS == 4
#define EVEN(v, square) fma((VF)(square), (v)[2], (v)[0])
#define ODD(v, square) fma((VF)(square), (v)[3], (v)[1])
#else
#define EVEN(v, square) fma((VF)((square) * (square)), (v)[4], fma((VF)(square), (v)[2], (v)[0]))
#define ODD(v, square) fma((VF)(square), (v)[3], (v)[1])
#endif
#define FILTER_6(o, stride, v)                                                                   \
    {                                                                                            \
        const VF even = EVEN(v, 1), odd = ODD(v, 1), wide = EVEN(v, 4), wide_odd = ODD(v, 4);    \
        (o)[0] = (v)[0];                                                                         \
        (o)[stride] = even + odd;                                                                \
        (o)[2 * (stride)] = even - odd;                                                          \
        (o)[3 * (stride)] = fma((VF)(2), wide_odd, wide);                                        \
        (o)[4 * (stride)] = fma((VF)(-2), wide_odd, wide);                                       \
        (o)[5 * (stride)] = (v)[TAPS - 1];                                                       \
    }

// One dimension of A^T m, 6 values to OUT, of products with such filters: 24 times too large.
static inline void output_of_6(const VF m0, const VF m1, const VF m2, const VF m3, const VF m4, const VF m5,
                               __private VF *o, int stride)
{
    const VF a = m1 + m2, b = m1 - m2, c = m3 + m4, d = m3 - m4;
    o[0] = fma((VF)(6), m0, fma((VF)(-4), a, c));
#if OUT == 2
    o[stride] = fma((VF)(24), m5, fma((VF)(2), d, b * -4));
#else
    o[stride] = fma((VF)(2), d, b * -4);
#if OUT == 3
    o[2 * stride] = fma((VF)(24), m5, (c - a) * 4);
#else
    o[2 * stride] = (c - a) * 4;
    o[3 * stride] = fma((VF)(24), m5, fma((VF)(8), d, b * -4));
#endif
#endif
}

// Transforms the products of a tile and output block `kb` back, m[xi * stride], and writes what lies in the image of
// p_out rows and q_out columns; `out` and `add` (a residual, or NULL) point to the tile's first value, (row, col).
static inline void write_output_tile(__global const VF *m, size_t stride, __global VF *out, __global const VF *add,
                                     const VF offset, int row, int col, int p_out, int q_out, int kb, int k_total,
                                     int activation, float slope)
{
    VF half_way[6 * OUT];
    UNROLL for (int i = 0; i < 6; i++)
        output_of_6(m[i * stride], m[(6 + i) * stride], m[(12 + i) * stride], m[(18 + i) * stride],
                    m[(24 + i) * stride], m[(30 + i) * stride], half_way + i, 6);
    UNROLL for (int p = 0; p < OUT; p++) {
        VF results[OUT];
        __private VF *r = half_way + 6 * p;
        output_of_6(r[0], r[1], r[2], r[3], r[4], r[5], results, 1);
        if (row + p < p_out) {
            UNROLL for (int q = 0; q < OUT; q++) {
                if (col + q < q_out) {
                    VF result = results[q] * (real)(1.0 / 576) + offset; // whole sums stay whole
                    if (add)
                        result += add[p * q_out + q];
                    result = activate(result, activation, slope);
                    out[p * q_out + q] = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
                }
            }
        }
    }
}
