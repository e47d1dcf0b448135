"""Well-known networks, as descriptions.

They match their PyTorch counterparts layer by layer: parameters come in the same order (U-Net's by name), and
where windows do not tile the image, the last incomplete one is dropped. Those that are no chains, but for the U-Net,
have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Sequence

from .activation import ReLU, ReLU6
from .conv import Conv, ConvTranspose
from .elementwise import Add, Concat
from .fc import FC
from .network import Network
from .norm import BatchNorm
from .pattern import parse
from .pool import GlobalAvgPool, MaxPool
from .symbol import Input, Symbol


def lenet(classes: int = 10) -> Network:
    """A small LeNet with 5x5 windows and ReLU, for 28x28 grey images (LeCun et al. 1998)."""
    return parse(f"INPUT 28x28x1 -> [CONV 5x5x{{8,16}} -> RELU -> POOL]*2 -> FC {classes}")


def cifar_net(classes: int = 10) -> Network:
    """Six convolutions and two fully-connected layers, for 32x32 images."""
    return parse(f"INPUT 32x32x3 -> [[CONV 3x3x{{32,64,128}} -> RELU]*2 -> POOL]*3 -> [FC 256 -> RELU] -> FC {classes}")


def alexnet(classes: int = 1000) -> Network:
    """AlexNet in one tower with its two groups, for 227x227 images (Krizhevsky et al. 2012)."""
    return parse(
        "INPUT 227x227x3 -> CONV 11x11x96/4 p0 -> RELU -> LRN -> POOL 3x3/2 "
        "-> CONV 5x5x256 g2 -> RELU -> LRN -> POOL 3x3/2 -> CONV 3x3x384 -> RELU "
        "-> [CONV 3x3x{384,256} g2 -> RELU]*2 -> POOL 3x3/2 "
        f"-> [FC 4096 -> RELU]*2 -> FC {classes}"
    )


def zfnet(classes: int = 1000) -> Network:
    """ZFNet, for 224x224 images (Zeiler and Fergus 2014)."""
    return parse(
        "INPUT 224x224x3 -> CONV 7x7x96/2 p1 floor -> RELU -> POOL 3x3/2 p1 floor -> LRN "
        "-> CONV 5x5x256/2 p0 -> RELU -> POOL 3x3/2 p1 floor -> LRN "
        "-> [CONV 3x3x{384,384,256} -> RELU]*3 -> POOL 3x3/2 "
        f"-> [FC 4096 -> RELU]*2 -> FC {classes}"
    )


def vgg16(classes: int = 1000, *, size: int = 224) -> Network:
    """VGG-16 (configuration D); `size` is a multiple of 32 (Simonyan and Zisserman 2015)."""
    return _vgg("2,2,3,3,3", classes, size)


def vgg19(classes: int = 1000, *, size: int = 224) -> Network:
    """VGG-19 (configuration E); `size` is a multiple of 32 (Simonyan and Zisserman 2015)."""
    return _vgg("2,2,4,4,4", classes, size)


def _vgg(depths: str, classes: int, size: int) -> Network:
    return parse(
        f"INPUT {size}x{size}x3 -> [[CONV 3x3x{{64,128,256,512,512}} -> RELU]*{{{depths}}} -> POOL]*5 "
        f"-> [FC 4096 -> RELU]*2 -> FC {classes}"
    )


def squeezenet(classes: int = 1000, *, size: int = 224) -> Network:
    """SqueezeNet 1.1; its pooling keeps a last, incomplete window (Iandola et al. 2016)."""
    x = ReLU()(Conv(64, 3, stride=2, rounding="floor", name="features.0")(Input(3, size, size)))
    for place, squeeze in zip((3, 4, 6, 7, 9, 10, 11, 12), (16, 16, 32, 32, 48, 48, 64, 64), strict=True):
        if place in (3, 6, 9):
            x = MaxPool(3, 2, rounding="ceil")(x)
        x = _fire(x, squeeze, 4 * squeeze, f"features.{place}")
    return Network.of(GlobalAvgPool()(ReLU()(Conv(classes, 1, name="classifier.1")(x))))


def _fire(x: Symbol, squeeze: int, expand: int, name: str) -> Symbol:
    x = ReLU()(Conv(squeeze, 1, name=f"{name}.squeeze")(x))
    narrow = ReLU()(Conv(expand, 1, name=f"{name}.expand1x1")(x))
    wide = ReLU()(Conv(expand, 3, pad=1, name=f"{name}.expand3x3")(x))
    return Concat()(narrow, wide)


def resnet18(classes: int = 1000, *, size: int = 224) -> Network:
    """ResNet-18, of basic blocks (He et al. 2016)."""
    return _resnet((2, 2, 2, 2), classes, size, bottleneck=False)


def resnet50(classes: int = 1000, *, size: int = 224) -> Network:
    """ResNet-50, of bottleneck blocks with the stride in their 3x3 window, as torchvision has it."""
    return _resnet((3, 4, 6, 3), classes, size, bottleneck=True)


def _resnet(depths: Sequence[int], classes: int, size: int, *, bottleneck: bool) -> Network:
    x = ReLU()(_conv_bn(Input(3, size, size), 64, 7, "conv1", "bn1", stride=2))
    x = MaxPool(3, 2, pad=1, rounding="floor")(x)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            x = _residual(x, 64 << stage, f"layer{stage + 1}.{index}", stride, bottleneck)
    return Network.of(FC(classes, name="fc")(GlobalAvgPool()(x)))


def _residual(x: Symbol, width: int, name: str, stride: int, bottleneck: bool) -> Symbol:
    steps: tuple[tuple[int, int, int], ...]  # filters, window, stride
    if bottleneck:
        steps = ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1))
    else:
        steps = ((width, 3, stride), (width, 3, 1))
    y = x
    for number, (filters, kernel, step) in enumerate(steps, start=1):
        y = _conv_bn(y, filters, kernel, f"{name}.conv{number}", f"{name}.bn{number}", stride=step)
        if number < len(steps):
            y = ReLU()(y)
    if x.shape != y.shape:
        x = _conv_bn(x, y.shape[0], 1, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
    return ReLU()(Add()(y, x))


def mobilenetv2(classes: int = 1000, *, size: int = 224) -> Network:
    """MobileNetV2, width 1 (Sandler et al. 2018)."""
    x = ReLU6()(_conv_bn(Input(3, size, size), 32, 3, "features.0.0", "features.0.1", stride=2))
    # Expansion, channels, repetitions, stride of the first.
    stages = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )
    number = 0
    for expansion, channels, depth, stride in stages:
        for index in range(depth):
            number += 1
            x = _inverted(x, channels, expansion, f"features.{number}.conv", 1 if index else stride)
    x = ReLU6()(_conv_bn(x, 1280, 1, "features.18.0", "features.18.1"))
    return Network.of(FC(classes, name="classifier.1")(GlobalAvgPool()(x)))


def _inverted(x: Symbol, channels: int, expansion: int, name: str, stride: int) -> Symbol:
    y, middle = x, x.shape[0] * expansion
    if expansion > 1:
        y = ReLU6()(_conv_bn(y, middle, 1, f"{name}.0.0", f"{name}.0.1"))
    place = int(expansion > 1)
    y = _conv_bn(y, middle, 3, f"{name}.{place}.0", f"{name}.{place}.1", stride=stride, groups=middle)
    y = _conv_bn(ReLU6()(y), channels, 1, f"{name}.{place + 1}", f"{name}.{place + 2}")
    return Add()(x, y) if x.shape == y.shape else y


def unet(classes: int = 2, *, size: int = 512, base: int = 32, batch_norm: bool = True) -> Network:
    """U-Net with windows that keep the size, for segmentation (Ronneberger et al. 2015).

    Args:
        classes: channels of the output, (N, classes, size, size). size: a multiple of 16.
        base: channels of the first level, doubled four times. batch_norm: behind each 3x3 convolution.
    """
    x = Input(3, size, size)
    skips = []
    for level in range(4):
        x = _two(x, base << level, f"down{level + 1}", batch_norm)
        skips.append(x)
        x = MaxPool(2)(x)
    x = _two(x, base << 4, "middle", batch_norm)
    for level in reversed(range(4)):
        x = ConvTranspose(base << level, 2, stride=2, name=f"up{level + 1}")(x)
        x = _two(Concat()(x, skips[level]), base << level, f"join{level + 1}", batch_norm)
    return Network.of(Conv(classes, 1, name="head")(x))


def _two(x: Symbol, filters: int, name: str, batch_norm: bool) -> Symbol:
    for number in (1, 2):
        label = f"{name}.conv{number}"
        if batch_norm:
            x = ReLU()(_conv_bn(x, filters, 3, label, f"{name}.bn{number}"))
        else:
            x = ReLU()(Conv(filters, 3, pad=1, name=label)(x))
    return x


def _conv_bn(
    x: Symbol, filters: int, kernel: int, name: str, bn_name: str, *, stride: int = 1, groups: int = 1
) -> Symbol:
    conv = Conv(filters, kernel, stride, pad=kernel // 2, groups=groups, bias=False, rounding="floor", name=name)
    return BatchNorm(name=bn_name)(conv(x))
