// activation.cl -- ReLU, leaky ReLU, ReLU6, sigmoid and tanh on their own, and the gradient of all of them.
//
//   activation        y = f(x)
//   activation_grad   dx = dy * f'(x), computed from y, so that x may be freed
//
// Tensors   channel blocks [rows][plane][B], rows = images * blocks; sigmoid masks the channel tail
// Launch    1-D, one work-item per VF, any work-group size
// Aliasing  y may be x; dx may be dy

#include "common.h"

__kernel void activation(TENSOR(const, x), TENSOR(, y), int items, int channels, int plane, int kind, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    VF result = activate(BLOCKS_AT(const, x)[item], kind, slope);
    if (kind == SIGMOID)
        result = keep_channels(result, item / plane % BLOCKS(channels), channels);
    BLOCKS_AT(, y)[item] = result;
}

__kernel void activation_grad(TENSOR(const, dy), TENSOR(const, y), TENSOR(, dx), int items, int kind, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    BLOCKS_AT(, dx)[item] = BLOCKS_AT(const, dy)[item] * activation_slope(BLOCKS_AT(const, y)[item], kind, slope);
}
