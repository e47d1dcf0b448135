"""The window that convolutions and pooling slide over an image."""

from clconv.shapes import window_count


class Window:
    """A sliding window: sizes and steps as (rows, cols), pads as ((top, bottom), (left, right))."""

    def __init__(self, kernel, stride=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), rounding="exact"):
        self.kernel = kernel
        self.stride = stride
        self.pads = pads
        self.dilation = dilation
        self.rounding = rounding

    def output(self, who, shape):
        """(rows, cols) of windows over an input of shape (N, C, H, W)."""
        return tuple(
            window_count(
                shape[2 + axis], self.kernel[axis], stride=self.stride[axis], pad=self.pads[axis],
                dilation=self.dilation[axis], rounding=self.rounding, who=who,
            )
            for axis in (0, 1)
        )

    def strip(self, rows, height, axis=0):
        """The window that computes rows (begin, end) of the output, and the rows of `height` that it must be given.

        Args:
            axis: 1: of columns.
        """
        (top, bottom), stride = self.pads[axis], self.stride[axis]
        first = rows[0] * stride - top
        last = (rows[1] - 1) * stride - top + (self.kernel[axis] - 1) * self.dilation[axis] + 1
        begin = min(max(first, 0), height - 1)
        end = max(min(last, height), begin + 1)
        pads = set_axis(self.pads, axis, (begin - first, bottom if end == height else 0))
        return Window(self.kernel, self.stride, pads, self.dilation, self.rounding), (begin, end)

    def args(self):
        """Kernel arguments: kernel, stride, leading pads, dilation."""
        return [*self.undilated_args(), *self.dilation]

    def undilated_args(self):
        """Kernel arguments of layers without dilation."""
        return [*self.kernel, *self.stride, self.pads[0][0], self.pads[1][0]]


def set_axis(pair, axis, item):
    """(rows, columns) with another item at `axis`."""
    return (item, pair[1]) if axis == 0 else (pair[0], item)
