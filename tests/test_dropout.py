"""Dropout's masks on every working device, bit for bit; the values are in the table of test_layers.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clconv import passes
from clconv._core import dropout
from clconv.device import Device, DeviceInfo, open_device
from clconv.engine import Session
from clconv.errors import ShapeError
from clconv.graph import Graph
from clconv.nn import Dropout
from clconv.plan import make_plan
from clconv.reference import Context
from clconv.reference.dropout import kept, philox
from clconv.shapes import TensorSpec

COUNTERS = TensorSpec((4,), "int32", "plain")
CONTEXTS = [Context(), Context(2**64 - 1, step=2**32 - 1, layer_id=2**32 - 1), Context(2**63 + 12345, 3, 77)]
SHAPE = (3, 21, 5, 7)


def counters(context: Context) -> Any:
    words = [context.seed & 0xFFFFFFFF, context.seed >> 32, context.step, 0]
    return np.array(words, np.uint32).view(np.int32)


def masked(device: Device, layer: Any, x: Any, contexts: list[Context]) -> list[Any]:
    """y for each context, one plan for all of them."""
    graph = Graph()
    fed = graph.input("x", TensorSpec(x.shape, layout="plain"))
    control = graph.persist("counters", COUNTERS, "control")
    graph.outputs["y"] = graph.add(layer, [fed, control], "dropout")[0]
    passes.convert_layouts(graph)
    session, plan = Session(device), make_plan(graph, device.facts)
    try:
        session.load(graph.persistent, {})
        results = []
        for context in contexts:
            session.write("counters", counters(context))
            results.append(session.run(plan, {"x": x})["y"])
        return results
    finally:
        session.release()


@pytest.mark.parametrize("block", [16, 8, 4, 1])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.3])
def test_mask_is_that_of_the_reference_for_any_block(device: Device, block: int, rate: float) -> None:
    other = open_device(DeviceInfo(device.key, replace(device.facts, block=block)))
    x = np.ones(SHAPE, np.float32)
    for context in CONTEXTS:
        (y,) = masked(other, dropout.Dropout(rate, context.layer_id), x, [context])
        expected = np.where(kept(rate, SHAPE, context), np.float32(1 / (1 - rate)), 0)
        assert np.array_equal(y, expected)


def test_seed_and_step_change_the_mask_without_another_recording(device: Device) -> None:
    contexts = [Context(seed, step, 4) for seed in (5, 5 + 2**32) for step in (1, 2)]
    masks = masked(device, dropout.Dropout(0.5, 4), np.ones(SHAPE, np.float32), contexts)
    for mask, context in zip(masks, contexts, strict=True):
        assert np.array_equal(mask != 0, kept(0.5, SHAPE, context))
    assert len({mask.tobytes() for mask in masks}) == len(contexts)


class Vast(dropout.Dropout):  # type: ignore[misc]
    """The first pixels of an image so large that the indices of its channels pass 2^32."""

    plane = 2**31 - 1

    def record(self, rec: Any, ins: Any, outs: Any, work: Any, choice: Any) -> None:
        channels = outs[0].spec.shape[1]
        pixels = outs[0].spec.shape[3]
        args = [*ins, outs[0], pixels, channels, self.plane, self.layer_id, -(2**31), 2.0]
        rec.launch("dropout.cl", "dropout", (pixels,), args)


def test_indices_beyond_32_bits(device: Device) -> None:
    pixels, context = 6, Context(seed=3, step=1, layer_id=9)
    channels = min(16, device.facts.block)
    (y,) = masked(device, Vast(0.5, 9), np.ones((1, channels, 1, pixels), np.float32), [context])
    index = np.add.outer(np.arange(channels) * Vast.plane, np.arange(pixels)).astype(np.uint64)
    counter = (index & np.uint64(0xFFFFFFFF), index >> np.uint64(32), context.step, context.layer_id)
    assert np.array_equal(y[0, :, 0] != 0, philox(counter, (context.seed, 0))[0] >= 2**31)


def test_not_a_number_does_not_pass_a_dropped_place(device: Device) -> None:
    x = np.full(SHAPE, np.nan, np.float32)
    (y,) = masked(device, dropout.Dropout(0.5, 0), x, [Context()])
    assert np.array_equal(np.isnan(y), kept(0.5, SHAPE, Context()))
    assert not np.count_nonzero(y[~np.isnan(y)])


def test_layers_share_the_counters_and_differ_by_their_index() -> None:
    graph = Graph()
    x = graph.input("x", TensorSpec(SHAPE))
    y = Dropout(0.5).apply(graph, "dropout1", x, train=True, index=1)
    Dropout(0.5).apply(graph, "dropout2", y, train=True, index=2)
    assert list(graph.persistent) == ["counters"]
    assert graph.persistent["counters"].role == "control"
    assert [node.layer.layer_id for node in graph.nodes] == [1, 2]


def test_nothing_is_added_at_test_time() -> None:
    graph = Graph()
    x = graph.input("x", TensorSpec(SHAPE))
    assert Dropout(0.5).apply(graph, "dropout", x, train=False) is x
    assert not graph.nodes and not graph.persistent


def test_gradient_keeps_nothing_but_the_counters() -> None:
    assert dropout.Dropout(0.5, 0).keeps == ("counters",)
    with pytest.raises(ShapeError, match=r"^dropout: counters 3 of int32 must be 4 of int32$"):
        dropout.Dropout(0.5, 0).infer([TensorSpec(SHAPE), TensorSpec((3,), "int32", "plain")])
