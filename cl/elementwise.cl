// elementwise.cl -- sums of tensors of one shape, and concatenation along the channels.
//
//   add           y = f(a + b); 2-D: pixels, then images and blocks  work-item: one VF
//   copy_channels copies channels [first, first + count) of x to channels [at, at + count) of y, any alignment
//                 to blocks; channels from `count` up to `written` are zeroed   work-item: one value written
//
// Aliasing  add: y may be a or b

#include "common.h"

// a_plane, b_plane, y_plane: pixels from one channel block to the next
__kernel void add(TENSOR(const, a), int a_plane, TENSOR(const, b), int b_plane, TENSOR(, y), int y_plane, int items,
                  int channels, int kind, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const size_t block = get_global_id(1);
    const VF sum = BLOCKS_AT(const, a)[block * a_plane + item] + BLOCKS_AT(const, b)[block * b_plane + item];
    VF result = activate(sum, kind, slope);
    if (kind == SIGMOID)
        result = keep_channels(result, block % BLOCKS(channels), channels);
    BLOCKS_AT(, y)[block * y_plane + item] = result;
}

__kernel void copy_channels(TENSOR(const, x), TENSOR(, y), int items, int x_channels, int y_channels, int plane,
                            int first, int at, int count, int written)
{
    const int item = get_global_id(0); // [n][written channels][pixel], count real ones, the rest zero
    if (item >= items)
        return;
    const int pixel = item % plane, c = item / plane % written, n = item / plane / written;
    const int from = first + c, to = at + c;
    const size_t source = (((size_t)n * BLOCKS(x_channels) + from / B) * plane + pixel) * B + from % B;
    const size_t target = (((size_t)n * BLOCKS(y_channels) + to / B) * plane + pixel) * B + to % B;
    AT(y)[target] = c < count ? AT(x)[source] : 0;
}
