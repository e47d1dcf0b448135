"""The table of ONNX operators: name -> what converts a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .onnx_values import Builder, Op, Tensor

Converter = Callable[[Builder, Op], Tensor | Sequence[Tensor | None]]

CONVERTERS: dict[str, Converter] = {}


def operator(*names: str) -> Callable[[Converter], Converter]:
    """Registers a converter for the operators of these names."""

    def register(converter: Converter) -> Converter:
        for name in names:
            assert name not in CONVERTERS, name
            CONVERTERS[name] = converter
        return converter

    return register
