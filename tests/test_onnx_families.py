"""Networks of families that users have, exported by PyTorch: the outputs of ONNX Runtime, and where they run."""

import io
import warnings

import numpy as np
import pytest

import clconv as cc
from clconv import passes
from clconv._core.layout import ToBlocks, ToPlain
from clconv._core.norm import LocalResponse
from clconv.io.onnx_file import parse_model
from clconv.io.onnx_network import OnnxNetwork

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from onnx_families import FAMILIES, Excite, shuffle  # noqa: E402

nn, F = torch.nn, torch.nn.functional


def exported(module, *shape, opset=17, dynamic=True):
    """The ONNX file of a module with running statistics that do something."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 1.5)
    axes = {"x": {0: "N"}, "y": {0: "N"}} if dynamic else None
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), torch.randn(2, *shape), file, opset_version=opset, dynamo=False,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    return file.getvalue()


def plan(content, batch=2, block=16):
    """Layers of the graph in test-time mode, with the network."""
    network = OnnxNetwork(parse_model(onnx.ModelProto.FromString(content), "m"))
    graph = network.graph(batch, train=False)
    passes.for_inference(graph, block)
    return [node.layer for node in graph.nodes]


def conversions(content):
    """How often the layout changes on the way, the output's own change aside."""
    return sum(isinstance(layer, ToBlocks | ToPlain) for layer in plan(content)[:-1])


def agree(content, tmp_path, device, *shape, tolerance=1e-5):
    """The same output as ONNX Runtime's, relative to its norm."""
    x = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    (tmp_path / "m.onnx").write_bytes(content)
    found = cc.load(tmp_path / "m.onnx", device=device).predict(x)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("size", [3, 4, 5])
def test_local_response_normalisation_is_one_operator(size, opset, tmp_path, device):
    """Of even sizes PyTorch's window has its larger half in front, ONNX's LRN behind: those stay compositions."""
    module = nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.ReLU(), nn.LocalResponseNorm(size, 0.3, 0.75, 1.5), nn.MaxPool2d(2), nn.Conv2d(20, 5, 1)
    )
    content = exported(module, 3, 11, 9, opset=opset)
    agree(content, tmp_path, device, 3, 11, 9)
    layers = plan(content)
    assert any(isinstance(layer, LocalResponse) for layer in layers) == (size % 2 == 1)
    assert size % 2 == 0 or conversions(content) == 0


def test_local_response_normalisation_of_sequences(tmp_path, device):
    module = nn.Sequential(nn.Conv1d(3, 20, 3), nn.LocalResponseNorm(5, 0.3), nn.Conv1d(20, 5, 1))
    content = exported(module, 3, 40)
    agree(content, tmp_path, device, 3, 40)
    assert any(isinstance(layer, LocalResponse) for layer in plan(content))


class OtherWindows(nn.Module):
    """What looks like local response normalisation and is none."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        other = x if self.kind != "another square" else x + 1
        squares = (x * other).unsqueeze(1)
        pads = {"behind": (0, 0, 0, 0, 0, 2), "value": (0, 0, 0, 0, 1, 1)}.get(self.kind, (0, 0, 0, 0, 1, 1))
        padded = F.pad(squares, pads, value=0.5 if self.kind == "value" else 0.0)
        mean = F.avg_pool3d(padded, (3, 1, 1), stride=1).squeeze(1)
        base = (mean * 0.3 + 1.0) if self.kind != "a number above" else 2.0 - mean * 0.01
        return (x + 1 if self.kind == "another dividend" else x) / base**0.75


@pytest.mark.parametrize("kind", ["behind", "value", "another square", "another dividend", "a number above"])
def test_other_windows_stay_as_they_are(kind, tmp_path, device):
    content = exported(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), OtherWindows(kind)), 3, 8, 8)
    agree(content, tmp_path, device, 3, 8, 8)
    assert not any(isinstance(layer, LocalResponse) for layer in plan(content))


# Changes of layout that are left, by family: what has no form in channel blocks, and why.
CONVERSIONS = {
    "yolo": 6,  # the heads end in rows of boxes
    "generator": 1,  # the input
    "adaptive": 1,  # pooling to 5x5 is written as slices and means
    "nhwc": 1,
    "cbam": 1,  # means and maxima over channels
    "embedding": 2,
    "choices": 1,
    "clamp": 1,
}


def family(name, opset):
    parts, shape = FAMILIES[name]
    torch.manual_seed(0)
    return exported(nn.Sequential(*parts()), *shape, opset=opset), shape


@pytest.mark.shared
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, tmp_path, device):
    content, shape = family(name, 17)
    agree(content, tmp_path, device, *shape)
    assert conversions(content) <= CONVERSIONS.get(name, 0)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("name", FAMILIES)
def test_family_in_older_opsets(name, opset, tmp_path):
    content, shape = family(name, opset)
    agree(content, tmp_path, None, *shape)
    assert conversions(content) <= CONVERSIONS.get(name, 0)


class Shuffle(nn.Module):
    def forward(self, x):
        return shuffle(x, 4)


def test_a_step_of_training_is_pytorchs(tmp_path, device):
    """What stays in channel blocks at test time has the gradients of the row-major operators."""
    parts = [
        nn.Conv2d(3, 16, 3), nn.SiLU(), Excite(16, gate=nn.Hardsigmoid), nn.ZeroPad2d((1, 0, 2, 0)), Shuffle(),
        nn.Conv2d(16, 12, 3), nn.Hardswish(), nn.PixelShuffle(2), nn.GELU(), nn.Conv2d(3, 2, 1), nn.Mish(),
    ]  # fmt: skip
    module = nn.Sequential(*parts)
    (tmp_path / "m.onnx").write_bytes(exported(module, 3, 8, 8))
    net = cc.load(tmp_path / "m.onnx", device=device)
    x = torch.randn(2, 3, 8, 8)
    y = torch.randn(module(x).shape)
    net.fit(x.numpy(), y.numpy(), batch_size=2, loss="mse", optimizer=cc.SGD(0.5), verbose=False)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    ((module(x) - y) ** 2).mean().backward()
    optimizer.step()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(net.get_weights()[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-5)
