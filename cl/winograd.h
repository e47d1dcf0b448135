// winograd.h -- transforms of Winograd's F(OUT x OUT, TAPS x TAPS), OUT + TAPS = SIDE + 1. Those of a side share the
// input's, with the points 0, 1, -1, 2, -2, 1/2, -1/2, infinity (SIDE 8, for 4 and 5 taps), those without the halves
// (SIDE 6), or 0, 1, -1, infinity (SIDE 4, for 3 taps).

#include "pooling.h"

// Taps of a filter's row, 3 to 5, and outputs of a tile's.
#ifndef TAPS
#define TAPS 3
#endif
#ifndef SIDE
#define SIDE 6
#endif
#define OUT (SIDE + 1 - TAPS)

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

// Likewise 8 values to 8.
static inline void input_8(const VF d0, const VF d1, const VF d2, const VF d3, const VF d4, const VF d5, const VF d6,
                           const VF d7, __private VF *o, int stride)
{
    const VF a = fma((VF)(-4.25f), d4, d2 + d6), b = fma((VF)(-4.25f), d3, d1 + d5);
    const VF c = fma((VF)(0.25f), d2, fma((VF)(-1.25f), d4, d6)), e = fma((VF)(0.25f), d1, fma((VF)(-1.25f), d3, d5));
    const VF f = fma((VF)(4), d2, fma((VF)(-5), d4, d6)), g = fma((VF)(4), d1, fma((VF)(-5), d3, d5));
    o[0] = fma((VF)(5.25f), d2 - d4, d6 - d0);
    o[stride] = a + b;
    o[2 * stride] = a - b;
    o[3 * stride] = fma((VF)(2), e, c);
    o[4 * stride] = fma((VF)(-2), e, c);
    o[5 * stride] = fma((VF)(0.5f), g, f);
    o[6 * stride] = fma((VF)(-0.5f), g, f);
    o[7 * stride] = fma((VF)(5.25f), d3 - d5, d7 - d1);
}

// Likewise 4 values to 4.
static inline void input_4(const VF d0, const VF d1, const VF d2, const VF d3, __private VF *o, int stride)
{
    o[0] = d0 - d2;
    o[stride] = d1 + d2;
    o[2 * stride] = d2 - d1;
    o[3 * stride] = d3 - d1;
}

// F(v(0), ..., v(SIDE - 1), o, stride)
#if SIDE == 8
#define OF_SIDE(F, v, o, stride) F##8(v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7), o, stride)
#define SCALE 90 // of a row of transformed filters: see FILTER_ROW
#elif SIDE == 6
#define OF_SIDE(F, v, o, stride) F##6(v(0), v(1), v(2), v(3), v(4), v(5), o, stride)
#define SCALE 24
#else
#define OF_SIDE(F, v, o, stride) F##4(v(0), v(1), v(2), v(3), o, stride)
#define SCALE 2
#endif
#define AT_ROW(i) d[(i) * w + j]
#define AT_VALUE(i) v[i]
#define AT_HALF(j) r[j]
#define AT_PRODUCT(j) m[(SIDE * (j) + i) * stride]

