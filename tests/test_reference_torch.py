"""PyTorch, in float64, is a second opinion on the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clconv.reference import CASES, LOSS_CASES, LOSSES, OPTIMIZERS, Case, LossCase
from clconv.shapes import pads, pair

torch = pytest.importorskip("torch")
F = torch.nn.functional
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def padded(x: Any, attrs: dict[str, Any], fill: float = 0.0) -> Any:
    """The input with its padding, and with what a last window of rounding="ceil" needs beyond."""
    (top, bottom), (left, right) = pads(attrs.get("pad", 0), "test")
    return F.pad(x, (left, right, top, bottom), value=fill)


def overhanging(x: Any, attrs: dict[str, Any], count: tuple[int, int]) -> Any:
    """`padded`, cut or filled with zeros to what `count` windows need."""
    kernel, stride, dilation = (pair(attrs.get(name, 1), "test") for name in ("kernel", "stride", "dilation"))
    x = padded(x, attrs)
    needed = [(count[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    x = F.pad(x, (0, max(0, needed[1] - x.shape[3]), 0, max(0, needed[0] - x.shape[2])))
    return x[:, :, : needed[0], : needed[1]]


def conv(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    a = dict(case.attrs)
    x0 = overhanging(x[0], a, case.reference.output_shape(a, case.shapes)[2:])
    return F.conv2d(x0, w["weight"], w.get("bias"), a.get("stride", 1), 0, a.get("dilation", 1), a.get("groups", 1))


def conv_transpose(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    a = dict(case.attrs)
    y = F.conv_transpose2d(
        x[0],
        w["weight"],
        w.get("bias"),
        a.get("stride", 1),
        0,
        pair(a.get("output_pad", 0), "test", least=0),
        a.get("groups", 1),
        a.get("dilation", 1),
    )
    (top, bottom), (left, right) = pads(a.get("pad", 0), "test")
    return y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]


def local(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    a = dict(case.attrs)
    n, k, p, q = case.reference.output_shape(a, case.shapes)
    taps = F.unfold(overhanging(x[0], a, (p, q)), pair(a["kernel"], "test"), stride=pair(a.get("stride", 1), "test"))
    y = torch.einsum("nil,kil->nkl", taps, w["weight"].reshape(k, -1, p * q)).reshape(n, k, p, q)
    return y + w["bias"] if "bias" in w else y


def pool_arguments(case: Case) -> dict[str, Any]:
    kernel = pair(case.attrs.get("kernel", 2), "test")
    stride = case.attrs.get("stride")
    return {
        "kernel_size": kernel,
        "stride": kernel if stride is None else pair(stride, "test"),
        "ceil_mode": case.attrs.get("rounding") == "ceil",
    }


def symmetric(case: Case) -> tuple[int, int] | None:
    """The padding as PyTorch's pooling takes it: equal on both sides and at most half the window."""
    rows, cols = pads(case.attrs.get("pad", 0), "test")
    kernel = pair(case.attrs.get("kernel", 2), "test")
    fits = rows[0] == rows[1] and cols[0] == cols[1] and 2 * rows[0] <= kernel[0] and 2 * cols[0] <= kernel[1]
    return (rows[0], cols[0]) if fits else None


