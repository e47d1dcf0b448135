"""A network of the zoo for every engine: the same layers and weights in PyTorch, and as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import clconv as cc
from clconv import shapes
from clconv.nn import zoo

SMALLEST = "lenet"
NETWORKS = {
    name: getattr(zoo, name)
    for name in ("vgg16", "resnet18", "resnet50", "alexnet", "squeezenet", "mobilenetv2", "unet", "cifar_net", SMALLEST)
}


def torch_network(net: cc.Net) -> Any:
    """A torch.nn.Module with the layers and weights of a network."""
    import torch
    from torch import nn

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entries = net.network.entries
            sizes = {"input": net.network.input_shape[0]}
            made = {}
            for entry in self.entries:
                channels = [sizes[name] for name in entry.inputs]
                module, sizes[entry.name] = _module(entry.layer, channels, net, entry.name)
                if module is not None:
                    made[entry.name.replace(".", "/")] = module
            self.layers = nn.ModuleDict(made)

        def forward(self, x: Any) -> Any:
            values = {"input": x}
            for entry in self.entries:
                inputs = [values[name] for name in entry.inputs]
                kind, key = type(entry.layer).__name__, entry.name.replace(".", "/")
                if kind == "Add":
                    values[entry.name] = sum(inputs[1:], start=inputs[0])
                elif kind == "Concat":
                    values[entry.name] = torch.cat(inputs, 1)
                else:
                    values[entry.name] = self.layers[key](inputs[0])
            return values[self.entries[-1].name]

    return Torch()


def _module(layer: Any, channels: list[int], net: cc.Net, name: str) -> tuple[Any, int]:
    """A layer's module with its weights, or None, and how many channels (of FC: units) come out."""
    from torch import nn

    kind, c = type(layer).__name__, channels[0]
    arrays = {key: array for key, array in net.get_weights().items() if key.rpartition(".")[0] == name}
    shape = next((array.shape for key, array in arrays.items() if key.endswith("weight")), ())
    if kind in ("Add", "Concat"):
        return None, c if kind == "Add" else sum(channels)
    if kind in ("ReLU", "ReLU6", "Sigmoid", "Tanh", "Flatten"):
        return getattr(nn, kind)(), c
    if kind == "FC":
        return nn.Sequential(nn.Flatten(), _filled(nn.Linear(shape[1], shape[0], layer.bias), arrays)), layer.units
    if kind == "BatchNorm":
        return _filled(nn.BatchNorm2d(c, layer.eps, layer.momentum), arrays), c
    if kind == "LRN":
        return nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k), c
    if kind == "GlobalAvgPool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), c
    if kind == "Dropout":
        return nn.Dropout(layer.rate), c
    pad = [before for before, _ in _even(layer.pad, name)]
    if kind == "MaxPool":
        return nn.MaxPool2d(layer.kernel, layer.stride, pad, ceil_mode=layer.rounding == "ceil"), c
    settings = {"stride": layer.stride, "padding": pad, "dilation": layer.dilation, "groups": layer.groups}
    settings["bias"] = layer.bias
    if kind == "ConvTranspose":
        settings["output_padding"] = layer.output_pad
        return _filled(nn.ConvTranspose2d(c, layer.filters, layer.kernel, **settings), arrays), layer.filters
    assert kind == "Conv", kind
    return _filled(nn.Conv2d(c, layer.filters, layer.kernel, **settings), arrays), layer.filters


def _even(pad: Any, name: str) -> shapes.Pads:
    pads = shapes.pads(pad, name)
    assert all(before == after for before, after in pads), f"{name}: PyTorch pads both sides alike, not {pads}"
    return pads


def _filled(module: Any, arrays: dict[str, Any]) -> Any:
    import torch

    held = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for key, array in arrays.items():
            held[key.rpartition(".")[2]].copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return module


def onnx_file(net: cc.Net, name: str, folder: Path, *, with_torch: bool) -> Path:
    """NAME.onnx in a folder, of any batch size: exported by PyTorch, or by clconv where it is not installed."""
    path = folder / f"{name}.onnx"
    if not with_torch:
        net.save(path)
        return path
    import torch

    module = torch_network(net).eval()
    x = torch.zeros(2, *net.network.input_shape)
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(module, (x,), str(path), input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False)
    return path
