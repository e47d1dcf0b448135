"""What several test files need: the command line in this process, refusals, small networks, another runtime."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import clconv as cc
from clconv.cli import main
from clconv.device import Device
from clconv.errors import BudgetError
from clconv.packing import Array


def run(*arguments: object, **how: Any) -> Result:
    """`clconv ARGUMENTS...`; `how` as for CliRunner.invoke."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **how)


def least(net: cc.Net, *batch: int, **how: Any) -> int:
    """The bytes that a plan must be allowed, as the refusal of less says."""
    with pytest.raises(BudgetError) as refusal:
        net.plan(*batch, memory=64, **how)
    return refusal.value.needed_bytes


def streaming(device: Device) -> Device:
    """The device as one that does not read mapped files, so that weights are brought to it in parts."""
    other = copy.copy(device)
    other.facts = replace(device.facts, maps_files=False)
    return other


def images(net: cc.Net, count: int = 1, seed: int = 0) -> Array:
    """Random images for a network, (count, C, H, W)."""
    return np.random.default_rng(seed).standard_normal((count, *net.network.input_shape), np.float32)


def hourglass(device: Device) -> cc.Net:
    """Two scales down and up again, with what each level made used on the way up."""
    x = cc.Input(3, 48, 32)
    skips = []
    for filters in (16, 20):
        x = cc.ReLU()(cc.Conv(filters, 3, pad=1)(x))
        skips.append(x)
        x = cc.ReLU()(cc.Conv(filters, 3, pad=1)(cc.MaxPool(2)(x)))
    x = cc.Conv(32, 3, pad=1)(x)
    for filters, skip in zip((16, 16), reversed(skips), strict=True):
        x = cc.ConvTranspose(filters, 2, stride=2)(x)
        x = cc.ReLU()(cc.Conv(filters, 3, pad=1)(cc.Concat()(x, skip)))
    return cc.Net(cc.Conv(2, 1)(x), seed=3, device=device)


def onnx_runtime(path: Path, x: Array) -> list[Array]:
    """All outputs that ONNX Runtime has for a model of one input."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {session.get_inputs()[0].name: x})
    return found


def close(a: Array, b: Array, tolerance: float = 2e-5) -> None:
    """Asserts that a and b agree up to a share of the largest value."""
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))
