"""Training in less memory: what is rewritten changes no bits, and what fits is known beforehand."""

import re
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import clconv as cc
from clconv import passes
from clconv.device import Device, choose
from clconv.errors import ArgumentError, BudgetError, NonFiniteError
from clconv.nn import zoo
from clconv.planner.recompute import Chain, Search
from clconv.train import step
from clconv.train.method import Method, StepPlans
from clconv.train.recompute import chain
from clconv.train.trainer import Trainer

# Pooling behind activations whose slope is 0 or 1, overlapping windows, and a fire module in front of one.
POOLED = (
    "INPUT 12x12x3 -> CONV 3x3x16 -> RELU -> POOL 3x3/2 p1 floor -> CONV 3x3x24 -> RELU6 -> POOL -> [FC 20 -> RELU] "
    "-> FC 5"
)


def fire():
    """Two activated branches, joined and pooled: what SqueezeNet is made of."""
    x = cc.Input(3, 12, 12)
    squeezed = cc.ReLU()(cc.Conv(16, 1)(x))
    left = cc.ReLU()(cc.Conv(16, 1)(squeezed))
    right = cc.ReLU()(cc.Conv(32, 3, pad=1)(squeezed))
    joined = cc.MaxPool(3, 2, rounding="ceil")(cc.Concat()(left, right))
    return cc.Net(cc.FC(5)(joined)).network


def batch(network, n=6, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *network.input_shape), dtype=np.float32)
    return x, rng.integers(0, network.output_shape[0], n).astype(np.int32)


def trained(device, network, optimizer, x, y, steps=2, **settings):
    """Losses and all arrays, optimizer state included, after some steps on the same images."""
    return stepped(Trainer(network, device, "softmax", optimizer, seed=4, **settings), optimizer, x, y, steps)


def stepped(trainer, optimizer, x, y, steps=2):
    network = trainer.network
    try:
        trainer.prepare(network.initial(1), {"train": {len(x)}})
        trainer.session.fill_arena(0xFF)  # what is read before it is written is not a number
        losses = [trainer.step(x, y, optimizer.rate)[0] for _ in range(steps)]
        assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        return losses, {**trainer.arrays(), **trainer.optimizer_arrays()}
    finally:
        trainer.release()


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        assert np.array_equal(found[1][name], array), name


OPTIMIZERS = [
    cc.SGD(0.05),
    cc.SGD(0.05, 0.01, momentum=0.9),
    cc.SGD(0.05, momentum=0.9, nesterov=True),
    cc.Adagrad(0.01),
    cc.RMSProp(0.001, 0.01),
    cc.Adam(0.001),
]


@pytest.mark.parametrize("network", [cc.Net(POOLED).network, fire()], ids=["pooled", "fire"])
def test_slopes_are_taken_elsewhere_with_the_same_bits(device, monkeypatch, network):
    x, y = batch(network)
    peak = step_peak(device, network)
    found = trained(device, network, cc.SGD(0.05, momentum=0.9), x, y)
    monkeypatch.setattr(passes, "move_masks", lambda graph: None)
    assert step_peak(device, network) > peak
    assert_same(found, trained(device, network, cc.SGD(0.05, momentum=0.9), x, y))


def normalised():
    """Batch normalisation in front of sums and of all kinds of activations, 6 channels included."""
    x = cc.ReLU()(cc.BatchNorm()(cc.Conv(16, 3, pad=1)(cc.Input(3, 12, 12))))
    x = cc.ReLU6()(cc.Add()(x, cc.BatchNorm()(cc.Conv(16, 3, pad=1)(x))))
    x = cc.Add()(
        cc.BatchNorm()(cc.Conv(6, 3, stride=2, pad=1, rounding="floor")(x)), cc.BatchNorm()(cc.Conv(6, 2, 2)(x))
    )
    x = cc.LeakyReLU()(cc.BatchNorm()(cc.Conv(6, 1)(x)))
    x = cc.Sigmoid()(cc.BatchNorm()(cc.Conv(6, 1)(x)))
    return cc.Net(cc.FC(5)(cc.Tanh()(cc.BatchNorm()(x)))).network


