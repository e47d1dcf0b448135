// pooling.h -- one step of a reduction over a window, and where the places of maxima are stored.
//
// Defined by who includes it: KIND, what is computed; not defined: nothing is pooled. ARGMAX: bytes per stored place,
// 0 (not stored), 1 or 4.
// Order     by rows, then columns of the window, whoever pools: the same bits
// NaN       is the maximum of its window, as in PyTorch; of equals the first

#include "common.h"

#define MAXIMUM 0
#define MEAN 1
#define NORM 2
#define GLOBAL_MEAN 3

#ifndef ARGMAX
#define ARGMAX 0
#endif

// A stored place, alone (PLACE) and for the channels of a block (PLACES). Tensor offsets count 4 bytes, so that of
// a tensor of bytes is four times as many elements.
#if ARGMAX == 4
typedef int PLACE;
typedef VI PLACES;
#define STORED(places) (places)
#define LOADED(places) (places)
#define PLACES_AT(Q, name) ((__global Q PLACES *)AT(name))
#else
typedef uchar PLACE;
#if B == 1
typedef uchar PLACES;
#define STORED(places) convert_uchar(places)
#define LOADED(places) convert_int(places)
#else
typedef PASTE(uchar, B) PLACES;
#define STORED(places) PASTE(convert_uchar, B)(places)
#define LOADED(places) PASTE(convert_int, B)(places)
#endif
#define PLACES_AT(Q, name) ((__global Q PLACES *)(name##_buffer + name##_offset * 4))
#endif

#ifdef KIND
// What a reduction begins with.
#define NOTHING ((VF)(KIND == MAXIMUM ? -INFINITY : 0.0f))

// One step of a reduction: tap is at `place` of the window.
static inline void reduce(VF tap, int place, VF *result, VI *places)
{
#if KIND == MAXIMUM
    const VI larger = (tap > *result) | isnan(tap);
    *result = select(*result, tap, larger);
#if ARGMAX
    *places = select(*places, (VI)(place), larger);
#endif
#elif KIND == MEAN
    *result += tap;
#else
    *result = fma(tap, tap, *result);
#endif
}

// Row `r` of `windows` windows of 2x2 side by side: reduces its values, two of each window. The result stands after
// r = 1.
static inline void reduce_pairs(const int r, const int windows, const __private VF *row, __private VF *result,
                                __private VI *places)
{
    UNROLL for (int i = 0; i < windows; i++) {
        if (r == 0) {
            result[i] = NOTHING;
            places[i] = (VI)(0);
        }
        reduce(row[2 * i], 2 * r, result + i, places + i);
        reduce(row[2 * i + 1], 2 * r + 1, result + i, places + i);
#if KIND == MEAN
        if (r == 1)
            result[i] /= 4.0f;
#endif
    }
}
#endif
