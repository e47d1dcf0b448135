"""The public layers, and networks described by them."""

from .activation import LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
from .base import LAYERS, Layer, layer_from
from .conv import Conv, ConvTranspose
from .elementwise import Add, Concat, Flatten
from .fc import FC
from .network import Entry, Network
from .symbol import Input, Symbol

__all__ = [
    "FC",
    "LAYERS",
    "Add",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Entry",
    "Flatten",
    "Input",
    "Layer",
    "LeakyReLU",
    "Network",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Symbol",
    "Tanh",
    "layer_from",
]
