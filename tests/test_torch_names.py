"""Weights under PyTorch's names: state_dicts as torchvision's models have them, and the same outputs."""

import numpy as np
import pytest

import clconv as cc
from clconv import errors
from clconv.io.torch_names import torch_names
from clconv.nn import zoo

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file
nn = torch.nn


class Sections(nn.Module):
    """A model of `features` and `classifier`, as torchvision's."""

    def __init__(self, features, classifier, flat=True):
        super().__init__()
        self.features, self.classifier, self.flat = nn.Sequential(*features), nn.Sequential(*classifier), flat

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.flatten(1) if self.flat else x).flatten(1)


def vgg(depths, size):
    layers, c = [], 3
    for depth, k in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU()]
            c = k
        layers.append(nn.MaxPool2d(2))
    hidden = [nn.Linear(512 * (size // 32) ** 2, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096)]
    return Sections(layers, [*hidden, nn.ReLU(), nn.Dropout(), nn.Linear(4096, 10)])


class Fire(nn.Module):
    def __init__(self, c, s):
        super().__init__()
        self.squeeze, self.expand1x1 = nn.Conv2d(c, s, 1), nn.Conv2d(s, 4 * s, 1)
        self.expand3x3 = nn.Conv2d(s, 4 * s, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeezenet(size):
    layers, c = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()], 64
    for i, s in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] * (i in (0, 2, 4)) + [Fire(c, s)]
        c = 8 * s
    return Sections(layers, [nn.Dropout(), nn.Conv2d(c, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)], flat=False)


class BasicBlock(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
        self.downsample = None
        if c != k:
            self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample is not None else x)).relu()


class ResNet18(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool, c = nn.MaxPool2d(3, 2, 1), 64
        for number, k in enumerate((64, 128, 256, 512), start=1):
            blocks = [BasicBlock(c, k, 1 if number == 1 else 2), BasicBlock(k, k, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            c = k
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def conv_bn(c, k, kernel, stride, groups=1):
    conv = nn.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(k), nn.ReLU6())


class Inverted(nn.Module):
    def __init__(self, c, k, stride, expansion):
        super().__init__()
        middle = c * expansion
        layers = [conv_bn(c, middle, 1, 1)] if expansion > 1 else []
        layers.append(conv_bn(middle, middle, 3, stride, middle))
        self.conv = nn.Sequential(*layers, nn.Conv2d(middle, k, 1, bias=False), nn.BatchNorm2d(k))
        self.adds = stride == 1 and c == k

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, size):
        super().__init__()
        layers, c = [conv_bn(3, 32, 3, 2)], 32
        for t, k, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                           (6, 320, 1, 1)):  # fmt: skip
            for i in range(n):
                layers.append(Inverted(c, k, 1 if i else s, t))
                c = k
        self.features = nn.Sequential(*layers, conv_bn(c, 1280, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 10))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def alexnet():
    """The zoo's AlexNet: its layers under the numbers of torchvision's, which has no LRN."""

    class Lrn(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = [inner]  # hidden from state_dict

        def forward(self, x):
            return self.inner[0](x)

    def relu_lrn():
        return Lrn(nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(5)))

    features = [nn.Conv2d(3, 96, 11, 4), relu_lrn(), nn.MaxPool2d(3, 2), nn.Conv2d(96, 256, 5, padding=2, groups=2)]
    features += [relu_lrn(), nn.MaxPool2d(3, 2), nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1, groups=2)]
    features += [nn.ReLU(), nn.MaxPool2d(3, 2)]
    classifier = [nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    return Sections(features, [*classifier, nn.Linear(4096, 10)])


def settled(model):
    """Weights that keep values of size 1, running statistics that are not trivial, in test-time mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


MODELS = {
    "vgg16": (lambda: vgg((2, 2, 3, 3, 3), 32), 32),
    "vgg19": (lambda: vgg((2, 2, 4, 4, 4), 32), 32),
    "alexnet": (alexnet, 227),
    "squeezenet": (lambda: squeezenet(64), 64),
    "resnet18": (lambda: ResNet18(64), 64),
    "mobilenetv2": (lambda: MobileNetV2(64), 64),
}


@pytest.mark.parametrize("name", MODELS)
def test_state_dicts_of_torchvision(name, tmp_path):
    """Loaded, they give PyTorch's outputs; saved, they are what PyTorch loads."""
    build, size = MODELS[name]
    model = settled(build())
    state = model.state_dict()
    save_file(state, tmp_path / "torch.safetensors")
    sized = {} if name == "alexnet" else {"size": size}
    x = np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    with getattr(cc.zoo, name)(classes=10, **sized) as net:
        net.load_weights(tmp_path / "torch.safetensors")
        np.testing.assert_allclose(net.predict(x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        net.save_weights(tmp_path / "back.npz", naming="torch")
    with np.load(tmp_path / "back.npz") as back:
        assert set(back.files) == {key for key in state if not key.endswith("num_batches_tracked")}
        assert all((back[key] == state[key].numpy()).all() for key in back.files)


def test_resnet50_is_that_of_torchvision():
    names = set(torch_names(zoo.resnet50()).values())
    assert {"layer3.5.conv3.weight", "layer4.0.downsample.1.running_var", "fc.bias", "bn1.running_mean"} <= names
    assert len(names) == 267  # of a state_dict of 320 entries, 53 of which count batches


def small(*layers):
    return cc.Net(list(layers), input_shape=(3, 8, 8))


def chain():
    return small(
        cc.Conv(4, 3, pad=1), cc.BatchNorm(), cc.ReLU(), cc.MaxPool(2), cc.Conv(4, 3, pad=1), cc.FC(5), cc.FC(2)
    )


def names(net):
    return [name for name in torch_names(net.network).values() if name.endswith("weight")]


def test_chains_are_counted():
    assert names(chain()) == [
        *("features.0.weight", "features.1.weight", "features.4.weight", "classifier.0.weight", "classifier.2.weight")
    ]
    with_dropout = small(cc.Conv(4, 3, pad=1), cc.Dropout(0.5), cc.FC(5), cc.ReLU(), cc.Dropout(0.5), cc.FC(2))
    assert names(with_dropout) == ["features.0.weight", "classifier.1.weight", "classifier.4.weight"]
    own = small(cc.Conv(4, 3, pad=1, name="stem"), cc.FC(2))
    assert names(own) == ["stem.weight", "fc1.weight"]


def test_prefixes_and_half_precision(tmp_path):
    net = chain()
    weights = net.get_weights()
    renamed = {f"module.{torch_names(net.network)[name]}": torch.from_numpy(a) for name, a in weights.items()}
    renamed["module.features.1.num_batches_tracked"] = torch.tensor(7)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float64, 0)):
        kept = {n: a.to(dtype) if a.dtype.is_floating_point else a for n, a in renamed.items()}
        save_file(kept, tmp_path / "w.safetensors")
        other = chain()
        other.load_weights(tmp_path / "w.safetensors")
        for name, array in other.get_weights().items():
            np.testing.assert_allclose(array, weights[name], rtol=tolerance, atol=tolerance)


def test_mismatches_are_named_with_their_shapes(tmp_path):
    path = tmp_path / "w.npz"
    net = chain()
    net.save_weights(path, naming="torch")
    arrays = dict(np.load(path))
    arrays["features.4.weight"] = np.zeros((9, 4, 3, 3), np.float32)
    arrays["features.9.bias"] = arrays.pop("classifier.2.bias")
    np.savez(path, **arrays)
    before = net.get_weights()
    with pytest.raises(errors.ModelFileError) as caught:
        net.load_weights(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: weights do not match the network: missing classifier.2.bias (2,)")
    assert "not in the network features.9.bias (2,)" in text
    assert "features.4.weight has shape (9, 4, 3, 3) of float32 where the network has (4, 4, 3, 3)" in text
    assert all((net.get_weights()[name] == before[name]).all() for name in before)
    with pytest.raises(
        errors.ModelFileError, match=r"weights.pth: weights are kept in .safetensors or .npz files; in Py"
    ):
        (tmp_path / "weights.pth").write_bytes(b"PK")
        net.load_weights(tmp_path / "weights.pth")
    path.write_bytes(b"no archive")
    with pytest.raises(errors.ModelFileError, match=r"w.npz: not a NumPy archive, or cut off"):
        net.load_weights(path)
    with pytest.raises(errors.ArgumentError, match='naming \'keras\' is not "clconv" or "torch"'):
        net.save_weights(path, naming="keras")
