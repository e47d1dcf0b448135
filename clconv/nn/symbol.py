"""Networks that are no chains: layers called on symbols.

    x = cc.Input(3, 32, 32)
    y = cc.Conv(16, 3, pad=1)(x)
    net = cc.Net(cc.ReLU()(y + cc.Conv(16, 1)(x)))

Each call of a layer is a layer of its own with its own weights, even where one object is called twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArgumentError, ShapeError
from ..shapes import is_whole
from .base import Layer, plain
from .elementwise import Add


class Symbol:
    """The output of a layer in a network that is being written; `shape` is (C, H, W)."""

    def __init__(self, layer: Layer | None, inputs: tuple[Symbol, ...], shape: tuple[int, int, int]) -> None:
        self.layer = layer
        self.inputs = inputs
        self.shape = shape

    @classmethod
    def of(cls, layer: Layer, inputs: Sequence[Symbol]) -> Symbol:
        """Applies a layer; wrong sizes are refused here, where they are written."""
        if not inputs:
            raise ArgumentError(f"{layer.kind}: called on nothing; it takes the outputs of layers")
        for symbol in inputs:
            if not isinstance(symbol, Symbol):
                found = type(symbol).__name__
                raise ArgumentError(f"{layer.kind}: called on {found}; it takes the outputs of layers")
        _, *shape = layer.reference.output_shape(layer.arguments, [(1, *symbol.shape) for symbol in inputs])
        c, h, w = shape
        return cls(layer, tuple(inputs), (c, h, w))

    def __add__(self, other: Symbol) -> Symbol:
        return Add()(self, other)

    def __repr__(self) -> str:
        what = "Input" if self.layer is None else repr(self.layer)
        return f"<{what}: {'x'.join(map(str, self.shape))}>"


def Input(channels: int, height: int, width: int) -> Symbol:
    """The image that a network reads: C, H, W."""
    c, h, w = plain((channels, height, width))
    if not all(is_whole(n) and n > 0 for n in (c, h, w)):
        raise ShapeError(f"Input: ({c}, {h}, {w}) is no image shape; C, H and W are whole numbers from 1")
    return Symbol(None, (), (c, h, w))
