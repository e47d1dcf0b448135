"""The case table on every working device."""

from dataclasses import replace

import numpy as np
import pytest

from clconv import device as devices
from clconv import reference
from clconv.nn.base import LAYERS
from clconv.selftest import compute, same_bits, verify

CONVOLUTIONS = [case for case in reference.CASES if "Conv" in case.layer]
CASES = [pytest.param(case, marks=pytest.mark.small if case.small else ()) for case in reference.CASES]


def fewer(device, case):
    """Skips two of three convolutions where the driver takes seconds to compile each."""
    if device.facts.loop_limit and case in CONVOLUTIONS and case not in CONVOLUTIONS[::3]:
        pytest.skip("slow")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(device, case):
    """Shapes, exact whole numbers, random values and gradients within the derived bound, nothing written outside."""
    fewer(device, case)
    assert verify(case, device) == []


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_two_runs_give_the_same_bits(device, case):
    fewer(device, case)
    values = case.values(3)
    assert same_bits(compute(case, values, device), compute(case, values, device))


@pytest.mark.parametrize("case", [c for c in reference.CASES if c.shapes[0][0] > 1][::3], ids=str)
def test_a_batch_equals_single_runs(device, case):
    fewer(device, case)
    values = case.values(4)
    whole = compute(case, values, device, gradient=False).y
    one = replace(case, shapes=tuple((1, *shape[1:]) for shape in case.shapes))
    for i in range(len(whole)):
        single = replace(values, inputs=[x[i : i + 1] for x in values.inputs])
        assert compute(one, single, device, gradient=False).y.tobytes() == whole[i : i + 1].tobytes()


@pytest.mark.parametrize("case", CONVOLUTIONS[::2], ids=str)
def test_tiles_do_not_change_the_bits(device, case):
    """A seeded sample of the variants of each layer: the order of every sum is the same in all."""
    fewer(device, case)
    rng = np.random.default_rng(len(str(case)))
    values = case.values(5)
    variant = compute(case, values, device, pick=lambda choices: choices[rng.integers(len(choices))])
    assert same_bits(variant, compute(case, values, device))


@pytest.mark.parametrize("block", [1, 4, 8])
@pytest.mark.parametrize("case", [c for c in reference.CASES if c.small][::6], ids=str)
def test_other_channel_blocks(case, block, monkeypatch):
    """Block sizes that the default device would not choose itself."""
    key = devices.choose().key
    monkeypatch.setenv("CLCONV_BLOCK", str(block))
    device = devices.choose(key)
    assert device.facts.block == block
    assert verify(case, device) == []


@pytest.mark.parametrize("refusal", reference.REFUSED, ids=str)
def test_refusals(refusal):
    from clconv.errors import ClconvError
    from clconv.graph import Graph
    from clconv.shapes import TensorSpec

    def apply():
        layer = LAYERS[refusal.layer](**refusal.attrs)
        graph = Graph()
        xs = [graph.input(f"x{i}", TensorSpec(shape, layout="plain")) for i, shape in enumerate(refusal.shapes)]
        layer.apply(graph, "layer", *xs, train=refusal.train)

    with pytest.raises(ClconvError, match=refusal.message):
        apply()
