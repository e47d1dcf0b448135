"""Well-known networks, ready to train: `clconv.zoo.vgg16(classes=10)`. Weights are drawn by the seed."""

from __future__ import annotations

from .device import Device
from .net import Net
from .nn import zoo as networks

__all__ = [
    "alexnet",
    "cifar_net",
    "lenet",
    "mobilenetv2",
    "resnet18",
    "resnet50",
    "squeezenet",
    "unet",
    "vgg16",
    "vgg19",
    "zfnet",
]

Where = str | Device | None


def lenet(classes: int = 10, *, device: Where = None, seed: int = 0) -> Net:
    """A small LeNet for 28x28 grey images."""
    return Net(networks.lenet(classes), device=device, seed=seed)


def cifar_net(classes: int = 10, *, device: Where = None, seed: int = 0) -> Net:
    """Six convolutions and two fully-connected layers, for 32x32 images."""
    return Net(networks.cifar_net(classes), device=device, seed=seed)


def alexnet(classes: int = 1000, *, device: Where = None, seed: int = 0) -> Net:
    """AlexNet with LRN and groups, for 227x227 images."""
    return Net(networks.alexnet(classes), device=device, seed=seed)


def zfnet(classes: int = 1000, *, device: Where = None, seed: int = 0) -> Net:
    """ZFNet, for 224x224 images."""
    return Net(networks.zfnet(classes), device=device, seed=seed)


def vgg16(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """VGG-16."""
    return Net(networks.vgg16(classes, size=size), device=device, seed=seed)


def vgg19(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """VGG-19."""
    return Net(networks.vgg19(classes, size=size), device=device, seed=seed)


def squeezenet(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """SqueezeNet 1.1."""
    return Net(networks.squeezenet(classes, size=size), device=device, seed=seed)


def resnet18(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """ResNet-18."""
    return Net(networks.resnet18(classes, size=size), device=device, seed=seed)


def resnet50(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """ResNet-50."""
    return Net(networks.resnet50(classes, size=size), device=device, seed=seed)


def mobilenetv2(classes: int = 1000, *, size: int = 224, device: Where = None, seed: int = 0) -> Net:
    """MobileNetV2."""
    return Net(networks.mobilenetv2(classes, size=size), device=device, seed=seed)


def unet(
    classes: int = 2,
    *,
    size: int = 512,
    base: int = 32,
    batch_norm: bool = True,
    device: Where = None,
    seed: int = 0,
) -> Net:
    """U-Net; its output is (N, classes, size, size)."""
    network = networks.unet(classes, size=size, base=base, batch_norm=batch_norm)
    return Net(network, device=device, seed=seed)
