// common.h -- types, index helpers and the activation epilogue, included by every kernel file.
//
// Layout      channel blocks: a tensor (N, C, H, W) is stored as [N][ceil(C/B)][H][W][B], channel tails zero;
//             filters (K, C, R, S) as [ceil(K/B)][J][R][S][B of c][B of k], J input blocks per output block.
// Tensors     are passed as a buffer and a 64-bit element offset (TENSOR, AT), several of them share a buffer.
// Tunables    B   values per channel block: 16, 8, 4 or 1; a device fact (default 16)   W_HALF  weights are half
// Arithmetic  explicit fma only: the order of every sum is fixed, so that results do not depend on tiles.

#pragma OPENCL FP_CONTRACT OFF

#ifndef B
#define B 16
#endif

typedef float real;

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

// VF: one channel block of values; VI, VU: of signed and unsigned integers.
#if B == 1
typedef float VF;
typedef int VI;
typedef uint VU;
#define CONVERT_VF(x) convert_float(x)
#define CONVERT_VI(x) convert_int(x)
#define LANES ((VI)(0))
#else
typedef PASTE(float, B) VF;
typedef PASTE(int, B) VI;
typedef PASTE(uint, B) VU;
#define CONVERT_VF(x) PASTE(convert_float, B)(x)
#define CONVERT_VI(x) PASTE(convert_int, B)(x)
#if B == 4
#define LANES ((VI)(0, 1, 2, 3))
#elif B == 8
#define LANES ((VI)(0, 1, 2, 3, 4, 5, 6, 7))
#else
#define LANES ((VI)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
#endif
#endif

// A tensor parameter, and the pointer to its first element. Q: const or nothing.
#define TENSOR(Q, name) __global Q real *name##_buffer, ulong name##_offset
#define TENSOR_OF(Q, type, name) __global Q type *name##_buffer, ulong name##_offset
#define AT(name) (name##_buffer + name##_offset)
#define BLOCKS_AT(Q, name) ((__global Q VF *)(name##_buffer + name##_offset))

// Weights are stored as float or, with W_HALF, as half, which is a matter of storage: OpenCL C loads and stores it
// everywhere, arithmetic stays float. LOAD_W: channel block `i` behind p.
#ifdef W_HALF
typedef half weight_t;
#if B == 1
#define LOAD_W(p, i) vload_half(i, p)
#else
#define LOAD_W(p, i) PASTE(vload_half, B)(i, p)
#endif
#else
typedef real weight_t;
#define LOAD_W(p, i) ((__global const VF *)(p))[i]
#endif
#define WEIGHTS_AT(name) ((__global const weight_t *)name##_buffer + name##_offset)

#define UNROLL _Pragma("unroll")

// STEP(0, a) .. STEP(n - 1, a): an unrolled loop, n at most 28. Steps of REPEAT may use REPEAT_4, n at most 4. With
// WRITE_OUT the preprocessor unrolls: for compilers that do not, on devices that limit iterations. Where a compiler
// unrolls, it makes better code of a loop.
#ifndef WRITE_OUT
#define REPEAT(n, STEP, a) \
    UNROLL for (int repeated = 0; repeated < (n); repeated++) { STEP(repeated, a) }
#define REPEAT_4(n, STEP, a) \
    UNROLL for (int repeated_4 = 0; repeated_4 < (n); repeated_4++) { STEP(repeated_4, a) }
