"""The public layers, and networks described by them."""

from .activation import LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
from .base import LAYERS, Layer, layer_from
from .conv import Conv, ConvTranspose
from .dropout import Dropout
from .elementwise import Add, Concat, Flatten
from .fc import FC
from .local import Local
from .network import Entry, Network
from .norm import LRN, BatchNorm
from .pool import AvgPool, GlobalAvgPool, L2Pool, MaxPool
from .softmax import Softmax
from .symbol import Input, Symbol

__all__ = [
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
]
