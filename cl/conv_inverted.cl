// conv_inverted.cl -- an inverted residual: 1x1 convolution, depthwise convolution, 1x1 convolution, in one.
//
//   conv_inverted   e[n,t,h,w] = f_e(be[t] + sum over c of we[t,c] x[n,c,h,w])
//                   d[n,t,p,q] = f_d(bd[t] + sum over r,s of wd[t,r,s] e[n, t, p*stride - pad + r, ...])
//                   y[n,k,p,q] = f_y(residual + b[k] + sum over t of w[k,t] d[n,t,p,q])
//                   EXPAND 0: e is x
//
// Tensors   x [N][C/B][H][W][B]; we, w filter blocks; wd [T/B][TAPS][TAPS][B]; be, bd [T/B][B]; b [K/B][B];
//           y, residual [N][K/B][P][Q][B], residual optional;
//           scratch, for each work-item [T/B][ring][W][B] of e and [T/B][strip][Q][B] of d
// Launch    persistent work-items; each takes an equal share of the rows of all images, strip by strip. Rows of e that
//           the next strip reads stay in a ring.
// Tunables  WT, KB  register tile of the first product: pixels and blocks of channels (default 14, 2); at most W pixels
//           WP, KP  of the second (default 14, 2); at most strip * Q pixels    WD  depthwise outputs (default 7)
//           TAPS  window (default 3)     STRIDE_W  its column stride (default 1)
//           ACT_E, ACT_D, ACT_Y  activations (default none)
//           PREFETCH  1: the compiler has __builtin_prefetch (default 0): weights come ahead of their use
// Order     as in conv_direct.cl and conv_depthwise.cl: the same bits as the three of them

#include "ahead.h"

#ifndef WT
#define WT 14
#endif
#ifndef KB
#define KB 2
#endif
#ifndef WP
#define WP 14
#endif
#ifndef KP
#define KP 2
#endif
#ifndef WD
#define WD 7
#endif
#ifndef TAPS
#define TAPS 3
#endif
#ifndef STRIDE_W
#define STRIDE_W 1
#endif
#ifndef EXPAND
#define EXPAND 1
#endif
#ifndef ACT_E
#define ACT_E 0
#endif
#ifndef ACT_D
#define ACT_D 0
#endif
#ifndef ACT_Y
#define ACT_Y 0
#endif

// acc[j][i] += w[j][c] * pixels[i][c] for the channels of one block.
#define LOAD_WEIGHT(j, a) weight[j] = LOAD_W(tap, (j) * (size_t)filter_stride + c);
#define MULTIPLY(i, deep)                         \
    {                                             \
        const VF value = (VF)(pixels[(i) * B + c]); \
        REPEAT_4(deep, MULTIPLY_ADD, i)           \
    }
#define MULTIPLY_BLOCK(wide, deep, channels)      \
    for (int c = 0; c < (channels); c++) {        \
        VF weight[deep];                          \
        FETCH_WEIGHTS(deep)                       \
        REPEAT_4(deep, LOAD_WEIGHT, 0)            \
        REPEAT(wide, MULTIPLY, deep)              \
    }

