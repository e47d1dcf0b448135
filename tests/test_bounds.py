"""The arena of test-time mode against the liveness bound, for well-known networks; no device is needed.

The bound is computed here anew, from the description of the network: each layer with its activation and
batch normalisation is one step, sums and LRN overwrite an input that dies, concatenation is free because
readers take the pieces.
"""

import dataclasses
import math
import random

import pytest

from clconv import passes, planner
from clconv.device import DeviceFacts
from clconv.errors import OutOfMemoryError
from clconv.nn import zoo
from clconv.nn.pattern import parse
from clconv.plan import make_plan

MIB = 2**20
FREE = ("ReLU", "ReLU6", "BatchNorm", "Dropout")  # run in the epilogue of the layer in front of them
IN_PLACE = ("Add", "LRN")


def alexnet_224():
    """The single tower without LRN, for 224x224 images."""
    return parse(
        "INPUT 224x224x3 -> CONV 11x11x64/4 p2 floor -> RELU -> POOL 3x3/2 "
        "-> CONV 5x5x192 -> RELU -> POOL 3x3/2 -> [CONV 3x3x{384,256,256} -> RELU]*3 -> POOL 3x3/2 "
        "-> [FC 4096 -> RELU]*2 -> FC 1000"
    )


# Live activations at the worst step, one image, MiB.
FIGURES = {
    "alexnet": (alexnet_224, 1.31),
    "zfnet": (zoo.zfnet, 5.54),
    "vgg16": (zoo.vgg16, 24.5),
    "vgg19": (zoo.vgg19, 24.5),
    "squeezenet": (zoo.squeezenet, 3.75),
    "resnet18": (zoo.resnet18, 3.83),
    "resnet50": (zoo.resnet50, 6.89),
    "mobilenetv2": (zoo.mobilenetv2, 5.74),
    "unet": (lambda: zoo.unet(base=64, batch_norm=False), 192.0),
}


def facts(block, *, max_alloc_bytes=2**31):
    """A device that nobody has; what the plan does not depend on is left blank."""
    chosen = {
        "kind": "cpu",
        "lanes": block,
        "block": block,
        "accumulators": 28,
        "work_group": 16,
        "kernels": "cpu",
        "max_alloc_bytes": max_alloc_bytes,
        "global_bytes": 2**34,
        "max_work_group": 1024,
        "base_align_bytes": 128,
    }
    blank = {"str": "none", "bool": False, "int": 1, "frozenset[str]": frozenset()}
    values = {field.name: chosen.get(field.name, blank[field.type]) for field in dataclasses.fields(DeviceFacts)}
    return DeviceFacts(**values)