#else
#define REPEAT(n, STEP, a) PASTE(REPEAT_TO_, n)(STEP, a)
#define REPEAT_4(n, STEP, a) PASTE(REPEAT_4_TO_, n)(STEP, a)
#define REPEAT_4_TO_1(STEP, a) STEP(0, a)
#define REPEAT_4_TO_2(STEP, a) REPEAT_4_TO_1(STEP, a) STEP(1, a)
#define REPEAT_4_TO_3(STEP, a) REPEAT_4_TO_2(STEP, a) STEP(2, a)
#define REPEAT_4_TO_4(STEP, a) REPEAT_4_TO_3(STEP, a) STEP(3, a)
#define REPEAT_TO_1(STEP, a) STEP(0, a)
#define REPEAT_TO_2(STEP, a) REPEAT_TO_1(STEP, a) STEP(1, a)
#define REPEAT_TO_3(STEP, a) REPEAT_TO_2(STEP, a) STEP(2, a)
#define REPEAT_TO_4(STEP, a) REPEAT_TO_3(STEP, a) STEP(3, a)
#define REPEAT_TO_5(STEP, a) REPEAT_TO_4(STEP, a) STEP(4, a)
#define REPEAT_TO_6(STEP, a) REPEAT_TO_5(STEP, a) STEP(5, a)
#define REPEAT_TO_7(STEP, a) REPEAT_TO_6(STEP, a) STEP(6, a)
#define REPEAT_TO_8(STEP, a) REPEAT_TO_7(STEP, a) STEP(7, a)
#define REPEAT_TO_9(STEP, a) REPEAT_TO_8(STEP, a) STEP(8, a)
#define REPEAT_TO_10(STEP, a) REPEAT_TO_9(STEP, a) STEP(9, a)
#define REPEAT_TO_11(STEP, a) REPEAT_TO_10(STEP, a) STEP(10, a)
#define REPEAT_TO_12(STEP, a) REPEAT_TO_11(STEP, a) STEP(11, a)
#define REPEAT_TO_13(STEP, a) REPEAT_TO_12(STEP, a) STEP(12, a)
#define REPEAT_TO_14(STEP, a) REPEAT_TO_13(STEP, a) STEP(13, a)
#define REPEAT_TO_15(STEP, a) REPEAT_TO_14(STEP, a) STEP(14, a)
#define REPEAT_TO_16(STEP, a) REPEAT_TO_15(STEP, a) STEP(15, a)
#define REPEAT_TO_17(STEP, a) REPEAT_TO_16(STEP, a) STEP(16, a)
#define REPEAT_TO_18(STEP, a) REPEAT_TO_17(STEP, a) STEP(17, a)
#define REPEAT_TO_19(STEP, a) REPEAT_TO_18(STEP, a) STEP(18, a)
#define REPEAT_TO_20(STEP, a) REPEAT_TO_19(STEP, a) STEP(19, a)
#define REPEAT_TO_21(STEP, a) REPEAT_TO_20(STEP, a) STEP(20, a)
#define REPEAT_TO_22(STEP, a) REPEAT_TO_21(STEP, a) STEP(21, a)
#define REPEAT_TO_23(STEP, a) REPEAT_TO_22(STEP, a) STEP(22, a)
#define REPEAT_TO_24(STEP, a) REPEAT_TO_23(STEP, a) STEP(23, a)
#define REPEAT_TO_25(STEP, a) REPEAT_TO_24(STEP, a) STEP(24, a)
#define REPEAT_TO_26(STEP, a) REPEAT_TO_25(STEP, a) STEP(25, a)
#define REPEAT_TO_27(STEP, a) REPEAT_TO_26(STEP, a) STEP(26, a)
#define REPEAT_TO_28(STEP, a) REPEAT_TO_27(STEP, a) STEP(27, a)
#endif

#define BLOCKS(channels) (((channels) + B - 1) / B)

// Keeps the lanes of channel block `block` that hold one of `channels` channels, zeroes the tail.
static inline VF keep_channels(VF v, int block, int channels)
{
    return select((VF)(0), v, LANES < (VI)(channels - block * B));
}

// The values of a vector one by one.
typedef union {
    VF vector;
    real lane[B];
} Lanes;

// The sum of a vector's lanes, by halves.
static inline real sum_lanes(VF v)
{
#if B == 1
    return v;
#else
#if B == 16
    const float8 eight = v.lo + v.hi;
    const float4 four = eight.lo + eight.hi;
#elif B == 8
    const float4 four = v.lo + v.hi;
#else
    const float4 four = v;
#endif
    const float2 two = four.lo + four.hi;
    return two.lo + two.hi;
#endif
}

static inline real max_lanes(VF v)
{
    Lanes lanes = {.vector = v};
    real most = lanes.lane[0];
    for (int i = 1; i < B; i++)
        most = fmax(most, lanes.lane[i]);
    return most;
}

