"""clconv: trains and runs convolutional networks on any OpenCL device, inside the memory you have.

    import clconv as cc

    net = cc.Net("INPUT 32x32x3 -> [[CONV 3x3x32 -> RELU]*2 -> POOL]*3 -> [FC 256 -> RELU] -> FC 10")
    net.fit(x, y, epochs=10, optimizer=cc.SGD(0.01, momentum=0.9, nesterov=True))
    scores = net.predict(x)

Names are imported when they are first used, so that the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, errors, zoo
    from .data import Augmentation, Normalization
    from .device import choose, devices
    from .errors import ClconvError
    from .gradcheck import check_gradients
    from .net import Net, load
    from .nn import *  # noqa: F403
    from .plots import plot_history
    from .train import SGD, Adagrad, Adam, Callback, Constant, Cosine, History, RMSProp, Step

__version__ = "0.1.0"

_MODULES = ("data", "errors", "zoo")
_HOMES = {
    "data": ("Augmentation", "Normalization"),
    "device": ("choose", "devices"),
    "errors": ("ClconvError",),
    "gradcheck": ("check_gradients",),
    "net": ("Net", "load"),
    "nn": (
        "FC",
        "LAYERS",
        "LRN",
        "Add",
        "AvgPool",
        "BatchNorm",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Dropout",
        "Entry",
        "Flatten",
        "GlobalAvgPool",
        "Input",
        "L2Pool",
        "Layer",
        "LeakyReLU",
        "Local",
        "MaxPool",
        "Network",
        "ReLU",
        "ReLU6",
        "Sigmoid",
        "Softmax",
        "Symbol",
        "Tanh",
        "layer_from",
    ),
    "plots": ("plot_history",),
    "train": ("SGD", "Adagrad", "Adam", "Callback", "Constant", "Cosine", "History", "RMSProp", "Step"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_MODULES, *_HOME])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
