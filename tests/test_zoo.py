"""The model zoo: parameters, shapes and names as in the published networks; PyTorch's results."""

import math

import numpy as np
import pytest

from clconv import zoo as nets
from clconv.nn import zoo
from clconv.nn.pattern import parse, to_pattern

PARAMETERS = {
    "lenet": 11_274,
    "cifar_net": 814_122,
    "alexnet": 60_965_224,
    "zfnet": 62_357_608,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "squeezenet": 1_235_496,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenetv2": 3_504_872,
    "unet": 7_763_074,
}
CHAINS = ("lenet", "cifar_net", "alexnet", "zfnet", "vgg16", "vgg19")


def parameters(network):
    values = network.graph(1, train=False).persistent.values()
    return sum(math.prod(value.parameter.public_shape) for value in values if value.role == "param")


def output(network):
    return network.graph(1, train=False).outputs["y"].spec.shape


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert parameters(getattr(zoo, name)()) == PARAMETERS[name]


def test_every_network_is_in_both_modules():
    assert sorted(PARAMETERS) == nets.__all__


@pytest.mark.parametrize("name", PARAMETERS)
def test_classes_set_the_output(name):
    shape = output(getattr(zoo, name)(classes=7))
    assert shape == ((1, 7, 512, 512) if name == "unet" else (1, 7, 1, 1))


@pytest.mark.parametrize("name", ["squeezenet", "resnet18", "resnet50", "mobilenetv2"])
def test_size_does_not_change_the_parameters(name):
    network = getattr(zoo, name)(size=97)
    assert network.input_shape == (3, 97, 97)
    assert parameters(network) == PARAMETERS[name]
    assert output(network) == (1, 1000, 1, 1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_chains_print_themselves(name):
    network = getattr(zoo, name)()
    text = to_pattern(network)
    assert (text is not None) == (name in CHAINS)
    assert text is None or parse(text) == network


def test_resnet_has_the_names_of_torchvision():
    shapes = {e: v.parameter.public_shape for e, v in zoo.resnet50().graph(1, train=False).persistent.items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    assert shapes["layer3.5.bn2.running_var"] == (256,)
    assert shapes["fc.weight"] == (1000, 2048)
    assert "layer1.1.downsample.0.weight" not in shapes and "conv1.bias" not in shapes


def test_unet_without_batch_norm_has_biases():
    network = zoo.unet(base=64, batch_norm=False)
    assert parameters(network) == 31_031_810
    assert not any(type(entry.layer).__name__ == "BatchNorm" for entry in network.entries)


def torch_resnet(torch):
    """A ResNet-18 in PyTorch, whose parameters come in the zoo's order."""
    nn = torch.nn

    def conv_bn(c, k, kernel, stride):
        return [nn.Conv2d(c, k, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(k)]

    class Block(nn.Module):
        def __init__(self, c, k, stride):
            super().__init__()
            self.body = nn.Sequential(*conv_bn(c, k, 3, stride), nn.ReLU(), *conv_bn(k, k, 3, 1))
            self.skip = nn.Sequential(*conv_bn(c, k, 1, stride)) if c != k else nn.Identity()

        def forward(self, x):
            return (self.body(x) + self.skip(x)).relu()

    layers, c = [*conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for k, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(Block(c, k, stride))
        c = k
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


def torch_squeezenet(torch):
    """SqueezeNet 1.1 in PyTorch, whose parameters come in the zoo's order."""
    nn = torch.nn

    class Fire(nn.Module):
        def __init__(self, c, s):
            super().__init__()
            self.squeeze = nn.Conv2d(c, s, 1)
            self.narrow, self.wide = nn.Conv2d(s, 4 * s, 1), nn.Conv2d(s, 4 * s, 3, padding=1)

        def forward(self, x):
            x = self.squeeze(x).relu()
            return torch.cat([self.narrow(x).relu(), self.wide(x).relu()], 1)

    layers, c = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()], 64
    for i, s in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] * (i in (0, 2, 4)) + [Fire(c, s)]
        c = 8 * s
    return nn.Sequential(*layers, nn.Conv2d(c, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def settled(torch, model):
    """The model with running statistics that are not trivial, and weights that keep values of size 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


@pytest.mark.parametrize(("name", "build"), [("resnet18", torch_resnet), ("squeezenet", torch_squeezenet)])
def test_predictions_equal_pytorch(device, name, build):
    torch = pytest.importorskip("torch")
    if device.facts.loop_limit and name == "resnet18":
        pytest.skip("its compiler takes a minute; squeezenet runs")
    model = settled(torch, build(torch))
    arrays = [v.numpy() for key, v in model.state_dict().items() if not key.endswith("num_batches_tracked")]
    x = np.random.default_rng(1).standard_normal((1, 3, 33, 33)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    with getattr(nets, name)(size=33, device=device) as net:
        names = list(net.network.graph(1, train=False).persistent)
        net.set_weights(dict(zip(names, arrays, strict=True)))
        scores = net.predict(x)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
