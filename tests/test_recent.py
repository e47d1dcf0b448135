"""What is kept is bounded, and what alternates is not made again."""

import numpy as np
import pytest

import clconv as cc
from clconv import fitting
from clconv.inference import OUTPUT
from clconv.recent import Recent
from clconv.train.method import MOST_PLANS, Method, StepPlans
from clconv.waiting import NONE


def test_the_longest_unused_goes_first():
    made = []
    kept = Recent(2)

    def get(key):
        return kept.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abacabb"] == list("ABACABB")
    assert made == list("abcb") and len(kept) == 2


def test_what_is_let_go_is_told():
    gone = []
    kept = Recent(2, gone.append)
    for key in "abacd":
        kept.get(key, lambda key=key: key.upper())
    assert gone == ["B", "A"] and kept.values() == ["C", "D"]
    kept.clear()
    assert sorted(gone) == list("ABCD") and len(kept) == 0


def test_making_may_ask_for_others():
    kept = Recent(2)
    assert kept.get(3, lambda: 1 + kept.get(2, lambda: 1 + kept.get(1, lambda: 1))) == 3 and len(kept) == 2


def test_a_failure_is_not_kept():
    kept = Recent(1)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert len(kept) == 0 and kept.get("a", lambda: 5) == 5


def test_plans_for_any_number_of_budgets_take_little_of_the_host(device):
    with cc.Net("INPUT 16x16x3 -> [CONV 3x3x16 -> RELU]*3 -> FC 4", device=device) as net:
        net.plan()
        (fittings,) = net._test._fittings.values()
        made = fittings._fitting(NONE, cc.terms.Terms())
        whole = net.plan().peak_bytes
        low = made.smallest().peak_bytes
        budgets = np.linspace(low, whole, 3 * fitting.MOST_PLANS).astype(int)
        assert all(net.plan(memory=int(budget)).peak_bytes <= budget for budget in budgets)
        assert 0 < len(made._found) <= fitting.MOST_PLANS and len(made._streaming) <= fitting.MOST_PLANS
    steps = StepPlans(net.network, device.facts, "softmax", cc.SGD(0.1))
    for images in range(1, MOST_PLANS + 4):
        steps.test(Method(), images)
    assert len(steps._plans) == MOST_PLANS


def test_alternating_batches_and_budgets_are_planned_once(device):
    with cc.Net("INPUT 16x16x3 -> [CONV 3x3x16 -> RELU]*3 -> FC 4", device=device) as net:
        whole, half = net.plan(4).peak_bytes, (net.plan(1).peak_bytes + net.plan(4).peak_bytes) // 2

        def plans():
            return [net._inference.runs(n, None, each, OUTPUT)[1] for n in (4, 1, 3) for each in (None, whole, half)]

        assert all(again is plan for again, plan in zip(plans(), plans(), strict=True))
