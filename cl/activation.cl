// activation.cl -- ReLU, leaky ReLU, ReLU6, sigmoid and tanh on their own, and the gradient of all of them.
//
//   activation        y = f(x)
//   activation_grad   dx = dy * f'(x), computed from y, so that x may be freed
//
// Tensors   channel blocks [rows][plane][B], rows = images * blocks; sigmoid masks the channel tail
// Launch    activation 2-D: pixels, then rows; activation_grad 1-D; one work-item per VF, any work-group size
// Aliasing  y may be x; dx may be dy

#include "common.h"

// x_plane, y_plane: pixels from one channel block to the next
__kernel void activation(TENSOR(const, x), int x_plane, TENSOR(, y), int y_plane, int items, int channels, int kind,
                         float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    const size_t row = get_global_id(1);
    VF result = activate(BLOCKS_AT(const, x)[row * x_plane + item], kind, slope);
    if (kind == SIGMOID)
        result = keep_channels(result, row % BLOCKS(channels), channels);
    BLOCKS_AT(, y)[row * y_plane + item] = result;
}

__kernel void activation_grad(TENSOR(const, dy), TENSOR(const, y), TENSOR(, dx), int items, int kind, float slope)
{
    const int item = get_global_id(0);
    if (item >= items)
        return;
    BLOCKS_AT(, dx)[item] = BLOCKS_AT(const, dy)[item] * activation_slope(BLOCKS_AT(const, y)[item], kind, slope);
}
