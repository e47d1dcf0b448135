"""Writes networks as ONNX files, for every runtime that reads opset 17.

Each layer becomes one node where ONNX has it; what ONNX does not have becomes a few: LRN within maps, locally-
connected layers. Windows that are rounded up get explicit padding, because runtimes disagree about `ceil_mode`.
Inside, vectors are (N, K) as ONNX has them; the batch size stays open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..data import Normalization
from ..errors import ArgumentError, ModelFileError
from ..nn.base import Layer
from ..nn.network import Entry, Network
from ..packing import Array
from ..shapes import window_count
from .onnx_file import onnx_package
from .onnx_network import OnnxNetwork
from .onnx_write import METADATA, add_arrays

OPSET, IR_VERSION = 17, 8


class Exporter:
    """Collects nodes and initializers.

    Attributes:
        shapes: what every value is in clconv, (N, C, H, W) with N = 1. flat: values that are (N, C) in ONNX.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.onnx = onnx_package()
        self.arrays = arrays
        self.nodes: list[Any] = []
        self.initializers: dict[str, Array] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.flat: set[str] = set()
        self.made: set[str] = set()
        self.name = ""

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node; returns its output's name. A node that is there already is not added again."""
        if output in self.made:
            return output
        self.made.add(output)
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes))
        return output

    def part(self, suffix: str) -> str:
        """A name for a value inside the layer at work."""
        return f"{self.name}/{suffix}"

    def constant(self, suffix: str, array: Any, dtype: Any = np.float32) -> str:
        """An initializer of the layer at work."""
        name = self.part(suffix)
        self.initializers[name] = np.asarray(array, dtype)
        return name

    def stored(self, *names: str) -> list[str]:
        """Parameters of the layer at work as initializers under their own names; absent ones are left out."""
        found = [f"{self.name}.{name}" for name in names if f"{self.name}.{name}" in self.arrays]
        self.initializers.update({name: self.arrays[name] for name in found})
        return found

    def image(self, value: str) -> str:
        """A value as (N, C, H, W)."""
        if value not in self.flat:
            return value
        self.initializers["axes/pixels"] = np.array([2, 3], np.int64)
        return self.node("Unsqueeze", [value, "axes/pixels"], self.part(f"{value}/image"))

    def row(self, value: str) -> str:
        """A value as (N, C*H*W)."""
        if value in self.flat:
            return value
        return self.node("Flatten", [value], self.part(f"{value}/flat"))


Writer = Callable[[Exporter, Layer, list[str], str], None]
WRITERS: dict[str, Writer] = {}
# Layers that keep a vector a vector: node, attributes from arguments.
SIMPLE: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "ReLU": ("Relu", lambda a: {}),
    "LeakyReLU": ("LeakyRelu", lambda a: {"alpha": float(a["slope"])}),
    "Sigmoid": ("Sigmoid", lambda a: {}),
    "Tanh": ("Tanh", lambda a: {}),
    "Softmax": ("Softmax", lambda a: {"axis": 1}),
}


def writes(*kinds: str) -> Callable[[Writer], Writer]:
    """Registers what writes layers of these kinds."""

    def register(writer: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(kinds, writer))
        return writer

    return register


def _pads(layer: Layer, given: Mapping[str, Any], size: Sequence[int]) -> list[int]:
    """Padding as ONNX lists it; for windows rounded up, as much behind as the last one reaches over."""
    pads = [list(pair) for pair in given["pads"]]
    dilation = given.get("dilation", (1, 1))
    if given.get("rounding") == "ceil":
        for axis in (0, 1):
            kernel, stride = given["kernel"][axis], given["stride"][axis]
            count = window_count(
                size[axis], kernel, stride=stride, pad=tuple(pads[axis]), dilation=dilation[axis], rounding="ceil",
                who=layer.kind,
            )  # fmt: skip
            end = (count - 1) * stride + (kernel - 1) * dilation[axis] + 1
            pads[axis][1] = max(pads[axis][1], end - size[axis] - pads[axis][0])
    return [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]