@pytest.mark.parametrize("kernels", ["cpu", "gpu"])
def test_normalisation_takes_sums_and_slopes_with_the_same_bits(device, monkeypatch, kernels):
    monkeypatch.setenv("CLCONV_KERNELS", kernels)
    device, network, optimizer = choose(device.key), normalised(), cc.SGD(0.05, momentum=0.9)
    x, y = batch(network)
    kinds = [type(n.layer).__name__ for n in step.training_graph(network, len(x), "softmax", optimizer).nodes]
    assert (kinds.count("BatchNormTrain"), kinds.count("ActivationGrad")) == (7, 1)
    found = trained(device, network, optimizer, x, y)
    for name in ("fuse_sums", "fuse_activations"):
        monkeypatch.setattr(passes, name, lambda graph, train=False: None)
    assert_same(found, trained(device, network, optimizer, x, y))


def test_normalised_values_are_made_again_rather_than_kept(device, monkeypatch):
    pattern = "INPUT 12x12x3 -> [CONV 3x3x16 -> BN -> RELU]*4 -> CONV 1x1x8 -> BN -> POOL -> FC 5"
    network, optimizer = cc.Net(pattern).network, cc.SGD(0.05, momentum=0.9)
    x, y = batch(network)
    found, peak = trained(device, network, optimizer, x, y), step_peak(device, network)
    monkeypatch.setattr(passes, "normalise_again", lambda graph: None)
    assert peak < 0.8 * step_peak(device, network)
    assert_same(found, trained(device, network, optimizer, x, y))


def step_peak(device, network):
    return Trainer(network, device, "softmax", cc.SGD(0.05, momentum=0.9)).plan("train", 64).peak_bytes


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.rule)
def test_a_step_from_the_sums_has_the_bits_of_a_step_from_the_gradient(one, monkeypatch, optimizer):
    network = cc.Net(POOLED).network
    x, y = batch(network)
    nodes = step.training_graph(network, len(x), "softmax", optimizer).nodes
    assert sum(node.layer.outputs == () and "dy" in node.layer.inputs for node in nodes) == 4  # all four weights
    found = trained(one, network, optimizer, x, y, 3)
    monkeypatch.setattr(passes, "fuse_updates", lambda graph: None)
    assert_same(found, trained(one, network, optimizer, x, y, 3))


def again(device, monkeypatch, network, optimizer, x, y, cuts):
    """As `trained`, but with everything between the cuts computed twice."""
    trainer = Trainer(network, device, "softmax", optimizer, seed=4)
    monkeypatch.setattr(trainer, "plan_within", lambda batches, budget: planned(trainer, batches, Method(cuts=cuts)))
    return stepped(trainer, optimizer, x, y)


def planned(trainer, batches, method):
    """What `plan_within` does, with a method that is given."""
    trainer.method, trainer._batches = method, {mode: set(sizes) for mode, sizes in batches.items()}
    return trainer._plans.all(method, batches)


# Batch normalisation, dropout, LRN, pooling with places, a shortcut and branches: all that could come out differently.
def everything():
    x = cc.Input(3, 12, 12)
    a = cc.ReLU()(cc.BatchNorm()(cc.Conv(16, 3, pad=1)(x)))
    b = cc.Tanh()(cc.BatchNorm()(cc.Conv(16, 3, pad=1, groups=2)(a)))
    a = cc.LRN()(cc.ReLU()(cc.Add()(a, b)))
    a = cc.ReLU()(cc.Add()(a, cc.BatchNorm()(cc.Conv(16, 1)(a))))
    a = cc.MaxPool(2)(cc.Dropout(0.3)(a))
    a = cc.ReLU()(cc.Concat()(cc.Conv(16, 1)(a), cc.AvgPool(3, 1, pad=1)(cc.Sigmoid()(cc.Conv(8, 1)(a)))))
    a = cc.MaxPool(3, 2, pad=1, rounding="floor")(a)
    return cc.Net(cc.FC(5)(cc.Dropout(0.5)(cc.ReLU()(cc.FC(20)(a))))).network


@pytest.mark.parametrize("cuts", [(4, 9), tuple(range(1, 15))], ids=len)
def test_what_is_computed_again_has_the_same_bits(device, monkeypatch, cuts):
    """Gradients, and running statistics, which are updated once."""
    network, optimizer = everything(), cc.SGD(0.05, momentum=0.9)
    x, y = batch(network)
    expected = trained(device, network, optimizer, x, y)
    assert_same(again(device, monkeypatch, network, optimizer, x, y, cuts), expected)