#define LINE ((WD - 1) * STRIDE_W + TAPS)
#define INSIDE(j) source[j]
#define CHECKED(j) ((uint)(column + (j)) < (uint)w_in ? source[j] : (VF)(0))
#define ADD_TAP(i, s) acc[i] = fma(pixels[(i) * STRIDE_W + (s)], weight[r * TAPS + (s)], acc[i]);
#define ADD_ROW(PIXEL)                            \
    {                                             \
        VF pixels[LINE];                          \
        UNROLL for (int j = 0; j < LINE; j++)     \
            pixels[j] = PIXEL(j);                 \
        UNROLL for (int s = 0; s < TAPS; s++) {   \
            REPEAT(WD, ADD_TAP, s)                \
        }                                         \
    }

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void conv_inverted(
    PIECES_OF(x), TENSOR(const, we), TENSOR(const, be), TENSOR(const, wd), TENSOR(const, bd), TENSOR(const, w),
    TENSOR(const, bias), TENSOR(const, residual), int residual_plane, OUTPUT(y), TENSOR(, scratch),
    int images, int c_total, int t_total, int k_total, int h_in, int w_in, int p_out, int q_out, int stride_h,
    int pad_top, int pad_left, int ring, int strip, float slope_e, float slope_d, float slope_y)
{
    const int item = get_global_id(0), workers = get_global_size(0);
    const int t_blocks = BLOCKS(t_total), c_blocks = BLOCKS(c_total), k_blocks = BLOCKS(k_total);
    const int e_plane = ring * w_in, d_plane = strip * q_out;
    __global VF *const e = BLOCKS_AT(, scratch) + (size_t)item * t_blocks * (EXPAND * e_plane + d_plane);
    __global VF *const d = e + (size_t)t_blocks * EXPAND * e_plane;
    const int end = (long)images * p_out * (item + 1) / workers;
    int known = 0, image = -1; // rows of e of an image before `known` were computed
    for (int row = (long)images * p_out * item / workers; row < end;) {
        const int n = row / p_out, p0 = row % p_out, rows = min(strip, min(p_out - p0, end - row));
        row += rows;
        const int first = max(p0 * stride_h - pad_top, 0);
        const int last = min((p0 + rows - 1) * stride_h - pad_top + TAPS, h_in);
        known = image == n ? max(known, first) : first;
        image = n;
        for (int tb0 = 0; tb0 < t_blocks; tb0 += KB) {
#if EXPAND
            const int kb = min(tb0, max(t_blocks - KB, 0));
            {
                const int filter_stride = c_blocks * B;
                __global const weight_t *filter = WEIGHTS_AT(we) + (size_t)kb * filter_stride * B;
                VF offset[KB];
                UNROLL for (int j = 0; j < KB; j++)
                    offset[j] = be_buffer ? BLOCKS_AT(const, be)[kb + j] : (VF)(0);
                for (int h = known; h < last; h++) {
                    for (int q = 0; q < w_in; q += WT) {
                        const int q0 = min(q, w_in - WT);
                        VF acc[KB][WT];
                        UNROLL for (int j = 0; j < KB; j++)
                            UNROLL for (int i = 0; i < WT; i++)
                                acc[j][i] = (VF)(0);
                        for (int cb = 0; cb < c_blocks; cb++) {
                            const int channels = min(B, c_total - cb * B);
                            __global const weight_t *tap = filter + (size_t)cb * B * B;
                            __global const real *pixels = PIECE_BLOCK(x, n, cb) + (size_t)(h * w_in + q0) * B;
                            MULTIPLY_BLOCK(WT, KB, channels)
                        }
                        UNROLL for (int j = 0; j < KB; j++) {
                            __global VF *out = e + (size_t)(kb + j) * e_plane + h % ring * w_in + q0;
                            UNROLL for (int i = 0; i < WT; i++)
                                out[i] = activate(acc[j][i] + offset[j], ACT_E, slope_e);
                        }
                    }
                }
            }
#endif
            for (int tb = tb0; tb < min(tb0 + KB, t_blocks); tb++) {
                __global const VF *taps = BLOCKS_AT(const, wd) + (size_t)tb * TAPS * TAPS;
                const VF shift = bd_buffer ? BLOCKS_AT(const, bd)[tb] : (VF)(0);
                VF weight[TAPS * TAPS];
                UNROLL for (int t = 0; t < TAPS * TAPS; t++)
                    weight[t] = taps[t];
#if EXPAND
                __global const VF *block = e + (size_t)tb * e_plane;
#else
                __global const VF *block = (__global const VF *)PIECE_BLOCK(x, n, tb);
#endif
                for (int p = 0; p < rows; p++) {
                    __global VF *out = d + (size_t)tb * d_plane + p * q_out;
                    for (int q0 = 0; q0 < q_out; q0 += WD) {
                        const int column = q0 * STRIDE_W - pad_left;
                        const bool inside = column >= 0 && column + LINE <= w_in;
                        VF acc[WD];
                        UNROLL for (int i = 0; i < WD; i++)
                            acc[i] = (VF)(0);
                        UNROLL for (int r = 0; r < TAPS; r++) {
                            const int h = (p0 + p) * stride_h - pad_top + r;
                            if (h < 0 || h >= h_in)
                                continue;
                            __global const VF *source = block + ((EXPAND ? h % ring : h) * w_in + column);
                            if (inside)
                                ADD_ROW(INSIDE)
                            else
                                ADD_ROW(CHECKED)
                        }
                        UNROLL for (int i = 0; i < WD; i++)
                            if (q0 + i < q_out)
                                out[q0 + i] = activate(acc[i] + shift, ACT_D, slope_d);
                    }
                }
            }
        }
        known = last;
        const int count = rows * q_out, filter_stride = t_blocks * B;
        for (int kb0 = 0; kb0 < k_blocks; kb0 += KP) {
            const int kb = min(kb0, max(k_blocks - KP, 0));
            __global const weight_t *filter = WEIGHTS_AT(w) + (size_t)kb * filter_stride * B;
            for (int q = 0; q < count; q += WP) {
                const int q0 = max(min(q, count - WP), 0); // beyond `count` lies what is thrown away
                VF acc[KP][WP];
                UNROLL for (int j = 0; j < KP; j++)
                    UNROLL for (int i = 0; i < WP; i++)
                        acc[j][i] = (VF)(0);
                for (int tb = 0; tb < t_blocks; tb++) {
                    const int channels = min(B, t_total - tb * B);
                    __global const weight_t *tap = filter + (size_t)tb * B * B;
                    __global const real *pixels = (__global const real *)(d + (size_t)tb * d_plane + q0);
                    MULTIPLY_BLOCK(WP, KP, channels)
                }
                UNROLL for (int j = 0; j < KP; j++) {
                    const VF offset = bias_buffer ? BLOCKS_AT(const, bias)[kb + j] : (VF)(0);
                    const int at = p0 * q_out + q0;
                    __global const VF *add =
                        BLOCKS_AT(const, residual) + ((size_t)n * y_depth + kb + j) * residual_plane + at;
                    __global VF *out = OUTPUT_BLOCK(y, n, kb + j) + at;
                    UNROLL for (int i = 0; i < WP; i++)
                        acc[j][i] += offset;
                    if (residual_buffer) {
                        UNROLL for (int i = 0; i < WP; i++)
                            if (q0 + i < count)
                                acc[j][i] += add[i];
                    }
                    UNROLL for (int i = 0; i < WP; i++) {
                        const VF result = activate(acc[j][i], ACT_Y, slope_y);
                        if (q0 + i < count)
                            out[i] = ACT_Y == SIGMOID ? keep_channels(result, kb + j, k_total) : result;
                    }
                }
            }
        }
    }
}
