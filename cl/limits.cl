// limits.cl -- what a device can do at most: multiply-adds in registers, and copies.
//
//   multiply_adds   ACC independent sums, each s = fma(s, a, b) `times` times; their total to y  work-item: one VF of y
//   copy            y = x, `count` VF   work-item: those from id * start on, in steps of `step`, at most `most`
//
// Tunables  ACC  sums that a work-item holds in registers (default 12)

#include "common.h"

#ifndef ACC
#define ACC 12
#endif

__kernel __attribute__((vec_type_hint(VF))) void multiply_adds(TENSOR(, y), int times, float a, float b)
{
    VF sum[ACC];
    UNROLL for (int i = 0; i < ACC; i++) sum[i] = (VF)(i);
    for (int t = 0; t < times; t++) {
        UNROLL for (int i = 0; i < ACC; i++) sum[i] = fma(sum[i], (VF)(a), (VF)(b));
    }
    VF total = 0;
    UNROLL for (int i = 0; i < ACC; i++) total += sum[i];
    BLOCKS_AT(, y)[get_global_id(0)] = total;
}

__kernel __attribute__((vec_type_hint(VF))) void copy(TENSOR(const, x), TENSOR(, y), int count, int start, int step,
                                                      int most)
{
    const int first = get_global_id(0) * start;
    for (int i = 0, at = first; i < most && at < count; i++, at += step)
        BLOCKS_AT(, y)[at] = BLOCKS_AT(const, x)[at];
}