def test_less_is_kept(one):
    network = cc.Net("INPUT 32x32x16 -> [CONV 3x3x16 -> BN -> TANH]*8 -> FC 10").network
    trainer = Trainer(network, one, "softmax", cc.SGD(0.1))
    kept = trainer._plans.train(Method(scratch=0), 32, 32, False)
    search = Search(chain(kept))
    peaks = []
    for share in (0, 0.25, 0.5, 0.75):
        limit = search.least() + int((search.peak[0][search.count] - search.least()) * share)
        cost, cuts = search.cuts(limit)
        assert cost <= sum(chain(kept).cost)  # at most one more forward pass
        plan = trainer._plans.train(Method(cuts=cuts, scratch=0), 32, 32, False)
        assert max(plan.live_bytes) <= 1.02 * limit + 32 * 32 * 32 * 16 * 4  # the images lie beside the chain
        peaks.append(plan.arena_bytes)
    assert peaks == sorted(peaks) and peaks[0] < 0.6 * kept.arena_bytes
    assert search.cuts(search.least() // 2) is None


WHOLE = (
    "INPUT 8x8x4 -> CONV 3x3x16 -> RELU -> POOL -> DROPOUT 0.5 -> CONV 3x3x24/2 p1 floor -> RELU -> POOL avg 2x2 "
    "-> [FC 8 -> RELU] -> DROPOUT 0.5 -> FC 4"
)


EXACT = [cc.SGD(0.05, 0.125, momentum=0.9) if o.rule == "momentum" else o for o in OPTIMIZERS]  # gathers decay, too


@pytest.mark.parametrize("optimizer", EXACT[1::2], ids=lambda o: o.rule)
def test_parts_of_a_batch_make_the_step_of_the_whole(device, monkeypatch, optimizer):
    check_parts(device, monkeypatch, optimizer, 3)


@pytest.mark.parametrize("optimizer", EXACT, ids=lambda o: o.rule)
def test_single_images_make_the_step_of_the_whole(one, monkeypatch, optimizer):
    check_parts(one, monkeypatch, optimizer, 1)


@pytest.mark.parametrize("optimizer", EXACT[::2], ids=lambda o: o.rule)
def test_stages_make_the_step_of_the_whole(device, monkeypatch, optimizer):
    check_parts(device, monkeypatch, optimizer, 3, staged=True)


@pytest.mark.parametrize("optimizer", EXACT, ids=lambda o: o.rule)
def test_stages_of_single_images_make_the_step_of_the_whole(one, monkeypatch, optimizer):
    check_parts(one, monkeypatch, optimizer, 1, staged=True)


def check_parts(device, monkeypatch, optimizer, images, staged=False):
    """Where every sum is exact its order does not matter: small integers, and a loss that divides by powers of two.

    So nothing else changes: masks of dropout, shares in the mean loss, decay, each rule's step.
    """
    network = cc.Net(WHOLE).network
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, (8, 4, 8, 8)).astype(np.float32)
    y = rng.integers(-2, 3, (8, 4, 1, 1)).astype(np.float32)
    shapes = network.array_shapes()
    arrays = {n: rng.choice([-1, 0, 0, 0, 1], shape).astype(np.float32) for n, shape in shapes.items()}
    found = []
    for method in (Method(images, staged, scratch=0), Method(scratch=0)):
        trainer = Trainer(network, device, "mse", optimizer, seed=4)
        plan_within = partial(planned, trainer, method=method)
        monkeypatch.setattr(trainer, "plan_within", lambda batches, budget, use=plan_within: use(batches))
        try:
            trainer.prepare(arrays, {"train": {len(x)}})
            told = trainer.step(x, y, optimizer.rate)
            found.append((told, {**trainer.arrays(), **trainer.optimizer_arrays()}))
        finally:
            trainer.release()
    assert_same(*found)


