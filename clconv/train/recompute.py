"""What the search for recomputation has to know of a training step, taken from its plan."""

from __future__ import annotations

from collections.abc import Collection

from .._core.conv_winograd import WinogradConv2d, WinogradGradW
from ..graph import Node, Value
from ..passes.recompute import forward_count, lasting
from ..passes.waiting import halvable
from ..plan import Plan
from ..planner.prices import PRICES
from ..planner.recompute import Chain

WINOGRAD_SHARE = 0.5  # of the direct method's time, about


def modelled_cost(plan: Plan, node: Node) -> float:
    """The time of a node, in operations as `planner.prices` counts them; launches are short and left out."""
    cost = plan.costs[node]
    share = WINOGRAD_SHARE if isinstance(node.layer, (WinogradConv2d, WinogradGradW)) else 1.0
    return share * cost.flops + PRICES[plan.facts.kernels].byte * cost.traffic_bytes


def chain(plan: Plan, halved: bool = False) -> Chain:
    """The plan of a step that keeps everything, as a chain of its forward nodes.

    Args:
        halved: what is kept waits as float16, which the plan does not know of.
    """
    nodes, block = plan.graph.nodes, plan.facts.block
    count = forward_count(plan.graph)
    forward, backward = nodes[:count], nodes[count:]
    maker = {value: i for i, node in enumerate(forward) for value in node.outputs}
    always = lasting(forward)
    asked = {value for node in backward for value in node.reads if value in maker and value not in always}
    waits = {value for value in maker if halved and halvable(value, block) and value not in always}
    last: dict[Value, int] = {}

    def held(value: Value) -> int:
        return value.spec.nbytes(block) // (2 if value in waits else 1)

    for i, node in enumerate(forward):
        last.update((value, i) for value in node.reads if value in maker)
    kept = [sum(held(v) for v in node.outputs if v in asked) for node in forward]
    passing = [
        sum(v.spec.nbytes(block) for v in {*node.outputs, *node.reads} if v in maker and v not in asked | always)
        for node in forward
    ]
    gradient, incoming = _gradient_bytes(plan, count, maker, waits & asked)
    return Chain(
        kept=kept,
        passing=passing,
        gradient=gradient,
        incoming=incoming,
        cost=[modelled_cost(plan, node) for node in forward],
        crossing=[
            (maker[v], end, kept[maker[v]] + (0 if v in asked else held(v)))
            for v, end in last.items()
            if v not in always
        ],
        needs=[sorted({maker[v] for v in node.reads if v in maker and v not in always}) for node in forward],
    )


def _gradient_bytes(
    plan: Plan, count: int, maker: dict[Value, int], back: Collection[Value]
) -> tuple[list[int], list[int]]:
    """For each forward node the most bytes of gradients and workspace alive while its gradients are computed, and
    those alive before.

    Args:
        back: values that come back from where they wait, for gradients.
    """
    nodes = plan.graph.nodes
    opened, closed = [0] * (len(nodes) + 1), [0] * (len(nodes) + 2)
    produced = {value: step for step, node in enumerate(nodes) for value in node.outputs}
    for interval in plan.intervals:
        late = [produced[v] for v in interval.values if v in produced and v not in maker]
        start = interval.start if interval.node is not None else min(late, default=None)
        if start is not None:
            opened[start] += interval.nbytes
            closed[min(interval.end, len(nodes)) + 1] += interval.nbytes
    for value in back:
        reading = [step for step, node in enumerate(nodes[count:], count) if value in node.reads]
        opened[reading[0]] += value.spec.nbytes(plan.facts.block)
        closed[reading[-1] + 1] += value.spec.nbytes(plan.facts.block)
    home = {node.name: i for i, node in enumerate(nodes[:count])}
    most, before = [0] * count, [0] * count
    live, at, asking = sum(opened[:count]) - sum(closed[:count]), count - 1, False
    for step in range(count, len(nodes)):
        live -= closed[step]
        reached = min(at, home.get(nodes[step].name, at))
        if reached < at:
            before[reached:at] = [live] * (at - reached)
            at, asking = reached, False
        asking = asking or any(value in maker for value in nodes[step].reads)
        if not asking:  # sums of gradients come before anything is needed of the forward pass
            before[at] = live + opened[step]
        live += opened[step]
        most[at] = max(most[at], live)
    return most, before
