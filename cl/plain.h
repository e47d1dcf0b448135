// plain.h -- what kernels on row-major tensors of any rank share: unaligned and partial vectors, strided rows.
//
// Index     the host merges axes until at most six are left; the innermost is the row that work-items share out,
//           the other five name the row. Missing axes have extent 1. Strides are in elements, 0 repeats.

#include "common.h"

#if B == 1
#define VLOAD(p) (*(p))
#define VSTORE(v, p) (*(p) = (v))
#else
#define VLOAD(p) PASTE(vload, B)(0, p)
#define VSTORE(v, p) PASTE(vstore, B)(v, 0, p)
#endif

// The first `count` of B values, the others `fill`.
static inline VF load_part(__global const real *p, int count, real fill)
{
    if (count >= B)
        return VLOAD(p);
    Lanes lanes = {.vector = (VF)(fill)};
    for (int i = 0; i < count; i++)
        lanes.lane[i] = p[i];
    return lanes.vector;
}

// Stores the first `count` of B values.
static inline void store_part(VF v, __global real *p, int count)
{
    if (count >= B) {
        VSTORE(v, p);
        return;
    }
    const Lanes lanes = {.vector = v};
    for (int i = 0; i < count; i++)
        p[i] = lanes.lane[i];
}

// Five extents and the strides of one tensor, outermost first; the outermost extent is never needed.
#define OUTER_EXTENTS(e) int e##1, int e##2, int e##3, int e##4
#define OUTER_STRIDES(s) int s##0, int s##1, int s##2, int s##3, int s##4
#define ROW_START(row, e, s) row_start(row, e##1, e##2, e##3, e##4, s##0, s##1, s##2, s##3, s##4)

static inline long row_start(int row, OUTER_EXTENTS(e), OUTER_STRIDES(s))
{
    long at = 0;
    if (e4 > 1) {
        at += (long)(row % e4) * s4;
        row /= e4;
    }
    if (e3 > 1) {
        at += (long)(row % e3) * s3;
        row /= e3;
    }
    if (e2 > 1) {
        at += (long)(row % e2) * s2;
        row /= e2;
    }
    if (e1 > 1) {
        at += (long)(row % e1) * s1;
        row /= e1;
    }
    return at + (long)row * s0;
}
