"""Batches in two stages: convolutions for few images at a time, what reads most weights for all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .plan import MAPPED, STREAMED, Plan, settle
from .planner import format_bytes
from .pricing import plan_price


def chained(front: Plan, behind: Plan) -> Plan:
    """The plan of the first stage with the second `behind` it; the weights of both are loaded together."""
    facts, runs = front.facts, batch_of(behind) / batch_of(front)
    plan = replace(front, behind=(behind,))
    tags = {name: place[0] for each in plan.stages for name, place in each.residence.places.items()}
    streamed = {name for name, tag in tags.items() if tag == STREAMED}
    residence = settle(plan.persistent.values(), facts, mapped=MAPPED in tags.values(), streamed=streamed)
    waiting = runs * next(iter(front.graph.outputs.values())).spec.nbytes(facts.block)
    told = (
        f"fully-connected layers for {batch_of(behind)} images at once, all before them for {batch_of(front)}; "
        f"{format_bytes(int(waiting))} wait in host memory meanwhile",
    )
    return replace(plan, behind=(replace(behind, residence=residence),), residence=residence, told=(*plan.told, *told))


def batch_of(plan: Plan) -> int:
    """Images that one run of a plan takes."""
    return int(next(iter(plan.graph.inputs.values())).spec.shape[0])


def batch_price(plan: Plan, count: int) -> float:
    """Modelled time of so many images, in operations."""
    return sum(-(-count // batch_of(stage)) * plan_price(stage) for stage in plan.stages)


def largest(count: int, fit: Callable[[int, bool], Plan | None]) -> Plan | None:
    """The plan for the most images up to `count` that fits; halves are tried.

    Args:
        fit: makes the plan of so many images, with strips or without, or None where it does not fit.
    """
    while count > 1:
        if (plan := fit(count, False)) is not None:
            return plan
        count = -(-count // 2)
    return fit(1, True)
