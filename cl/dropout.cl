// dropout.cl -- dropout and its gradient, with random numbers computed where they are needed.
//
//   dropout   y = x * scale where the element's random word is at least `threshold`, else 0
//
// Random    Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), first word, for
//           the key (seed's low and high half) and the counter (i's low and high half, step, layer_id); i is the
//           element's index in NCHW order, so that the mask depends neither on B nor on the device.
// Tensors   channel blocks [N][C/B][plane][B]; counters: seed's low half, high half, step, images of the batch before x
// Launch    1-D, one work-item per VF, any work-group size
// Aliasing  y may be x

#include "common.h"

#if B == 1
#define SPLAT(word) (word)
#define AS_VI(x) as_int(x)
#define CONVERT_VU(x) convert_uint(x)
#else
#define SPLAT(word) ((VU)(word))
#define AS_VI(x) PASTE(as_int, B)(x)
#define CONVERT_VU(x) PASTE(convert_uint, B)(x)
#endif

// The first of the four random words of each counter.
static inline VU philox(VU c0, VU c1, VU c2, VU c3, uint k0, uint k1)
{
    UNROLL for (int round = 0; round < 10; round++) {
        const VU high0 = mul_hi(c0, SPLAT(0xD2511F53u)), low0 = c0 * SPLAT(0xD2511F53u);
        const VU high1 = mul_hi(c2, SPLAT(0xCD9E8D57u)), low1 = c2 * SPLAT(0xCD9E8D57u);
        c0 = high1 ^ c1 ^ SPLAT(k0);
        c1 = low1;
        c2 = high0 ^ c3 ^ SPLAT(k1);
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

__kernel void dropout(TENSOR(const, x), TENSOR_OF(const, int, counters), TENSOR(, y), int items, int channels,
                      int plane, int layer_id, int threshold, real scale)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    __global const uint *counter = (__global const uint *)AT(counters);
    const int pixel = item % plane, block = item / plane % BLOCKS(channels);
    const uint n = item / plane / BLOCKS(channels) + counter[3];
    const ulong first = ((ulong)n * channels + block * B) * plane + pixel;
    const VU lanes = CONVERT_VU(LANES), step = SPLAT((uint)plane);
    const VU low = SPLAT((uint)first) + lanes * step;
    const VU carried = select(SPLAT(0u), SPLAT(1u), low < SPLAT((uint)first));
    const VU high = SPLAT((uint)(first >> 32)) + mul_hi(lanes, step) + carried;
    const VU word = philox(low, high, SPLAT(counter[2]), SPLAT((uint)layer_id), counter[0], counter[1]);
    const VF value = BLOCKS_AT(const, x)[item] * (VF)(scale);
    BLOCKS_AT(, y)[item] = select((VF)(0), value, word >= SPLAT((uint)threshold));
}