@writes("Conv")
def _conv(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given = layer.settings
    pads = _pads(layer, given, e.shapes[xs[0]][2:])
    e.node("Conv", [e.image(xs[0]), *e.stored("weight", "bias")], y, kernel_shape=given["kernel"],
           strides=given["stride"], pads=pads, dilations=given["dilation"], group=given["groups"])  # fmt: skip


@writes("ConvTranspose")
def _conv_transpose(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given = layer.settings
    pads = _pads(layer, given, e.shapes[xs[0]][2:])
    e.node("ConvTranspose", [e.image(xs[0]), *e.stored("weight", "bias")], y, kernel_shape=given["kernel"],
           strides=given["stride"], pads=pads, dilations=given["dilation"], group=given["groups"],
           output_padding=given["output_pad"])  # fmt: skip


@writes("MaxPool", "L2Pool")
def _pool(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given = layer.settings
    op, extra = ("MaxPool", {}) if type(layer).__name__ == "MaxPool" else ("LpPool", {"p": 2})
    pads = _pads(layer, given, e.shapes[xs[0]][2:])
    e.node(op, [e.image(xs[0])], y, kernel_shape=given["kernel"], strides=given["stride"], pads=pads, **extra)


@writes("AvgPool")
def _avg_pool(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given = layer.settings
    x, size, pads = e.image(xs[0]), e.shapes[xs[0]][2:], _pads(layer, layer.settings, e.shapes[xs[0]][2:])
    if given["count_pad"] and given["rounding"] == "ceil" and any(pads):
        # Padding counts, what a last window reaches beyond it does not: make the padding part of the image.
        (top, bottom), (left, right) = given["pads"]
        amounts = e.constant("padding", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        x = e.node("Pad", [x, amounts], e.part("padded"))
        inner = {**given, "pads": ((0, 0), (0, 0))}
        pads = _pads(layer, inner, (size[0] + top + bottom, size[1] + left + right))
        given = {**given, "count_pad": False}
    e.node("AveragePool", [x], y, kernel_shape=given["kernel"], strides=given["stride"], pads=pads,
           count_include_pad=int(given["count_pad"]))  # fmt: skip


@writes("GlobalAvgPool")
def _global_avg_pool(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    e.node("GlobalAveragePool", [e.image(xs[0])], e.part("mean"))
    e.node("Flatten", [e.part("mean")], y)
    e.flat.add(y)


@writes("Flatten")
def _flatten(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    e.node("Identity" if xs[0] in e.flat else "Flatten", xs, y)
    e.flat.add(y)


@writes("FC")
def _fc(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    e.node("Gemm", [e.row(xs[0]), *e.stored("weight", "bias")], y, transB=1)
    e.flat.add(y)


@writes(*SIMPLE)
def _simple(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    op, attributes = SIMPLE[type(layer).__name__]
    e.node(op, xs, y, **attributes(layer.settings))
    _as_flat(e, xs[0], y)


def _as_flat(e: Exporter, x: str, y: str) -> None:
    if x in e.flat:
        e.flat.add(y)


@writes("ReLU6")
def _relu6(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    e.node("Clip", [xs[0], e.constant("min", 0), e.constant("max", 6)], y)
    _as_flat(e, xs[0], y)


@writes("Dropout")
def _dropout(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    e.node("Dropout", [xs[0], e.constant("ratio", layer.settings["rate"])], y)
    _as_flat(e, xs[0], y)


@writes("BatchNorm")
def _batch_norm(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given = layer.settings
    names = e.stored("weight", "bias", "running_mean", "running_var")
    e.node("BatchNormalization", [xs[0], *names], y, epsilon=given["eps"], momentum=1 - given["momentum"])
    _as_flat(e, xs[0], y)


@writes("LRN")
def _lrn(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    given, x = layer.settings, e.image(xs[0])
    size, across = given["size"], layer.arguments["region"] == "across"
    if across and size % 2:
        e.node("LRN", [x], y, size=size, alpha=given["alpha"], beta=given["beta"], bias=given["k"])
        return
    before = (size - 1) // 2
    e.node("Mul", [x, x], e.part("squares"))
    if across:  # not every runtime knows LRN of an even size
        _, c, h, w = e.shapes[xs[0]]
        e.node("Reshape", [e.part("squares"), e.constant("rows", [0, 1, c, h * w], np.int64)], e.part("lines"))
        e.node("AveragePool", [e.part("lines")], e.part("means"), kernel_shape=[size, 1], strides=[1, 1],
               pads=[before, 0, size - 1 - before, 0], count_include_pad=1)  # fmt: skip
        e.node("Reshape", [e.part("means"), e.constant("image", [0, c, h, w], np.int64)], e.part("mean"))
    else:
        e.node("AveragePool", [e.part("squares")], e.part("mean"), kernel_shape=[size, size], strides=[1, 1],
               pads=[before, before, size - 1 - before, size - 1 - before], count_include_pad=1)  # fmt: skip
    e.node("Mul", [e.part("mean"), e.constant("alpha", given["alpha"])], e.part("scaled"))
    e.node("Add", [e.part("scaled"), e.constant("k", given["k"])], e.part("sum"))
    e.node("Pow", [e.part("sum"), e.constant("beta", given["beta"])], e.part("divisor"))
    e.node("Div", [x, e.part("divisor")], y)


@writes("Add", "Concat")
def _join(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    flat = all(x in e.flat for x in xs)
    inputs = xs if flat else [e.image(x) for x in xs]
    if type(layer).__name__ == "Concat":
        e.node("Concat", inputs, y, axis=1)
    else:
        e.node("Add" if len(xs) == 2 else "Sum", inputs, y)
    if flat:
        e.flat.add(y)


@writes("Local")
def _local(e: Exporter, layer: Layer, xs: list[str], y: str) -> None:
    """A convolution that copies windows into channels, and a matrix product for each pixel."""
    given = layer.settings
    c, (r, s) = e.shapes[xs[0]][1], given["kernel"]
    copies = np.tile(np.eye(r * s, dtype=np.float32).reshape(r * s, 1, r, s), (c, 1, 1, 1))
    pads = _pads(layer, given, e.shapes[xs[0]][2:])
    e.node("Conv", [e.image(xs[0]), e.constant("windows", copies)], e.part("taps"), kernel_shape=[r, s],
           strides=given["stride"], pads=pads, group=c)  # fmt: skip
    e.node("Transpose", [e.part("taps")], e.part("rows"), perm=[2, 3, 0, 1])
    weight = e.arrays[f"{e.name}.weight"]  # (K, C, R, S, P, Q)
    k, p, q = weight.shape[0], *weight.shape[4:]
    matrices = weight.transpose(4, 5, 1, 2, 3, 0).reshape(p, q, c * r * s, k)
    e.node("MatMul", [e.part("rows"), e.constant("weight", matrices)], e.part("products"))
    biased = f"{e.name}.bias" in e.arrays
    e.node("Transpose", [e.part("products")], e.part("sum") if biased else y, perm=[2, 3, 0, 1])
    if biased:
        e.node("Add", [e.part("sum"), *e.stored("bias")], y)


def onnx_model(
    network: Network,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Any],
    softmax: bool,
    preprocessing: bool,
) -> Any:
    """The ModelProto of any network: of one from an ONNX file, the file's own with other arrays; see `Net.save`.

    Raises:
        ArgumentError: `softmax` or `preprocessing` around a network from an ONNX file.
    """
    if isinstance(network, OnnxNetwork):
        if softmax or preprocessing:
            raise ArgumentError("save: a network read from ONNX keeps its nodes; nothing is put around them")
        return network.updated(arrays, metadata)
    if not preprocessing:
        return export_network(network, arrays, metadata, softmax=softmax)
    given = Normalization(**metadata.get("normalization", {}))
    inside = {**metadata, "normalization": asdict(Normalization(scale=1.0))}
    before = (given.mean, given.std, given.scale)
    return export_network(network, arrays, inside, softmax=softmax, preprocessing=before)


def export_network(
    network: Network,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Any],
    *,
    softmax: bool = False,
    preprocessing: tuple[Sequence[float], Sequence[float], float] | None = None,
) -> Any:
    """The ModelProto of a network.

    Args:
        arrays: public arrays by name. metadata: kept in the file as JSON.
        softmax: a Softmax behind the output. preprocessing: (mean, std, scale) of a `Normalization` that is put
            in front, so that the input is pixels 0..255 as float32 (N, C, H, W).

    Raises:
        ModelFileError: a layer that ONNX cannot express, or a model of more than 2 GiB.
    """
    e = Exporter(arrays)
    helper, kind = e.onnx.helper, e.onnx.TensorProto.FLOAT
    shapes = {"input": (1, *network.input_shape)}
    first = _preprocessed(e, preprocessing, network.input_shape[0]) if preprocessing else "x"
    labels = {"input": first}
    e.shapes[first] = shapes["input"]
    for entry in network.entries:
        labels[entry.name] = entry.name if entry.name not in ("x", "y") else f"{entry.name}/output"
        _write(e, entry, [labels[name] for name in entry.inputs], labels[entry.name])
    e.name = "output"
    last = labels[network.entries[-1].name]
    last = e.row(last) if network.flat_output else e.image(last)
    if softmax and type(network.entries[-1].layer).__name__ != "Softmax":
        last = e.node("Softmax", [last], "y", axis=1)
    else:
        e.node("Identity", [last], "y")
    k, p, q = network.output_shape
    out = ["N", k] if network.flat_output else ["N", k, p, q]
    graph = helper.make_graph(
        e.nodes,
        "clconv",
        [helper.make_tensor_value_info("x", kind, ["N", *network.input_shape])],
        [helper.make_tensor_value_info("y", kind, out)],
    )
    add_arrays(e.onnx, graph, e.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="clconv")
    model.ir_version = IR_VERSION
    if metadata:
        helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    return model


def _preprocessed(e: Exporter, normalization: tuple[Sequence[float], Sequence[float], float], channels: int) -> str:
    """(scale x - mean) / std as a product and a sum per channel."""
    e.name = "preprocessing"
    mean, std, scale = (np.asarray(v, np.float64) for v in normalization)
    factor = np.broadcast_to(scale / std, channels).reshape(-1, 1, 1)
    shift = np.broadcast_to(-mean / std, channels).reshape(-1, 1, 1)
    e.node("Mul", ["x", e.constant("scale", factor)], e.part("scaled"))
    return e.node("Add", [e.part("scaled"), e.constant("shift", shift)], e.part("image"))


def _write(e: Exporter, entry: Entry, xs: list[str], y: str) -> None:
    layer, kind = entry.layer, type(entry.layer).__name__
    if kind not in WRITERS:
        raise ModelFileError(f"onnx: layer {entry.name}: {kind} has no form in ONNX; save as .safetensors")
    e.name = entry.name
    e.shapes[y] = layer.reference.output_shape(layer.arguments, [e.shapes[x] for x in xs])
    WRITERS[kind](e, layer, xs, y)
