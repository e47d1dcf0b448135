"""ONNX losses, optimizer steps and gradients, which training graphs in ONNX files have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autodiff import differentiate
from ..shapes import TensorSpec
from .onnx_elementwise import combine, unary
from .onnx_reduce import reduced
from .onnx_shape import reread
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Tensor, Unsupported


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(b: Builder, n: Op) -> Tensor:
    """Minus the log-probability of each target, weighted by its class."""
    return _likelihood(b, n, n.x())


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(b: Builder, n: Op) -> list[Tensor | None]:
    """The same of the softmax of scores over axis 1; the log-probabilities are a second output."""
    from .._core.plain_reduce import SoftmaxAxis

    x = n.x()
    log_probabilities = b.made(b.add(SoftmaxAxis(1, 2, True), b.plain(x)), x.shape, x)
    return [_likelihood(b, n, log_probabilities), log_probabilities]


def _likelihood(b: Builder, n: Op, x: Tensor) -> Tensor:
    """x (N, C, ...) at the targets (N, ...), which are known beforehand."""
    labels, classes = n.host(1, "target"), x.shape[1]
    ignored = n.get("ignore_index")
    ones = (np.arange(classes).reshape(-1, *(1,) * (labels.ndim - 1)) == labels[:, None]).astype(np.float32)
    if ignored is not None:
        ones = ones * (labels != ignored)[:, None]
    mask: Tensor = b.fold(ones)
    given = n.optional(2)
    if given is not None:
        mask = combine(b, "Mul", mask, reread(b, given, (classes, *(1,) * (labels.ndim - 1))))
    picked = unary(b, reduced(b, "ReduceSum", combine(b, "Mul", x, mask), (1,), False), "neg")
    how = n.one_of("reduction", "mean", "sum", "none")
    if how == "none":
        return picked
    total = _sum(b, picked)
    return total if how == "sum" else combine(b, "Div", total, _sum(b, mask))


def _sum(b: Builder, x: Tensor) -> Tensor:
    """The sum of all elements, as a single number."""
    return reread(b, reduced(b, "ReduceSum", reread(b, x, (math.prod(x.shape),)), (0,), True), ())


# -------------------------------------------------------------------- optimizer steps


class _Arithmetic:
    """Formulas over tensors and numbers."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def __call__(self, op: str, a: Tensor | float, w: Tensor | float) -> Tensor:
        """a op w."""
        return combine(self.b, op, self._tensor(a), self._tensor(w))

    def _tensor(self, x: Tensor | float) -> Tensor:
        return x if isinstance(x, Host | Device) else self.b.fold(np.float32(x))

    def mix(self, share: float, a: Tensor, rest: float, w: Tensor) -> Tensor:
        """share a + rest w."""
        return self("Add", self("Mul", a, share), self("Mul", w, rest))

    def root(self, x: Tensor, eps: float) -> Tensor:
        """sqrt(x) + eps."""
        return self("Add", unary(self.b, x, "sqrt"), eps)

    def decayed(self, n: Op, x: Tensor, g: Tensor) -> Tensor:
        """The gradient with that of the weight decay."""
        decay = float(n.get("norm_coefficient", 0.0))
        return self("Add", g, self("Mul", x, decay)) if decay else g


def _groups(n: Op, kinds: int) -> list[list[Tensor]]:
    """The tensors behind rate and counter, as `kinds` lists of equal length."""
    count = (len(n.inputs) - 2) // kinds
    return [[n.x(2 + kind * count + i) for i in range(count)] for kind in range(kinds)]


@operator("Adagrad")
def adagrad(b: Builder, n: Op) -> list[Tensor | None]:
    """A step of Adagrad."""
    f = _Arithmetic(b)
    step = int(n.number(1, "update count"))
    rate = f("Div", n.x(), 1 + step * float(n.get("decay_factor", 0.0)))
    moved: list[list[Tensor | None]] = [[], []]
    for x, g, h in zip(*_groups(n, 3), strict=True):
        gradient = f.decayed(n, x, g)
        squares = f("Add", h, f("Mul", gradient, gradient))
        scaled = f("Div", f("Mul", rate, gradient), f.root(squares, float(n.get("epsilon", 1e-6))))
        moved[0].append(f("Sub", x, scaled))
        moved[1].append(squares)
    return [*moved[0], *moved[1]]


@operator("Momentum")
def momentum(b: Builder, n: Op) -> list[Tensor | None]:
    """A step with momentum, standard or Nesterov's."""
    f, rate = _Arithmetic(b), n.x()
    alpha = float(n.get("alpha"))
    beta = float(n.get("beta")) if n.number(1, "update count") > 0 else 1.0
    moved: list[list[Tensor | None]] = [[], []]
    for x, g, v in zip(*_groups(n, 3), strict=True):
        gradient = f.decayed(n, x, g)
        velocity = f.mix(alpha, v, beta, gradient)
        nesterov = n.get("mode") == "nesterov"
        direction = f.mix(1.0, gradient, alpha, velocity) if nesterov else velocity
        moved[0].append(f("Sub", x, f("Mul", rate, direction)))
        moved[1].append(velocity)
    return [*moved[0], *moved[1]]


@operator("Adam")
def adam(b: Builder, n: Op) -> list[Tensor | None]:
    """A step of Adam."""
    f, rate, step = _Arithmetic(b), n.x(), n.number(1, "update count")
    alpha, beta = float(n.get("alpha", 0.9)), float(n.get("beta", 0.999))
    if step > 0:
        rate = f("Mul", rate, math.sqrt(1 - beta**step) / (1 - alpha**step))
    shrink = 1 - float(n.get("norm_coefficient_post", 0.0))
    moved: list[list[Tensor | None]] = [[], [], []]
    for x, g, v, h in zip(*_groups(n, 4), strict=True):
        gradient = f.decayed(n, x, g)
        mean = f.mix(alpha, v, 1 - alpha, gradient)
        square = f.mix(beta, h, 1 - beta, f("Mul", gradient, gradient))
        scaled = f("Div", f("Mul", rate, mean), f.root(square, float(n.get("epsilon", 1e-6))))
        moved[0].append(f("Mul", f("Sub", x, scaled), shrink))
        moved[1].append(mean)
        moved[2].append(square)
    return [*moved[0], *moved[1], *moved[2]]


# -------------------------------------------------------------------- gradients


@operator("Gradient")
def gradient(b: Builder, n: Op) -> list[Tensor | None]:
    """d(sum of y) / dx for each x; y is the last input, as `onnx_file` arranges it."""
    *xs, y = (n.x(i) for i in range(len(n.inputs)))
    sources: list[Any] = []
    for x in (y, *xs[: len(n.get("xs"))]):
        if not isinstance(x, Device):
            raise Unsupported("the gradient with respect to what is known beforehand is not supported")
        sources.append(x.value)
    target, *values = sources
    spec = TensorSpec(target.spec.shape, layout=target.spec.layout)
    ones = b.constant(Host(np.ones(spec.shape, np.float32), "", False), spec)
    found = differentiate(b.graph, {target: ones}, values)
    return [b.made(found[value], x.shape, x, y) for value, x in zip(values, xs, strict=False)]