def aligned(nbytes):
    return -(-nbytes // planner.ALIGN) * planner.ALIGN


def liveness_bound(network, block=1, batch=1):
    """The most bytes alive at one step, each tensor in whole units of the arena's alignment.

    Channels are padded to multiples of `block`, those of the image are not.
    """
    shapes = {"input": (batch, *network.input_shape)}
    sizes = {"input": aligned(4 * math.prod(shapes["input"]))}
    tensors = {"input": ("input",)}  # what holds the output of each layer: several for a concatenation
    steps = []  # (tensors read, tensor written, overwrites)
    for entry in network.entries:
        given = [shapes[name] for name in entry.inputs]
        shapes[entry.name] = entry.layer.reference.output_shape(entry.layer.arguments, given)
        reads = tuple(tensor for name in entry.inputs for tensor in tensors[name])
        kind = type(entry.layer).__name__
        if kind in FREE or kind == "Concat":
            tensors[entry.name] = reads
            continue
        n, c, h, w = shapes[entry.name]
        sizes[entry.name] = aligned(4 * n * -(-c // block) * block * h * w)
        tensors[entry.name] = (entry.name,)
        steps.append((reads, entry.name, kind in IN_PLACE))
    sizes["host"] = aligned(4 * math.prod(shapes[network.entries[-1].name]))  # the result, row by row
    steps.append((tensors[network.entries[-1].name], "host", False))

    last = {name: step for step, (reads, _, _) in enumerate(steps) for name in reads}
    last["host"] = len(steps)
    live, alive, worst = sizes["input"], {"input"}, 0
    for step, (reads, written, overwrites) in enumerate(steps):
        dying = {name for name in reads if last[name] == step}
        taken = next((n for n in reads if overwrites and n in dying and sizes[n] == sizes[written]), None)
        if taken is not None:
            dying.remove(taken)
            alive.remove(taken)
            live -= sizes[taken]
        live += sizes[written]
        alive.add(written)
        worst = max(worst, live)
        live -= sum(sizes[name] for name in dying)
        alive -= dying
    assert alive == {"host"}
    return worst


def inference_plan(network, block, batch=1, *, sums=False, **limits):
    """The plan of test-time mode, whose bound knows nothing of sums that convolutions take in: only with `sums`."""
    graph = network.graph(batch, train=False)
    passes.for_inference(graph, block, sums=sums)
    return make_plan(graph, facts(block, **limits))


@pytest.mark.parametrize("block", [16, 8, 4, 1])
@pytest.mark.parametrize("name", FIGURES)
def test_arena_equals_the_liveness_bound(name, block):
    build, figure = FIGURES[name]
    network = build()
    bound = liveness_bound(network)
    assert f"{bound / MIB:.3g}" == f"{figure:.3g}"
    padding = liveness_bound(network, block) - bound
    plan = inference_plan(network, block)
    assert plan.activation_bytes == plan.arena_bytes == bound + padding
    assert padding == 0  # all of them have multiples of 16 channels where they are largest
    assert inference_plan(network, block, sums=True).arena_bytes <= bound


@pytest.mark.parametrize("block", [16, 8])
@pytest.mark.parametrize(
    "network",
    [zoo.lenet(), zoo.cifar_net(), zoo.alexnet(), zoo.unet(), zoo.resnet50(size=160), zoo.vgg19(size=64)],
    ids=["lenet", "cifar_net", "alexnet-227", "unet-32-bn", "resnet50-160", "vgg19-64"],
)
def test_arena_equals_the_bound_for_other_sizes(network, block):
    assert inference_plan(network, block).arena_bytes == liveness_bound(network, block)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet", "resnet18"])
def test_arena_grows_with_the_batch(name):
    network = FIGURES[name][0]()
    assert inference_plan(network, 16, batch=5).arena_bytes == liveness_bound(network, 16, batch=5)


def test_padding_is_counted_where_channels_do_not_fill_blocks():
    network = parse("INPUT 32x32x3 -> CONV 3x3x20 -> RELU -> CONV 3x3x9 -> RELU -> GAP -> FC 10")
    assert liveness_bound(network) == 32 * 32 * (20 + 9) * 4
    assert liveness_bound(network, 16) == 32 * 32 * (32 + 16) * 4
    assert inference_plan(network, 16).activation_bytes == 32 * 32 * (32 + 16) * 4


def test_a_sum_overwrites_only_what_dies():
    network = zoo.resnet18(size=64)
    plan = inference_plan(network, 8)
    shared = [interval for interval in plan.intervals if len(interval.values) > 1]
    assert len(shared) == 8  # one per residual block
    assert plan.arena_bytes == liveness_bound(network, 8)


def test_slabs_respect_the_largest_allocation():
    network = FIGURES["vgg16"][0]()
    limit = 411_041_792  # of fc6, the largest tensor
    plan = inference_plan(network, 16, max_alloc_bytes=limit)
    assert max(plan.residence.slab_bytes["weights"]) <= limit
    message = r"fc1.weight: 411041792 bytes in one piece.* at most 411041728"
    with pytest.raises(OutOfMemoryError, match=message):
        inference_plan(network, 16, max_alloc_bytes=limit - 64)


def random_intervals(rng, count):
    found = []
    for _ in range(count):
        start, length = rng.randrange(40), rng.choice((0, 0, 1, 1, 2, 5, 30))
        found.append(planner.Interval(start, start + length, rng.randrange(1, 5000)))
    return found


def ranges(intervals, arena):
    for interval, placement in zip(intervals, arena.placements, strict=True):
        yield interval, placement.slab, placement.offset, placement.offset + interval.nbytes


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limit", [2**31, 8192, 5056])
def test_intervals_alive_together_never_overlap(seed, limit):
    rng = random.Random(seed)
    intervals = random_intervals(rng, rng.randrange(1, 60))
    arena = planner.place(intervals, limit)
    assert all(size <= limit for size in arena.slab_bytes)
    assert limit < 2**31 or len(arena.slab_bytes) == 1
    placed = list(ranges(intervals, arena))
    for i, (a, slab, start, end) in enumerate(placed):
        assert start % planner.ALIGN == 0 and end <= arena.slab_bytes[slab]
        for b, other_slab, other_start, other_end in placed[:i]:
            together = a.start <= b.end and b.start <= a.end
            assert not together or slab != other_slab or end <= other_start or other_end <= start
    assert arena.nbytes >= max(planner.live_bytes(intervals, 80))


def test_what_is_larger_than_an_allocation_may_be_is_refused():
    with pytest.raises(OutOfMemoryError, match=r"a workspace: 1024 bytes in one piece, .* at most 512"):
        planner.place([planner.Interval(0, 0, 1000)], 512)