def test_parts_change_gradients_by_rounding_alone(one, monkeypatch):
    """At most 2 eps sqrt(K) times the sum of the magnitudes of K products: so near are both orders of a sum."""
    network = cc.Net("INPUT 4x4x3 -> [FC 20 -> RELU] -> FC 5").network
    x, y = batch(network, 50)
    w1, b1, w2, b2 = (np.float64(a) for a in network.initial(1).values())
    w1 = w1.reshape(20, -1)
    flat = x.reshape(50, -1)
    hidden = np.maximum(flat @ w1.T + b1, 0)
    scores = np.exp(hidden @ w2.reshape(5, 20).T + b2)
    d2 = np.abs((scores / scores.sum(1, keepdims=True) - np.eye(5)[y]) / 50)
    d1 = d2 @ np.abs(w2.reshape(5, 20)) * (hidden > 0)
    sizes = {"fc1.weight": d1.T @ np.abs(flat), "fc2.weight": d2.T @ hidden}
    optimizer = cc.SGD(0.1, momentum=0.9)
    _, expected = trained(one, network, optimizer, x, y, 1)
    trainer = Trainer(network, one, "softmax", optimizer, seed=4)
    monkeypatch.setattr(trainer, "plan_within", lambda batches, budget: planned(trainer, batches, Method(images=7)))
    _, found = stepped(trainer, optimizer, x, y, 1)
    for name, size in sizes.items():
        error = np.abs(found[f"{name}.velocity"] - expected[f"{name}.velocity"]).reshape(size.shape)
        assert (error <= 2 * 2**-23 * np.sqrt(50) * size + 1e-12).all(), name


@pytest.mark.parametrize("staged", [False, True])
def test_a_loss_that_is_not_finite_leaves_the_weights(one, monkeypatch, staged):
    network = cc.Net(POOLED).network
    x, y = batch(network)
    x[4, 0, 0, 0] = np.inf
    trainer = Trainer(network, one, "softmax", cc.SGD(0.05, momentum=0.9))
    monkeypatch.setattr(trainer, "plan_within", lambda batches, budget: planned(trainer, batches, Method(2, staged)))
    try:
        trainer.prepare(network.initial(1), {"train": {len(x)}})
        with pytest.raises(NonFiniteError, match=r"^fit: the loss became nan at step 1: the input images hold values"):
            trainer.step(x, y, 0.05)
        for name, array in network.initial(1).items():
            assert np.array_equal(trainer.arrays()[name], array), name
        assert not staged or not any(array.any() for array in trainer.optimizer_arrays().values())
    finally:
        trainer.release()


SWEPT = "INPUT 16x16x3 -> [[CONV 3x3x16 -> RELU]*2 -> POOL]*2 -> DROPOUT 0.2 -> [FC 30 -> TANH] -> FC 5"


@pytest.mark.parametrize("optimizer", [cc.SGD(0.05, momentum=0.9), cc.Adam(0.001)], ids=lambda o: o.rule)
def test_every_budget_from_the_least_on_is_kept(one, optimizer):
    """The least that is named is true: it is enough, and 64 bytes less are refused; nothing is allocated then."""
    network = cc.Net(SWEPT).network
    x, y = batch(network, 12)
    batches = {"train": {12}, "test": {12}}
    trainer = Trainer(network, one, "softmax", optimizer)
    trainer.plan_within(batches, None)
    most = trainer.peak_bytes
    with pytest.raises(BudgetError) as refused:
        Trainer(network, one, "softmax", optimizer).plan_within(batches, 1000)
    pattern = (
        r"^fit: training on batches of 12 does not fit 1000 bytes \(1000 B\), the budget; at least (\d+) "
        r"\([\d.]+ [KM]iB\) are needed: direct .*\. Nothing was allocated\.$"
    )
    least = int(re.search(pattern, str(refused.value))[1])
    assert least < 0.6 * most
    with pytest.raises(BudgetError, match=f"at least {least} "):
        Trainer(network, one, "softmax", optimizer).plan_within(batches, least - 64)
    losses = []
    for budget in [least, *np.linspace(least, 1.2 * most, 12, dtype=int)[1:]]:
        trainer = Trainer(network, one, "softmax", optimizer, seed=4, budget=int(budget))
        try:
            trainer.prepare(network.initial(1), batches)
            assert trainer.peak_bytes <= budget
            losses.append([trainer.step(x, y, 0.05)[0] for _ in range(2)] + [trainer.evaluate(x, y)[0].mean()])
            assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        finally:
            trainer.release()
    # Adam's first step is as long for a gradient that is nothing but rounding, which other algorithms have elsewhere.
    rtol = 1e-2 if optimizer.rule == "adam" else 1e-4
    np.testing.assert_allclose(losses, [losses[-1]] * len(losses), rtol=rtol)


