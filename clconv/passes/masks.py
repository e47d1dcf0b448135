"""Takes activations' slopes where it costs least memory: behind max-pooling, and once for all pieces of a Concat."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.activation import ActivationGrad
from .._core.elementwise import Concat, TakeChannels
from .._core.pool import Pool2dGrad
from ..graph import Graph, Node, Value

STEPS = ("relu", "relu6")  # their slope is 0 or 1, so that bits do not depend on when it is multiplied with


def move_masks(graph: Graph) -> None:
    """Rewrites the gradient of activations whose output training would keep for nothing else.

    * concat(f(a), f(b), ...): one slope from the joined output instead of one from each piece. The pieces may go.
    * maxpool(f(x)), f a `STEPS`: the slope at each maximum is known from the pooled output, so it is taken before
      the gradient is spread, on as many values less. f(x) may go, which is the largest tensor of many networks.

    The gradients keep their values bit for bit (a zero may change its sign).
    """
    readers = graph.readers()
    for node in [n for n in graph.nodes if type(n.layer) is Concat]:
        _join(graph, readers, node)
    readers = graph.readers()
    for node in [n for n in graph.nodes if type(n.layer) is ActivationGrad]:
        _pool(graph, readers, node)


def _join(graph: Graph, readers: Mapping[Value, list[Node]], concat: Node) -> None:
    masks = [_only_mask(readers, piece) for piece in concat.reads]
    first = masks[0]
    if first is None or len(set(concat.reads)) < len(masks):
        return
    taken = [
        mask.inputs[0].producer if mask is not None and isinstance(mask.inputs[0], Value) else None for mask in masks
    ]
    source = taken[0].inputs[0] if taken[0] is not None else None
    for mask, take in zip(masks, taken, strict=True):
        if mask is None or take is None or type(take.layer) is not TakeChannels or take.inputs[0] is not source:
            return
        if readers[take.outputs[0]] != [mask] or _function(mask) != _function(first):
            return
    at = min(graph.nodes.index(take) for take in taken if take is not None)
    moved = graph.nodes[at:]
    del graph.nodes[at:]
    (masked,) = graph.add(first.layer, [source, concat.outputs[0]], concat.name)
    graph.nodes += moved
    for mask, take in zip(masks, taken, strict=True):
        assert mask is not None and take is not None
        take.inputs = (masked,)
        graph.nodes.remove(mask)
        graph.rewire(mask.outputs[0], take.outputs[0])


def _only_mask(readers: Mapping[Value, list[Node]], y: Value) -> Node | None:
    """The node that takes the slope of the activation whose output is y, if there is exactly one."""
    found = [n for n in readers.get(y, []) if type(n.layer) is ActivationGrad and n.inputs[1] is y]
    return found[0] if len(found) == 1 else None


def _function(mask: Node) -> tuple[str, float]:
    return mask.layer.activation, mask.layer.slope


def _pool(graph: Graph, readers: Mapping[Value, list[Node]], mask: Node) -> None:
    spread_dy, y = mask.inputs
    spread = spread_dy.producer if isinstance(spread_dy, Value) else None
    if spread is None or type(spread.layer) is not Pool2dGrad or spread.layer.kind != "max":
        return
    pools = [n for n in readers[y] if n.outputs and n.outputs[-1] is spread.inputs[1]]  # type: ignore[index]
    if len(pools) != 1 or mask.layer.activation not in STEPS or readers[spread.outputs[0]] != [mask]:
        return
    # mask(spread(dy), y) becomes spread(mask(dy, pooled)).
    dy, (before,), (after,) = spread.inputs[0], spread.outputs, mask.outputs
    graph.nodes.remove(mask)
    at = graph.nodes.index(spread)
    moved = graph.nodes[at:]
    del graph.nodes[at:]
    (masked,) = graph.add(mask.layer, [dy, pools[0].outputs[0]], mask.name)
    graph.nodes += moved
    spread.inputs = (masked, *spread.inputs[1:])
    graph.rewire(after, before)
