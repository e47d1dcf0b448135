"""What the steps of a plan cost, and what the whole is expected to take."""

from __future__ import annotations

from ._core.layer import Cost
from ._core.layout import Settle, ShiftRows, Upload
from .plan import Plan
from .planner import Step
from .planner.prices import price_of, upload_price
from .planner.steps import Reads
from .shapes import TensorSpec


def step_cost(plan: Plan, step: Step) -> Cost:
    """What one step takes: of a strip, its share."""
    if isinstance(step.layer, ShiftRows):
        moved = step.inputs[0]
        assert moved is not None and not isinstance(moved, tuple)
        share = step.layer.rows / moved.spec.shape[2]
        return Cost(0, int(2 * share * moved.spec.nbytes(plan.facts.block)))
    if isinstance(step.layer, Settle):
        return Cost(0, 0)
    if isinstance(step.layer, Upload):
        return Cost(0, sum(2 * view.spec.nbytes(plan.facts.block) for view in step.outputs))
    if step.whole or not step.outputs:
        return plan.costs[step.node]
    return step.layer.cost([_spec(reads) for reads in step.inputs], [view.spec for view in step.outputs], plan.facts)


def _spec(reads: Reads) -> TensorSpec | None:
    if reads is None:
        return None
    if not isinstance(reads, tuple):
        return reads.spec
    n, _, h, w = reads[0].spec.shape
    return TensorSpec((n, sum(view.spec.shape[1] for view in reads), h, w))


def step_price(plan: Plan, step: Step) -> float:
    """Modelled time of a step, in operations as `planner.prices` counts them."""
    layer, facts = step.layer, plan.facts
    if isinstance(layer, Upload):
        return upload_price(sum(view.spec.nbytes(facts.block) for view in step.outputs), 1, facts)
    if isinstance(layer, Settle | ShiftRows):
        return price_of(step_cost(plan, step), facts)
    specs = [_spec(reads) for reads in step.inputs]
    return price_of(layer.effort(specs, [view.spec for view in step.outputs], facts, step.choice), facts)


def plan_flops(plan: Plan) -> int:
    """Floating-point operations of one run, with what is computed more than once."""
    return sum(step_cost(plan, step).flops for step in plan.schedule.steps)


def plan_price(plan: Plan) -> float:
    """Modelled time of one run, in the same operations."""
    return sum(step_price(plan, step) for step in plan.schedule.steps)


def weight_reads(plan: Plan) -> float:
    """How often a run's steps read the weights, on average over their bytes."""
    block = plan.facts.block
    held = sum(value.spec.nbytes(block) for value in plan.graph.persistent.values())
    views = (view for step in plan.schedule.steps for view in step.views if view.value.persistent)
    return sum(view.spec.nbytes(block) for view in views) / held if held else 0.0


def price_told(plan: Plan, fastest: Plan) -> str:
    """What a plan costs beside the fastest one, for people."""
    flops = plan_flops(plan) / max(1, fastest.flops) - 1
    return (
        f"about {plan_price(plan) / plan_price(fastest):.1f} x the time of the fastest run, "
        f"weights read {weight_reads(plan):.1f} times, {100 * max(0.0, flops):+.0f} % operations"
    )