def test_batches_that_are_normalised_come_in_parts_only_where_asked_for(one):
    net = cc.Net("INPUT 16x16x3 -> [CONV 3x3x16 -> BN -> RELU]*3 -> FC 5", device=one)
    x, y = batch(net.network, 12)
    with pytest.raises(BudgetError, match=r'With bn="per_micro_batch", (\d+) \(.*\) would do') as refused:
        net.fit(x, y, batch_size=12, memory=1000, verbose=False)
    whole, parts = (int(n) for n in re.search(r'at least (\d+) .*micro_batch", (\d+)', str(refused.value)).groups())
    assert parts < 0.8 * whole
    with pytest.raises(BudgetError, match=f"at least {whole} "):
        net.fit(x, y, batch_size=12, memory=whole - 64, verbose=False)
    history = net.fit(x, y, batch_size=12, memory=parts, bn="per_micro_batch", verbose=False)
    assert np.isfinite(history.loss).all() and history.peak_bytes <= parts
    with pytest.raises(ArgumentError, match=r'^fit: bn \'frozen\' is not "per_micro_batch" or None$'):
        net.fit(x, y, bn="frozen")


def test_the_plan_says_what_was_done(one):
    net = cc.Net(SWEPT, device=one)
    assert net.plan(12, "train").told == ()
    told = net.plan(12, "train", memory=net.plan(12, "train").peak_bytes // 2).told
    assert any(line.startswith("batches of 12 come in ") for line in told)
    assert told[-1].startswith("modelled time 1.")


def test_a_device_that_is_too_small_is_a_budget(one):
    """Without a budget: what it has."""
    network = cc.Net(SWEPT).network
    most = Trainer(network, one, "softmax", cc.SGD(0.05, momentum=0.9)).plan("train", 12).peak_bytes
    small = Device(one.key, replace(one.facts, global_bytes=most // 2), one.cl_device)
    plan = Trainer(network, small, "softmax", cc.SGD(0.05, momentum=0.9)).plan_within({"train": {12}}, None)[0]
    assert plan.peak_bytes <= most // 2
    smaller = Device(one.key, replace(one.facts, global_bytes=1000), one.cl_device)
    with pytest.raises(BudgetError, match=r"does not fit 1000 bytes \(1000 B\), what .* has; at least"):
        Trainer(network, smaller, "softmax", cc.SGD(0.05, momentum=0.9)).plan_within({"train": {12}}, None)
    pieces = Device(one.key, replace(one.facts, max_alloc_bytes=1000), one.cl_device)
    with pytest.raises(
        BudgetError, match=r"\w+: \d+ bytes in one piece, but .* at most 1000.*\. Nothing was allocated"
    ):
        Trainer(network, pieces, "softmax", cc.SGD(0.05, momentum=0.9)).plan_within({"train": {12}}, None)


@pytest.mark.parametrize("optimizer", [cc.SGD(0.05, momentum=0.9), cc.Adam(0.001)], ids=lambda o: o.rule)
def test_weights_beyond_the_largest_allocation_lie_in_parts(one, optimizer):
    network = cc.Net("INPUT 8x8x16 -> CONV 3x3x16 -> RELU -> FC 72 -> RELU -> FC 5").network
    x, y = batch(network)
    whole = Trainer(network, one, "softmax", optimizer, seed=4)
    pieces = Device(one.key, replace(one.facts, max_alloc_bytes=200_000), one.cl_device)
    split = Trainer(network, pieces, "softmax", optimizer, seed=4)
    found = []
    try:
        for trainer in (whole, split):
            trainer.prepare(network.initial(1), {"train": {len(x)}, "test": {len(x)}})
            losses = [trainer.step(x, y, optimizer.rate)[0] for _ in range(3)]
            found.append((trainer.arrays(), trainer.optimizer_arrays(), losses, trainer.evaluate(x, y)[0]))
            assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        assert len(split.session.names) > len(whole.session.names)
        for a, b in zip(found[0][:2], found[1][:2], strict=True):
            assert a.keys() == b.keys()
            for name, array in a.items():
                np.testing.assert_allclose(b[name].reshape(array.shape), array, rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[1][2], found[0][2], rtol=1e-5)
        np.testing.assert_allclose(found[1][3], found[0][3], rtol=1e-4)
        # What one of them has computed, the other goes on with.
        for trainer, (arrays, states, *_) in zip((whole, split), reversed(found), strict=True):
            trainer.prepare(arrays, {"train": {len(x)}}, None, states)
            for name, array in states.items():
                assert np.array_equal(trainer.optimizer_arrays()[name].ravel(), array.ravel()), name
    finally:
        whole.release()
        split.release()


def test_a_run_goes_on_with_the_trainer_of_the_last_one_where_it_serves(one):
    net = cc.Net(SWEPT, device=one)
    x, y = batch(net.network, 12)
    memory = net.plan(12, "train").peak_bytes // 2
    bounded = {"memory": memory, "optimizer": cc.Adam(0.001), "verbose": False}
    with net:
        net.fit(x[:2], y[:2], batch_size=2, **bounded)  # fits as it is
        before = net._training.trainer
        history = net.fit(x, y, batch_size=12, **bounded)  # needs memory for the gradients of parts
        assert net._training.trainer is not before and history.peak_bytes <= memory
        before = net._training.trainer
        net.fit(x, y, batch_size=12, **bounded)
        assert net._training.trainer is before


def some_chain(rng, count):
    """A chain whose nodes read the one before them, and some an earlier one."""
    needs = [[] if i == 0 else sorted({i - 1, *rng.integers(0, i, rng.integers(0, 2))}) for i in range(count)]
    sizes = rng.integers(1, 50, count)
    last = {maker: max(i for i, found in enumerate(needs) if maker in found) for maker in range(count - 1)}
    asked = rng.random(count) < 0.8
    return Chain(
        kept=[int(size * keep) for size, keep in zip(sizes, asked, strict=True)],
        passing=[int(size * (not keep)) for size, keep in zip(sizes, asked, strict=True)],
        gradient=[int(n) for n in rng.integers(1, 60, count)],
        incoming=[int(n) for n in rng.integers(1, 30, count)],
        cost=[float(n) for n in rng.integers(1, 9, count)],
        crossing=[(maker, end, int(sizes[maker])) for maker, end in last.items()],
        needs=needs,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_cheapest_cuts(seed):
    """Against all sets of cuts, priced from the same tables of segments."""
    count = 9
    search = Search(some_chain(np.random.default_rng(seed), count))
    priced = []
    for bits in range(2 ** (count - 1)):
        cuts = [i + 1 for i in range(count - 1) if bits >> i & 1]
        stored, cost, peak = 0, 0.0, 0
        for a, b in pairwise([0, *cuts, count]):
            peak = max(peak, stored + search.peak[a][b])
            stored, cost = stored + search.added[a][b], cost + search.cost[a][b]
        priced.append((peak, cost))
    least = min(peak for peak, _ in priced)
    assert least <= search.least() <= least + 64
    for limit in range(least, search.peak[0][count] + 1, 7):
        found = search.cuts(limit)
        assert found is not None and found[0] == min(cost for peak, cost in priced if peak <= limit)
    assert search.cuts(least - 1) is None


def test_winograd_within_some_scratch(one):
    network = cc.Net("INPUT 32x32x16 -> CONV 3x3x32 -> RELU -> CONV 3x3x64 -> RELU -> FC 5").network
    plans = StepPlans(network, one.facts, "softmax", cc.SGD(0.1))

    def used(scratch):
        nodes = plans.train(Method(scratch=scratch), 8, 8, False).graph.nodes
        return sum("Winograd" in type(node.layer).__name__ for node in nodes)

    assert used(None) >= used(600_000) >= used(0) == 0
    assert used(None) > 0 or one.facts.workers == 0


PROMISED = [
    ("vgg16", 32, 1_200_000_000, {}),
    ("resnet50", 32, 1_200_000_000, {}),
    ("squeezenet", 32, 32_000_000, {}),
    ("resnet50", 16, None, {"global_bytes": 1 << 30, "max_alloc_bytes": 256 << 20}),  # what POCL_MEMORY_LIMIT=1 leaves
]


@pytest.mark.parametrize(
    "name, images, budget, facts", PROMISED, ids=lambda v: str(v) if isinstance(v, (str, int)) else ""
)
def test_the_budgets_that_are_promised(one, name, images, budget, facts):
    small = Device(one.key, replace(one.facts, block=16, **facts), one.cl_device)
    trainer = Trainer(getattr(zoo, name)(), small, "softmax", cc.SGD(0.01, momentum=0.9))
    plans = trainer.plan_within({"train": {images}}, budget)
    assert trainer.peak_bytes <= (budget or small.facts.global_bytes)
    assert max(size for plan in plans for size in plan.arena.slab_bytes) <= small.facts.max_alloc_bytes
