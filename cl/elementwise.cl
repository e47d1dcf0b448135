// elementwise.cl -- sums of tensors of one shape, and concatenation along the channels.
//
//   add           y = f(a + b)                                     work-item: one VF
//   copy_channels copies channels [first, first + count) of x to channels [at, at + count) of y, any alignment
//                 to blocks; channels from `count` up to `written` are zeroed   work-item: one value written
//
// Aliasing  add: y may be a or b

#include "common.h"

__kernel void add(TENSOR(const, a), TENSOR(const, b), TENSOR(, y), int items, int channels, int plane, int kind,
                  float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    VF result = activate(BLOCKS_AT(const, a)[item] + BLOCKS_AT(const, b)[item], kind, slope);
    if (kind == SIGMOID)
        result = keep_channels(result, item / plane % BLOCKS(channels), channels);
    BLOCKS_AT(, y)[item] = result;
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