def max_pool(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    around = symmetric(case)
    if around is not None:
        return F.max_pool2d(x[0], padding=around, **pool_arguments(case))
    return F.max_pool2d(padded(x[0], dict(case.attrs), fill=-torch.inf), **pool_arguments(case))


def avg_pool(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    count_pad, around = case.attrs.get("count_pad", False), symmetric(case)
    if around is not None:
        return F.avg_pool2d(x[0], padding=around, count_include_pad=count_pad, **pool_arguments(case))
    assert case.attrs.get("rounding") != "ceil"
    mean = F.avg_pool2d(padded(x[0], dict(case.attrs)), **pool_arguments(case))
    if count_pad:
        return mean
    return mean / F.avg_pool2d(padded(torch.ones_like(x[0]), dict(case.attrs)), **pool_arguments(case))


def l2_pool(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    arguments = {"kernel": case.attrs.get("kernel", 2), "stride": pool_arguments(case)["stride"]}
    x0 = overhanging(x[0], {**case.attrs, **arguments}, case.reference.output_shape(case.attrs, case.shapes)[2:])
    return F.lp_pool2d(x0, 2.0, pair(arguments["kernel"], "test"), arguments["stride"])


def lrn(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    a = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0, **case.attrs}
    if a.pop("region", "across") == "across":
        if a["size"] % 2 == 1:
            return F.local_response_norm(x[0], **a)
        # PyTorch's even windows reach further behind, ours further ahead: turn the channels round
        return F.local_response_norm(x[0].flip(1), **a).flip(1)
    before, after = (a["size"] - 1) // 2, a["size"] // 2
    squares = F.avg_pool2d(F.pad(x[0] ** 2, (before, after, before, after)), a["size"], 1)
    return x[0] * (a["k"] + a["alpha"] * squares) ** -a["beta"]


def batch_norm(case: Case, x: list[Any], w: dict[str, Any]) -> Any:
    a = {"momentum": 0.1, "eps": 1e-5, **case.attrs}
    return F.batch_norm(x[0], None, None, w["weight"], w["bias"], True, **a)


LAYERS: dict[str, Callable[[Case, list[Any], dict[str, Any]], Any]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Local": local,
    "FC": lambda case, x, w: F.linear(x[0].flatten(1), w["weight"], w.get("bias"))[:, :, None, None],
    "MaxPool": max_pool,
    "AvgPool": avg_pool,
    "L2Pool": l2_pool,
    "GlobalAvgPool": lambda case, x, w: F.adaptive_avg_pool2d(x[0], 1),
    "ReLU": lambda case, x, w: F.relu(x[0]),
    "LeakyReLU": lambda case, x, w: F.leaky_relu(x[0], case.attrs.get("slope", 0.01)),
    "ReLU6": lambda case, x, w: F.relu6(x[0]),
    "Sigmoid": lambda case, x, w: torch.sigmoid(x[0]),
    "Tanh": lambda case, x, w: torch.tanh(x[0]),
    "Softmax": lambda case, x, w: F.softmax(x[0], 1),
    "LRN": lrn,
    "BatchNorm": batch_norm,
    "Add": lambda case, x, w: sum(x),
    "Concat": lambda case, x, w: torch.cat(x, 1),
    "Flatten": lambda case, x, w: x[0].flatten(1)[:, :, None, None],
}


@pytest.mark.parametrize("case", [case for case in CASES if case.layer in LAYERS], ids=str)
def test_forward_and_gradient(case: Case) -> None:
    values = case.values(seed=3)
    arguments = (case.attrs, values.inputs, values.params, values.state)
    y, _ = case.reference.forward(*arguments, train=True)
    dx, dparams = case.reference.gradient(*arguments, values.dy)

    inputs = [torch.tensor(x, requires_grad=True) for x in values.inputs]
    params = {name: torch.tensor(w, requires_grad=True) for name, w in values.params.items()}
    expected = LAYERS[case.layer](case, inputs, params)
    np.testing.assert_allclose(y, expected.detach().numpy(), **TOLERANCE)
    expected.backward(torch.tensor(values.dy))
    for found, x in zip(dx, inputs, strict=True):
        np.testing.assert_allclose(found, x.grad.numpy(), **TOLERANCE)
    for name, w in params.items():
        np.testing.assert_allclose(dparams[name], w.grad.numpy(), **TOLERANCE)


@pytest.mark.parametrize("case", [case for case in CASES if case.layer == "MaxPool"], ids=str)
def test_max_pool_with_ties(case: Case) -> None:
    values = case.values(whole=True)
    (dx,), _ = case.reference.gradient(case.attrs, values.inputs, {}, {}, values.dy)
    x = torch.tensor(values.inputs[0], requires_grad=True)
    max_pool(case, [x], {}).backward(torch.tensor(values.dy))
    assert np.array_equal(dx, x.grad.numpy())


@pytest.mark.parametrize("case", [case for case in CASES if case.layer == "BatchNorm"], ids=str)
def test_batch_norm_states(case: Case) -> None:
    values, attrs = case.values(), {"momentum": 0.1, "eps": 1e-5, **case.attrs}
    running = {name: torch.tensor(s) for name, s in values.state.items()}
    params = {name: torch.tensor(w) for name, w in values.params.items()}
    arguments = (case.attrs, values.inputs, values.params, values.state)
    x = torch.tensor(values.inputs[0], requires_grad=True)
    expected = F.batch_norm(x, *running.values(), *params.values(), False, **attrs)
    np.testing.assert_allclose(case.reference.forward(*arguments)[0], expected.detach().numpy(), **TOLERANCE)
    expected.backward(torch.tensor(values.dy))
    (dx,), _ = case.reference.gradient(*arguments, values.dy, train=False)
    np.testing.assert_allclose(dx, x.grad.numpy(), **TOLERANCE)

    F.batch_norm(x, *running.values(), *params.values(), True, **attrs)
    _, state = case.reference.forward(*arguments, train=True)
    for name, s in running.items():
        np.testing.assert_allclose(state[name], s.numpy(), **TOLERANCE)


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_loss(case: LossCase) -> None:
    scores, labels = case.values()
    values, dscores = LOSSES[case.loss](scores, labels)
    s, expected = torch.tensor(scores, requires_grad=True), torch.tensor(labels)
    if case.loss == "mse":
        loss = F.mse_loss(s, expected)
    elif case.loss == "softmax":
        loss = F.cross_entropy(s.flatten(1), expected)
    else:
        loss = case.shape[1] * F.multi_margin_loss(s.flatten(1), expected)
    loss.backward()
    np.testing.assert_allclose(values.mean(), loss.item(), **TOLERANCE)
    np.testing.assert_allclose(dscores, s.grad.numpy(), **TOLERANCE)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str, weight_decay: float) -> None:
    """20 steps; the rate falls half way, which tells v = mu v + g from v = mu v - rate g."""
    optim, rates = torch.optim, [0.05] * 10 + [0.005] * 10
    opponents = {
        "sgd": (optim.SGD, {}),
        "momentum": (optim.SGD, {"momentum": 0.9}),
        "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
        "adagrad": (optim.Adagrad, {"eps": 1e-8}),
        "rmsprop": (optim.RMSprop, {"alpha": 0.99, "eps": 1e-8}),
        "adam": (optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
    }
    rng, rule = np.random.default_rng(4), OPTIMIZERS[name]
    w, gradients = rng.standard_normal((5, 7)), rng.standard_normal((20, 5, 7))
    parameter = torch.nn.Parameter(torch.tensor(w))
    kind, options = opponents[name]
    opponent = kind([parameter], lr=rates[0], weight_decay=weight_decay, **options)
    state = rule.initial(w.shape)
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        w, state = rule.update(w, g, state, {**rule.hyper, "rate": rate, "weight_decay": weight_decay}, step)
        opponent.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(g)
        opponent.step()
        np.testing.assert_allclose(w, parameter.detach().numpy(), **TOLERANCE)
    assert tuple(state) == rule.state