// The SIDE x SIDE values of an input tile whose first one is (row, col) of a channel block `d` of h rows and w columns
// (which may lie outside: zeros), transformed: value xi goes to target[xi * stride].
static inline void transform_input_tile(__global const VF *d, int row, int col, int h, int w, __global VF *target,
                                        size_t stride)
{
    VF half_way[SIDE * SIDE];
    if (row >= 0 && row + SIDE <= h && col >= 0 && col + SIDE <= w) {
        d += row * w + col;
        UNROLL for (int j = 0; j < SIDE; j++)
            OF_SIDE(input_, AT_ROW, half_way + j, SIDE);
    } else {
        // Loads are from the nearest pixel, then thrown away: branches would take longer.
        UNROLL for (int j = 0; j < SIDE; j++) {
            const int inside = min(max(col + j, 0), w - 1);
            VF v[SIDE];
            UNROLL for (int i = 0; i < SIDE; i++) {
                const VF nearest = d[min(max(row + i, 0), h - 1) * w + inside];
                v[i] = row + i >= 0 && row + i < h && inside == col + j ? nearest : (VF)(0);
            }
            OF_SIDE(input_, AT_VALUE, half_way + j, SIDE);
        }
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
        VF out[SIDE];
        __private VF *r = half_way + SIDE * i;
        OF_SIDE(input_, AT_HALF, out, 1);
        UNROLL for (int j = 0; j < SIDE; j++)
            target[(size_t)(i * SIDE + j) * stride] = out[j];
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
// The points that both of the larger sides have: 0, 1, -1, 2, -2.
#define FILTER_POINTS(o, stride, v)                                                              \
    {                                                                                            \
        const VF even = EVEN(v, 1), odd = ODD(v, 1), wide = EVEN(v, 4), wide_odd = ODD(v, 4);    \
        (o)[0] = (v)[0];                                                                         \
        (o)[stride] = even + odd;                                                                \
        (o)[2 * (stride)] = even - odd;                                                          \
        (o)[3 * (stride)] = fma((VF)(2), wide_odd, wide);                                        \
        (o)[4 * (stride)] = fma((VF)(-2), wide_odd, wide);                                       \
    }
#define FILTER_6(o, stride, v)                                                                   \
    {                                                                                            \
        FILTER_POINTS(o, stride, v)                                                              \
        (o)[5 * (stride)] = (v)[TAPS - 1];                                                       \
    }

// Likewise TAPS values to 8, times (-1, -9/2, -9/2, 90, 90, h, h, 1) with h = 45/32 * 2^(TAPS - 1): at the halves they
// are the reversed taps at 2 and -2, there with the other sign where TAPS is even.
#define FILTER_8(o, stride, v)                                                                   \
    {                                                                                            \
        VF back[TAPS];                                                                           \
        UNROLL for (int tap = 0; tap < TAPS; tap++)                                              \
            back[tap] = (v)[TAPS - 1 - tap];                                                     \
        const VF near = EVEN(back, 4), near_odd = ODD(back, 4);                                  \
        FILTER_POINTS(o, stride, v)                                                              \
        (o)[5 * (stride)] = fma((VF)(2), near_odd, near);                                        \
        (o)[6 * (stride)] = fma((VF)(-2), near_odd, near);                                       \
        (o)[7 * (stride)] = (v)[TAPS - 1];                                                       \
    }

// Likewise 3 values to 4, times (1, 2, 2, 1).
#define FILTER_4(o, stride, v)                                                                   \
    {                                                                                            \
        const VF even = EVEN(v, 1), odd = ODD(v, 1);                                             \
        (o)[0] = (v)[0];                                                                         \
        (o)[stride] = even + odd;                                                                \
        (o)[2 * (stride)] = even - odd;                                                          \
        (o)[3 * (stride)] = (v)[TAPS - 1];                                                       \
    }
#define FILTER_ROW PASTE(FILTER_, SIDE)

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

// Likewise 8 values to OUT: 90 times too large.
#if SIDE == 8
#define HALF(n) (VF)((1 << (OUT - 2)) / (real)(1 << (n))) // of products at a half, for output n
static inline void output_of_8(const VF m0, const VF m1, const VF m2, const VF m3, const VF m4, const VF m5,
                               const VF m6, const VF m7, __private VF *o, int stride)
{
    const VF a = (m1 + m2) * -20, b = (m1 - m2) * -20, c = m3 + m4, d = m3 - m4;
    const VF other = TAPS % 2 ? m6 : -m6, e = m5 + other, f = m5 - other;
    o[0] = fma(HALF(0), e, fma((VF)(-90), m0, a + c));
    o[stride] = fma((VF)(2), d, fma(HALF(1), f, b));
    o[2 * stride] = fma((VF)(4), c, fma(HALF(2), e, a));
    o[3 * stride] = fma((VF)(8), d, fma(HALF(3), f, b));
#if OUT > 4
    o[4 * stride] = fma((VF)(16), c, fma(HALF(4), e, a));
#endif
    o[(OUT - 1) * stride] = fma((VF)(90), m7, o[(OUT - 1) * stride]);
}
#endif

// Likewise 4 values to 2: twice too large.
static inline void output_of_4(const VF m0, const VF m1, const VF m2, const VF m3, __private VF *o, int stride)
{
    o[0] = fma((VF)(2), m0, m1 + m2);
    o[stride] = fma((VF)(2), m3, m1 - m2);
}

// Transforms the products of a tile and output block `kb` back, m[xi * stride], and writes what lies in the image of
// p_out rows and q_out columns; `out` and `add` (a residual, or NULL) point to the tile's first value, (row, col).
// Pooled (KIND), p_out and q_out are even, and `out` and `argmax` point to the tile's first window.
static inline void write_output_tile(__global const VF *m, size_t stride, __global VF *out, __global PLACES *argmax,
                                     __global const VF *add, const VF offset, int row, int col, int p_out, int q_out,
                                     int kb, int k_total, int activation, float slope)
{
    VF half_way[SIDE * OUT];
#ifdef KIND
    VF pooled[OUT / 2];
    VI places[OUT / 2];
#endif
    UNROLL for (int i = 0; i < SIDE; i++)
        OF_SIDE(output_of_, AT_PRODUCT, half_way + i, SIDE);
    UNROLL for (int p = 0; p < OUT; p++) {
        VF results[OUT];
        __private VF *r = half_way + SIDE * p;
        OF_SIDE(output_of_, AT_HALF, results, 1);
        if (row + p < p_out) {
            UNROLL for (int q = 0; q < OUT; q++) {
                if (col + q < q_out) {
                    VF result = results[q] * (real)(1.0 / (SCALE * SCALE)) + offset; // whole sums stay whole
                    if (add)
                        result += add[p * q_out + q];
#ifdef KIND
                    result = activate(result, activation, slope);
                    results[q] = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
#else
                    out[p * q_out + q] = activate_usual(result, activation);
#endif
                }
            }
#ifdef KIND
            reduce_pairs(p % 2, OUT / 2, results, pooled, places);
            UNROLL for (int q = 0; q < OUT / 2; q++) {
                if (p % 2 && col + 2 * q < q_out) {
                    out[p / 2 * (q_out / 2) + q] = pooled[q];
#if ARGMAX
                    argmax[p / 2 * (q_out / 2) + q] = STORED(places[q]);
#endif
                }
            }
#endif
        }
    }
#ifndef KIND
    if (CLAMPS(activation))
        return;
    // Written out for every output, other activations would fill the registers of a GPU.
    const int rows = min(OUT, p_out - row), cols = min(OUT, q_out - col);
    for (int at = 0; at < rows * cols; at++) {
        __global VF *target = out + at / cols * q_out + at % cols;
        const VF result = activate(*target, activation, slope);
        *target = activation == SIGMOID ? keep_channels(result, kb, k_total) : result;
    }
#endif
}
