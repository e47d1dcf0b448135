"""Training: losses, optimizers, schedules, the loop, checkpoints."""

from .fit import Progress
from .history import Callback, History
from .optimizers import SGD, Adagrad, Adam, Optimizer, RMSProp
from .schedules import Constant, Cosine, Step

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Callback",
    "Constant",
    "Cosine",
    "History",
    "Optimizer",
    "Progress",
    "RMSProp",
    "Step",
]