#if B == 1
#define any_lane(v) ((v) != 0)
#else
#define any_lane(v) any(v)
#endif

// y = activation(x): 0 none, 1 ReLU, 2 leaky ReLU, 3 ReLU6, 4 sigmoid, 5 tanh, 6 SiLU, 7 hard swish (layer.pyx:
// ACTIVATIONS). The last two have no gradient from y.
// NaN passes through. f(0) = 0 for all but the sigmoid, whose writers mask the channel tail.
#define RELU6 3
#define SIGMOID 4
#define CLAMPS(activation) ((activation) <= 1 || (activation) == RELU6)
static inline VF clamp_values(VF x, VF least, VF most)
{
    const VF raised = select(x, least, x < least);
    return select(raised, most, raised > most);
}

// The usual activations, which share two instructions; any other leaves x as it is.
static inline VF activate_usual(VF x, int activation)
{
    const bool bounded = activation && CLAMPS(activation);
    return clamp_values(x, (VF)(bounded ? 0.0f : -INFINITY), (VF)(activation == RELU6 ? 6.0f : INFINITY));
}

static inline VF activate(VF x, int activation, float slope)
{
    if (CLAMPS(activation))
        return activate_usual(x, activation);
    switch (activation) {
    case 2: return select(x, x * slope, x < (VF)(0));
    case 4: return (VF)(1) / ((VF)(1) + exp(-x));
    case 5: return tanh(x);
    case 6: return x / ((VF)(1) + exp(-x));
    case 7: return x * clamp(x / 6 + (VF)(0.5f), (VF)(0), (VF)(1));
    default: return x;
    }
}

// What a gradient is multiplied with, from the activation's output y.
static inline VF activation_slope(VF y, int activation, float slope)
{
    switch (activation) {
    case 1: return select((VF)(0), (VF)(1), y > (VF)(0));
    case 2: return select((VF)(slope), (VF)(1), y > (VF)(0));
    case 3: return select((VF)(0), (VF)(1), (y > (VF)(0)) & (y < (VF)(6)));
    case 4: return y * ((VF)(1) - y);
    case 5: return fma(-y, y, (VF)(1));
    default: return (VF)(1);
    }
}

// An input of up to 4 pieces along the channels, read as one tensor (virtual concatenation). All but the last
// piece fill their blocks. name##_end[i]: channel blocks up to and including piece i; name##_plane[i]: pixels from one
// channel block of piece i to the next (more than are read where the tensor is a strip of rows of a larger one).
#ifndef PIECES
#define PIECES 1
#endif
#if PIECES == 1
#define PIECES_OF(name) TENSOR(const, name##0), int name##_end0, int name##_plane0
#define PIECE_BLOCK(name, n, cb) (AT(name##0) + ((size_t)(n) * name##_end0 + (cb)) * name##_plane0 * B)
#else
#define PIECES_OF(name)                                                                             \
    TENSOR(const, name##0), int name##_end0, int name##_plane0, TENSOR(const, name##1), int name##_end1, \
        int name##_plane1, TENSOR(const, name##2), int name##_end2, int name##_plane2,                \
        TENSOR(const, name##3), int name##_end3, int name##_plane3
#define PIECE_AT(name, i, n, cb, begin) \
    (AT(name##i) + ((size_t)(n) * (name##_end##i - (begin)) + (cb) - (begin)) * name##_plane##i * B)
#define PIECE_BLOCK(name, n, cb)                                              \
    ((cb) < name##_end0   ? PIECE_AT(name, 0, n, cb, 0)                       \
     : (cb) < name##_end1 ? PIECE_AT(name, 1, n, cb, name##_end0)             \
     : (cb) < name##_end2 ? PIECE_AT(name, 2, n, cb, name##_end1)             \
                          : PIECE_AT(name, 3, n, cb, name##_end2))
#endif

// An output of which only some rows or channel blocks may be written: name##_plane as above, name##_depth: channel
// blocks from one image to the next.
#define OUTPUT(name) TENSOR(, name), int name##_plane, int name##_depth
#define OUTPUT_BLOCK(name, n, cb) (BLOCKS_AT(, name) + ((size_t)(n) * name##_depth + (cb)) * name##_plane)
