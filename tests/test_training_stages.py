"""Training in stages: fully-connected layers take the whole batch, what is in front of them parts of it."""

from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

import clconv as cc
from clconv.bench import measure
from clconv.cli import main
from clconv.device import choose
from clconv.errors import BudgetError
from clconv.explain import explain, step_seconds
from clconv.report import plan_table, report
from clconv.timeline import timeline, trace
from clconv.train.budget import Fitting
from clconv.train.method import Method, StepPlans
from clconv.train.trainer import Trainer

MOMENTUM = cc.SGD(0.05, momentum=0.9)
# Most weights are behind the convolutions, as in AlexNet.
HEADED = "INPUT 16x16x3 -> [CONV 3x3x16 -> RELU -> POOL -> DROPOUT 0.2]*2 -> [FC 400 -> RELU -> DROPOUT 0.5] -> FC 5"


@pytest.fixture(scope="module")
def one():
    """The default device, for what does not depend on the driver."""
    return choose()


def batch(network, n=12, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *network.input_shape), dtype=np.float32)
    return x, rng.integers(0, network.output_shape[0], n).astype(np.int32)


def stepped(device, network, method, steps=2, optimizer=MOMENTUM):
    """Losses and right answers of some steps by a method, and all arrays behind them."""
    x, y = batch(network)
    trainer = Trainer(network, device, "softmax", optimizer, seed=4)
    trainer.plan_within = partial(planned, trainer, method)
    try:
        trainer.prepare(network.initial(1), {"train": {len(x)}})
        trainer.session.fill_arena(0xFF)  # what is read before it is written is not a number
        told = [trainer.step(x, y, optimizer.rate) for _ in range(steps)]
        assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        return told, {**trainer.arrays(), **trainer.optimizer_arrays()}
    finally:
        trainer.release()


def planned(trainer, method, batches, budget):
    """What `plan_within` does, with a method that is given."""
    trainer.method, trainer._batches = method, {mode: set(sizes) for mode, sizes in batches.items()}
    return trainer._plans.all(method, batches)


def assert_same(found, expected):
    assert found[0] == expected[0]
    for name, array in expected[1].items():
        assert np.array_equal(found[1][name], array), name


def assert_close(found, expected, rtol):
    """Losses and arrays of which the sums have another order; arrays beside the largest of their values."""
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    for name, array in expected[1].items():
        error = np.abs(found[1][name] - array).max()
        assert error <= rtol * np.abs(array).max() + 1e-12, (name, error)


def test_stages_change_sums_by_rounding_alone(one):
    network = cc.Net(HEADED).network
    whole = stepped(one, network, Method(scratch=0))
    assert_close(stepped(one, network, Method(5, True, scratch=0)), whole, 1e-5)


def test_stages_compute_again_with_the_same_bits(one):
    network = cc.Net(HEADED).network
    expected = stepped(one, network, Method(5, True, scratch=0))
    assert_same(stepped(one, network, Method(5, True, (1, 3), scratch=0)), expected)
    assert_close(stepped(one, network, Method(5, True, halved=True, scratch=0)), expected, 2e-2)


def test_running_statistics_move_once_for_each_part(one):
    """As they do where all layers take parts; those of a normalised head once for the batch."""
    network = cc.Net("INPUT 12x12x3 -> [CONV 3x3x16 -> BN -> RELU]*2 -> POOL -> FC 40 -> BN -> RELU -> FC 5").network
    parts = stepped(one, network, Method(4, scratch=0), 1)[1]
    found = stepped(one, network, Method(4, True, scratch=0), 1)[1]
    running = [name for name in found if "running" in name]
    assert len(running) == 6
    for name in running[:4]:
        assert np.array_equal(found[name], parts[name]), name
    whole = stepped(one, network, Method(scratch=0), 1)[1]
    for name in running[4:]:
        assert np.abs(found[name] - whole[name]).max() < np.abs(parts[name] - whole[name]).max(), name


def test_what_is_frozen_is_not_computed_again(one):
    """Without weights to change in front there are no gradients there, so that nothing runs twice."""
    net = cc.Net(HEADED)
    net.freeze("conv*")
    whole = stepped(one, net.network, Method(scratch=0))
    assert_close(stepped(one, net.network, Method(5, True, scratch=0)), whole, 1e-5)
    plans = StepPlans(net.network, one.facts, "softmax", MOMENTUM)
    stages = plans.stages(Method(scratch=0), 3, 12, True).stages
    assert len(stages) == 2 and "gradient" not in stages[1].graph.outputs
    fitting = Fitting(plans, {"train": {12}}, parts=False)
    assert fitting.cost(Method(5, True)) < 1.05 * fitting.cost(Method()) < fitting.cost(Method(5))


def offered(device, pattern, parts=False):
    plans = StepPlans(cc.Net(pattern).network, device.facts, "softmax", MOMENTUM)
    return Fitting(plans, {"train": {8}}, parts=parts).staged


def test_stages_are_offered_where_they_change_nothing_else(one):
    front = "INPUT 8x8x3 -> CONV 3x3x16 -> {}RELU -> "
    assert offered(one, front.format("") + "FC 5")
    assert not offered(one, front.format("") + "CONV 8x8x5 p0")
    assert not offered(one, "INPUT 8x8x3 -> FC 9 -> RELU -> FC 5")
    assert not offered(one, front.format("BN -> ") + "FC 5")
    assert offered(one, front.format("BN -> ") + "FC 5", parts=True)
    # Statistics behind the first fully-connected layer are those of the whole batch.
    assert offered(one, front.format("") + "FC 9 -> BN -> FC 5")


