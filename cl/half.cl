// half.cl -- values that wait as float16, and back: activations that nobody reads for a while.
//
//   to_half     float -> the bits of a float16      work-item: one channel block of one pixel, or one value (PLAIN)
//   to_float    its inverse, exact                  the same
//
// Rounding    to the nearest, halfway to even, but so that no slope that is taken from the value changes: what is not
//             zero stays so (at least 2^-24), and what is below 6 stays below 6. Beyond 65504 finite values become
//             that; infinite ones and NaN stay so. Computed in integers, for the same bits on every device.
// Launch      2-D: pixels, and rows of them that lie together (image and channel block); any work-group size
// Tunables    PLAIN  row-major tensors: values one by one

#include "common.h"

#if defined(PLAIN) || B == 1
typedef float WF;
typedef uint WU;
typedef int WI;
typedef ushort WH;
#define AS_WU(x) as_uint(x)
#define AS_WF(x) as_float(x)
#define TO_WH(x) convert_ushort(x)
#define LOAD_HALF(i, p) vload_half(i, p)
#else
typedef VF WF;
typedef VU WU;
typedef VI WI;
typedef PASTE(ushort, B) WH;
#define AS_WU(x) PASTE(as_uint, B)(x)
#define AS_WF(x) PASTE(as_float, B)(x)
#define TO_WH(x) PASTE(convert_ushort, B)(x)
#define LOAD_HALF(i, p) PASTE(vload_half, B)(i, p)
#endif

#define MOST 0x477fe000u // 65504, float16's largest
#define INFINITE 0x7f800000u
#define NORMAL 0x38800000u // 2^-14: below, float16 counts steps of 2^-24

static inline WH half_bits(WF value)
{
    const WU bits = AS_WU(value), size = bits & 0x7fffffffu;
    const WU near = min(size, (WU)(MOST));
    const WU normal = (near - 0x38000000u + 0xfffu + ((near >> 13) & 1u)) >> 13;
    // A float of 0.5 has the steps that are wanted: the sum rounds to them.
    const WU small = max(AS_WU(AS_WF(near) + 0.5f) - 0x3f000000u, min(size, (WU)(1)));
    WU half_size = select(normal, small, near < (WU)(NORMAL));
    half_size = select(half_size, (WU)(0x45ff), (half_size == (WU)(0x4600)) & (size < (WU)(0x40c00000u)));
    half_size = select(half_size, (WU)(0x7c00), size == (WU)(INFINITE));
    half_size = select(half_size, (WU)(0x7e00), size > (WU)(INFINITE));
    return TO_WH(half_size | ((bits >> 16) & 0x8000u));
}

// x_plane, y_plane: pixels from one row to the next, of which get_global_size(0) are converted
__kernel void to_half(TENSOR(const, x), int x_plane, TENSOR_OF(, ushort, y), int y_plane)
{
    const int pixel = get_global_id(0), row = get_global_id(1);
    const WF value = ((__global const WF *)AT(x))[(size_t)row * x_plane + pixel];
    ((__global WH *)AT(y))[(size_t)row * y_plane + pixel] = half_bits(value);
}

__kernel void to_float(TENSOR_OF(const, half, x), int x_plane, TENSOR(, y), int y_plane)
{
    const int pixel = get_global_id(0), row = get_global_id(1);
    ((__global WF *)AT(y))[(size_t)row * y_plane + pixel] = LOAD_HALF((size_t)row * x_plane + pixel, AT(x));
}
