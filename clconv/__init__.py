"""clconv: trains and runs convolutional networks on any OpenCL device, inside the memory you have.

import clconv as cc

net = cc.Net("INPUT 32x32x3 -> [[CONV 3x3x32 -> RELU]*2 -> POOL]*3 -> [FC 256 -> RELU] -> FC 10")
net.fit(x, y, epochs=10, optimizer=cc.SGD(0.01, momentum=0.9, nesterov=True))
scores = net.predict(x)
"""

from . import data, errors, zoo
from .data import Augmentation, Normalization
from .device import choose, devices
from .errors import ClconvError
from .gradcheck import check_gradients
from .net import Net, load
from .nn import *  # noqa: F403
from .nn import __all__ as _layers
from .plots import plot_history
from .train import SGD, Adagrad, Adam, Callback, Constant, Cosine, History, RMSProp, Step

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Augmentation",
    "Callback",
    "ClconvError",
    "Constant",
    "Cosine",
    "History",
    "Net",
    "Normalization",
    "RMSProp",
    "Step",
    "check_gradients",
    "choose",
    "data",
    "devices",
    "errors",
    "load",
    "plot_history",
    "zoo",
]
__all__ += _layers
__all__.sort()