def test_a_head_with_statistics_of_its_own_trains_in_less_memory(one):
    net = cc.Net("INPUT 16x16x3 -> [CONV 3x3x16 -> RELU]*3 -> FC 9 -> BN -> RELU -> FC 5", device=one, seed=2)
    plan = net.plan(12, "train", memory=net.plan(12, "train").peak_bytes * 2 // 3)
    assert any("whole batch is taken at once" in line for line in plan.told)


@pytest.mark.parametrize("optimizer", [MOMENTUM, cc.Adam(0.001)], ids=lambda o: o.rule)
def test_announced_bytes_are_measured_and_the_least_is_true(one, optimizer):
    net = cc.Net(HEADED, device=one, seed=1)
    x, y = batch(net.network)
    with pytest.raises(BudgetError) as refused:
        net.plan(12, "train", memory=1000, optimizer=optimizer)
    least = refused.value.needed_bytes
    plan = net.plan(12, "train", memory=least, optimizer=optimizer)
    assert plan.peak_bytes == least and len(plan.stages) == 3
    assert plan.told[-2] == "from the first fully-connected layer on the whole batch is taken at once"
    with pytest.raises(BudgetError, match=f"at least {least} "):
        net.plan(12, "train", memory=least - 64, optimizer=optimizer)
    with net:
        history = net.fit(x, y, batch_size=12, epochs=2, memory=least, optimizer=optimizer, verbose=False)
        assert history.peak_bytes == least and np.isfinite(history.loss).all()
        # A last batch that is smaller, and a run that goes on with the same trainer.
        trainer = net._training.trainer
        net.fit(x, y, batch_size=12, memory=least, optimizer=optimizer, verbose=False)
        assert net._training.trainer is trainer
    history = cc.Net(HEADED, device=one, seed=1).fit(
        x[:11], y[:11], batch_size=6, memory=least, optimizer=optimizer, verbose=False
    )
    assert history.peak_bytes <= least


def test_gradients_are_gathered_only_where_they_come_in_parts(one):
    """Adam gathers in memory of its own: not for the weights of the head, which are most."""
    plans = StepPlans(cc.Net(HEADED).network, one.facts, "softmax", cc.Adam(0.001))
    bytes_of = {
        staged: plans.part(Method(scratch=0), 3, 12, True).residence.nbytes("gradients")
        if not staged
        else plans.stages(Method(scratch=0), 3, 12, True).residence.nbytes("gradients")
        for staged in (False, True)
    }
    assert 0 < bytes_of[True] < bytes_of[False] / 10


def test_tables_and_pictures_show_all_stages(one, tmp_path):
    net = cc.Net(HEADED, device=one)
    unlimited = net.plan(12, "train")
    with pytest.raises(BudgetError) as refused:
        net.plan(12, "train", memory=1000)
    memory = refused.value.needed_bytes
    plan = net.plan(12, "train", memory=memory)
    steps = [step for stage in plan.stages for step in stage.schedule.steps]
    told = explain(plan, unlimited, "train", 12)
    forward, back = {part.first for part in told.parts[:2]}, told.parts[-1]
    assert forward == {"conv1", "fc1"} and back.first == "conv1"
    hows = ["forward, 12 x", "forward, 1 x", "backward, 1 x", "forward, 12 x", "backward, 12 x"]
    assert [part.how for part in told.parts] == hows
    assert sum(part.steps for part in told.parts) == len(steps) and told.runs == 12
    assert told.flops > told.unlimited_flops and told.ratio > 1
    line = timeline(plan)
    assert line.totals == [plan.residence.nbytes() + live for stage in plan.stages for live in stage.step_bytes]
    assert max(line.totals) <= line.held_bytes == plan.peak_bytes
    assert list(line.places) == sorted(line.places)
    made = trace(plan, "a network", step_seconds(plan))
    assert len([event for event in made["traceEvents"] if event["ph"] == "X"]) == len(steps)
    rows = {row.name: row for row in report(net, 12, "train", memory).rows}
    assert rows["fc1"].live_bytes and rows["conv1"].live_bytes and rows["fc2"].algorithm
    assert len(plan_table(plan).splitlines()) >= len(steps)
    arguments = ["summary", HEADED, "--batch", "12", "--mode", "train", "--memory", str(memory), "--explain"]
    shown = CliRunner().invoke(main, [*arguments, "--plot", str(tmp_path / "plan.png")])
    assert shown.exit_code == 0 and "from the first fully-connected layer on" in shown.output


def test_bench_times_all_stages_of_a_step(one):
    net = cc.Net(HEADED, device=one)
    with pytest.raises(BudgetError) as refused:
        net.plan(12, "train", memory=1000)
    with net:
        made = measure(
            net.network, one, net.get_weights(), mode="train", batch=12, budget=refused.value.needed_bytes, seconds=0
        )
    launched = {step.layer: step.launches for step in made.steps if step.operator.startswith("Conv2d")}
    assert launched == {"conv1": 12, "conv2": 12}
    assert [step.launches for step in made.steps if step.operator == "SoftmaxLoss"] == [1]
    assert made.batch == 12 and made.run_s > 0 and len(made.live_bytes) == len(made.steps)
    ends = [launch.end_s for launch in made.timeline]
    assert ends == sorted(ends) and {launch.step for launch in made.timeline} <= set(range(len(made.steps)))
