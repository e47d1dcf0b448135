"""The training graph against PyTorch: gradients, one update of each optimizer, fifty steps."""

import numpy as np
import pytest

import clconv as cc
from clconv.nn import Network
from clconv.train.trainer import Trainer

torch = pytest.importorskip("torch")
nn = torch.nn

CHAIN = (
    "INPUT 16x16x3 -> [[CONV 3x3x{16,24} -> RELU]*2 -> POOL]*1 -> CONV 3x3x40/2 p1 floor -> BN -> RELU "
    "-> LRN -> POOL avg 2x2/2 -> [FC 50 -> TANH] -> FC 10"
)


class TorchChain(nn.Module):
    """The same network in PyTorch."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 40, 3, 2, 1), nn.BatchNorm2d(40), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(160, 50), nn.Tanh(), nn.Linear(50, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


OPTIMIZERS = [
    (cc.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (cc.SGD(0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    (cc.SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    (
        cc.SGD(0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    ),
    (cc.Adagrad(0.01), lambda p: torch.optim.Adagrad(p, 0.01, eps=1e-8)),
    (cc.RMSProp(0.01), lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.99, eps=1e-8)),
    (cc.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
]


def torch_twin(arrays, dtype):
    """The PyTorch network with our weights; parameters come in the same order."""
    net = TorchChain().to(dtype)
    state = net.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert [tuple(state[name].shape) for name in names] == [array.shape for array in arrays.values()]
    net.load_state_dict(
        {n: torch.from_numpy(a).to(dtype) for n, a in zip(names, arrays.values(), strict=True)}, strict=False
    )
    return net, names


def batches(count, n=12):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((count, n, 3, 16, 16), dtype=np.float32)
    return x, rng.integers(0, 10, (count, n)).astype(np.int32)


def torch_steps(arrays, make, dtype, x, y):
    """Losses of the steps, and the weights after them, by our names."""
    net, names = torch_twin(arrays, dtype)
    optimizer = make(net.parameters())
    losses = []
    for xb, yb in zip(x, y, strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(xb).to(dtype)), torch.from_numpy(yb).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = net.state_dict()
    return losses, {ours: state[theirs].double().numpy() for ours, theirs in zip(arrays, names, strict=True)}


def our_steps(device, network, arrays, optimizer, x, y):
    trainer = Trainer(network, device, "softmax", optimizer, seed=0, budget=None)
    try:
        trainer.prepare(arrays, {"train": {x.shape[1]}})
        losses = [trainer.step(xb, yb, optimizer.rate)[0] for xb, yb in zip(x, y, strict=True)]
        assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        return losses, trainer.arrays()
    finally:
        trainer.release()


@pytest.fixture(scope="module")
def network():
    return cc.Net(CHAIN).network


def test_gradients(device, network: Network):
    """Plain SGD with rate 1 takes the gradient off the weights.

    Our float32 error against PyTorch's float64 is at most 4 times that of PyTorch's own float32, layer by
    layer, or 16 roundings of the weights that the gradient was taken off.
    """
    arrays = network.initial(1)
    x, y = batches(1)
    _, exact = torch_steps(arrays, lambda p: torch.optim.SGD(p, 1.0), torch.float64, x, y)
    _, single = torch_steps(arrays, lambda p: torch.optim.SGD(p, 1.0), torch.float32, x, y)
    _, ours = our_steps(device, network, arrays, cc.SGD(1.0), x, y)
    for name, expected in exact.items():
        allowed = 4 * np.linalg.norm(single[name] - expected) + 16 * 2**-24 * np.linalg.norm(expected)
        assert np.linalg.norm(ours[name] - expected) <= allowed, name


@pytest.mark.parametrize("optimizer, make", OPTIMIZERS, ids=lambda o: repr(o) if hasattr(o, "rate") else "")
def test_one_update(device, network, optimizer, make):
    """Adagrad, RMSProp and Adam divide the gradient by its size, so a gradient near zero decides little more
    than a sign: there the update is compared in the mean, not value by value."""
    arrays = network.initial(2)
    x, y = batches(1)
    _, exact = torch_steps(arrays, make, torch.float64, x, y)
    _, single = torch_steps(arrays, make, torch.float32, x, y)
    _, ours = our_steps(device, network, arrays, optimizer, x, y)
    for name, expected in exact.items():
        moved = np.linalg.norm(expected - arrays[name])
        allowed = 4 * np.linalg.norm(single[name] - expected) + 16 * 2**-24 * np.linalg.norm(expected) + 1e-4 * moved
        assert np.linalg.norm(ours[name] - expected) <= allowed, name


def test_fifty_steps(device, network):
    arrays = network.initial(3)
    x, y = batches(10 if device.facts.loop_limit else 50)  # fewer on a renderer of software
    expected, _ = torch_steps(arrays, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9), torch.float64, x, y)
    losses, _ = our_steps(device, network, arrays, cc.SGD(0.01, momentum=0.9), x, y)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
