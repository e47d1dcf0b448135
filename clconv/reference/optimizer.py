"""Optimizers: one update of one parameter. Weight decay is L2: it adds weight_decay * w to the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .layer import Array, Arrays, Shape

Hyper = Mapping[str, float]
Update = Callable[[Array, Array, Arrays, Hyper, int], tuple[Array, dict[str, Array]]]


def sgd(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """w -= rate * g."""
    return w - hyper["rate"] * _decayed(w, g, hyper), {}


def momentum(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """v = momentum * v + g; w -= rate * v."""
    velocity = hyper["momentum"] * state["velocity"] + _decayed(w, g, hyper)
    return w - hyper["rate"] * velocity, {"velocity": velocity}


def nesterov(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """v = momentum * v + g; w -= rate * (g + momentum * v)."""
    g = _decayed(w, g, hyper)
    velocity = hyper["momentum"] * state["velocity"] + g
    return w - hyper["rate"] * (g + hyper["momentum"] * velocity), {"velocity": velocity}


def adagrad(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """s += g^2; w -= rate * g / (sqrt(s) + eps). Duchi et al. (2011)."""
    g = _decayed(w, g, hyper)
    squares = state["squares"] + np.square(g)
    return w - hyper["rate"] * g / (np.sqrt(squares) + hyper["eps"]), {"squares": squares}


def rmsprop(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """s = decay * s + (1 - decay) * g^2; w -= rate * g / (sqrt(s) + eps). Tieleman and Hinton (2012)."""
    g = _decayed(w, g, hyper)
    squares = hyper["decay"] * state["squares"] + (1 - hyper["decay"]) * np.square(g)
    return w - hyper["rate"] * g / (np.sqrt(squares) + hyper["eps"]), {"squares": squares}


def adam(w: Array, g: Array, state: Arrays, hyper: Hyper, step: int) -> tuple[Array, dict[str, Array]]:
    """m and s, decaying means of g and g^2, freed of their bias; w -= rate * m' / (sqrt(s') + eps).

    Kingma and Ba (2015), algorithm 1; `step` counts from 1.
    """
    g = _decayed(w, g, hyper)
    mean = hyper["beta1"] * state["mean"] + (1 - hyper["beta1"]) * g
    squares = hyper["beta2"] * state["squares"] + (1 - hyper["beta2"]) * np.square(g)
    unbiased = mean / (1 - hyper["beta1"] ** step), squares / (1 - hyper["beta2"] ** step)
    w = w - hyper["rate"] * unbiased[0] / (np.sqrt(unbiased[1]) + hyper["eps"])
    return w, {"mean": mean, "squares": squares}


def _decayed(w: Array, g: Array, hyper: Hyper) -> Array:
    """The gradient with weight decay."""
    return g + hyper["weight_decay"] * w


@dataclass(frozen=True)
class Optimizer:
    """An update rule, the names of its states (each shaped like the parameter, 0 at first), its defaults."""

    update: Update
    state: tuple[str, ...]
    hyper: Hyper

    def initial(self, shape: Shape) -> dict[str, Array]:
        """The states before the first step."""
        return {name: np.zeros(shape) for name in self.state}


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(sgd, (), {"rate": 0.01, "weight_decay": 0.0}),
    "momentum": Optimizer(momentum, ("velocity",), {"rate": 0.01, "momentum": 0.9, "weight_decay": 0.0}),
    "nesterov": Optimizer(nesterov, ("velocity",), {"rate": 0.01, "momentum": 0.9, "weight_decay": 0.0}),
    "adagrad": Optimizer(adagrad, ("squares",), {"rate": 0.01, "eps": 1e-8, "weight_decay": 0.0}),
    "rmsprop": Optimizer(rmsprop, ("squares",), {"rate": 0.01, "decay": 0.99, "eps": 1e-8, "weight_decay": 0.0}),
    "adam": Optimizer(
        adam,
        ("mean", "squares"),
        {"rate": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    ),
}
"""The optimizers by name."""
