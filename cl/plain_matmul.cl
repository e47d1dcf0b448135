// plain_matmul.cl -- products of matrices, in batches that are broadcast against each other.
//
//   multiply_rows   y = alpha a b + beta c, columns of b side by side    work-item: TM rows of TV vectors of B columns
//   multiply_dots   the same where columns of b are contiguous, best if rows of a are too    work-item: TM rows of TN
//                   columns
//
// Tensors   row-major; y [batch][m][n]. Element (i, k) of a is at i * a_row + k * a_col, (k, j) of b at k * b_row + j
//           or k + j * b_col, (i, j) of c at i * c_row + j * c_col, c absent where beta is 0; batch: four extents, the
//           last varies fastest, with strides of a, b (s, t)
// Launch    1-D, any work-group size; the guard is `items`
// Tunables  TM   rows per work-item (default 4)
//           TV   vectors of columns per work-item, multiply_rows (default 2)
//           TN   columns per work-item, multiply_dots (default 4)
// Order     rows: k after k; dots: B sums of every Bth k, then one after the other. Neither depends on the tile.

#include "plain.h"

#ifndef TM
#define TM 4
#endif
#ifndef TV
#define TV 2
#endif
#ifndef TN
#define TN 4
#endif

#define BATCH int e1, int e2, int e3, int s0, int s1, int s2, int s3, int t0, int t1, int t2, int t3
#define BATCH_START(i, s) \
    ((long)((i) / e3 / e2 / e1) * s##0 + (long)((i) / e3 / e2 % e1) * s##1 + (long)((i) / e3 % e2) * s##2 + \
     (long)((i) % e3) * s##3)

// The first `count` of B values that are `step` apart, the others 0.
static inline VF load_apart(__global const real *p, int count, int step)
{
    if (step == 1)
        return load_part(p, count, 0);
    Lanes lanes = {.vector = (VF)(0)};
    for (int i = 0; i < min(count, B); i++)
        lanes.lane[i] = p[(long)i * step];
    return lanes.vector;
}

// An element of the result; c is read only where beta is not 0.
static inline real added(real product, __global const real *c, real alpha, real beta)
{
    return beta == 0 ? alpha * product : fma(alpha, product, beta * *c);
}

__kernel void multiply_rows(TENSOR(const, a), TENSOR(const, b), TENSOR(const, c), TENSOR(, y), int items, int m, int n,
                            int depth, int a_row, int a_col, int b_row, int c_row, int c_col, real alpha, real beta,
                            int row_tiles, int column_tiles, BATCH)
{
    const int item = get_global_id(0); // [batch][row tile][column tile]
    if (item >= items)
        return;
    const int first = item % column_tiles * (TV * B), tile = item / column_tiles;
    const int i0 = tile % row_tiles * TM, batch = tile / row_tiles;
    __global const real *a_rows[TM];
    for (int i = 0; i < TM; i++) // rows behind the last compute the last again
        a_rows[i] = AT(a) + BATCH_START(batch, s) + (long)min(i0 + i, m - 1) * a_row;
    __global const real *from_b = AT(b) + BATCH_START(batch, t) + first;
    VF sums[TM][TV];
    for (int i = 0; i < TM; i++)
        for (int v = 0; v < TV; v++)
            sums[i][v] = (VF)(0);
    if (first + TV * B <= n) {
        for (int k = 0; k < depth; k++, from_b += b_row) {
            VF row[TV];
            UNROLL for (int v = 0; v < TV; v++)
                row[v] = VLOAD(from_b + v * B);
            UNROLL for (int i = 0; i < TM; i++) {
                const VF factor = (VF)(a_rows[i][(long)k * a_col]);
                UNROLL for (int v = 0; v < TV; v++)
                    sums[i][v] = fma(factor, row[v], sums[i][v]);
            }
        }
    } else {
        for (int k = 0; k < depth; k++, from_b += b_row) {
            VF row[TV];
            UNROLL for (int v = 0; v < TV; v++)
                row[v] = load_part(from_b + v * B, n - first - v * B, 0);
            UNROLL for (int i = 0; i < TM; i++) {
                const VF factor = (VF)(a_rows[i][(long)k * a_col]);
                UNROLL for (int v = 0; v < TV; v++)
                    sums[i][v] = fma(factor, row[v], sums[i][v]);
            }
        }
    }
    __global const real *from_c = AT(c);
    for (int i = 0; i < TM && i0 + i < m; i++) {
        __global real *to = AT(y) + ((size_t)batch * m + i0 + i) * n + first;
        for (int v = 0; v < TV; v++) {
            Lanes lanes = {.vector = sums[i][v]};
            for (int lane = 0; lane < min(B, n - first - v * B); lane++) {
                const int j = first + v * B + lane;
                to[v * B + lane] =
                    added(lanes.lane[lane], from_c + (long)(i0 + i) * c_row + (long)j * c_col, alpha, beta);
            }
        }
    }
}

__kernel void multiply_dots(TENSOR(const, a), TENSOR(const, b), TENSOR(const, c), TENSOR(, y), int items, int m, int n,
                            int depth, int a_row, int a_col, int b_col, int c_row, int c_col, real alpha, real beta,
                            int row_tiles, int column_tiles, BATCH)
{
    const int item = get_global_id(0); // [batch][row tile][column tile]
    if (item >= items)
        return;
    const int j0 = item % column_tiles * TN, tile = item / column_tiles;
    const int i0 = tile % row_tiles * TM, batch = tile / row_tiles;
    __global const real *a_rows[TM], *b_columns[TN];
    for (int i = 0; i < TM; i++)
        a_rows[i] = AT(a) + BATCH_START(batch, s) + (long)min(i0 + i, m - 1) * a_row;
    for (int j = 0; j < TN; j++)
        b_columns[j] = AT(b) + BATCH_START(batch, t) + (long)min(j0 + j, n - 1) * b_col;
    VF sums[TM][TN];
    for (int i = 0; i < TM; i++)
        for (int j = 0; j < TN; j++)
            sums[i][j] = (VF)(0);
    for (int k = 0; k < depth; k += B) {
        VF row[TM];
        UNROLL for (int i = 0; i < TM; i++)
            row[i] = load_apart(a_rows[i] + (long)k * a_col, depth - k, a_col);
        UNROLL for (int j = 0; j < TN; j++) {
            const VF column = load_part(b_columns[j] + k, depth - k, 0);
            UNROLL for (int i = 0; i < TM; i++)
                sums[i][j] = fma(row[i], column, sums[i][j]);
        }
    }
    __global const real *from_c = AT(c);
    for (int i = 0; i < TM && i0 + i < m; i++)
        for (int j = 0; j < TN && j0 + j < n; j++) {
            const Lanes lanes = {.vector = sums[i][j]};
            real sum = lanes.lane[0];
            for (int lane = 1; lane < B; lane++)
                sum += lanes.lane[lane];
            AT(y)[((size_t)batch * m + i0 + i) * n + j0 + j] =
                added(sum, from_c + (long)(i0 + i) * c_row + (long)(j0 + j) * c_col, alpha, beta);
        }
}
