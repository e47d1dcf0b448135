"""Small networks of families that users have, as PyTorch modules: lists of parts, and the shape of an image."""

import torch
from torch import nn
from torch.nn import functional as F


def conv(c, k, r=3, s=1, act=nn.ReLU, groups=1, norm=nn.BatchNorm2d):
    parts = [nn.Conv2d(c, k, r, s, r // 2, groups=groups, bias=False), norm(k)]
    return nn.Sequential(*parts, *([act()] if act else []))


def head(c, k=7):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, k))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c, inner=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.f = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 6, 1), inner(), nn.Conv2d(6, c, 1), gate())

    def forward(self, x):
        return x * self.f(x)


class MeanExcite(nn.Module):
    """Squeeze and excitation by mean and Linear, as many write it."""

    def __init__(self, c):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(c, 6), nn.ReLU(), nn.Linear(6, c), nn.Sigmoid())

    def forward(self, x):
        return x * self.f(x.mean((2, 3))).view(x.shape[0], -1, 1, 1)


class Add(nn.Module):
    def __init__(self, *f, skip=None, after=None):
        super().__init__()
        self.f, self.skip, self.after = nn.Sequential(*f), skip or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.f(x) + self.skip(x))


class Cat(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([f(x) for f in self.branches], 1)


def inverted(c, k, act, wide=24, s=1, excite=None):
    f = [
        conv(c, wide, 1, act=act),
        conv(wide, wide, 3, s, act, wide),
        *([excite(wide)] if excite else []),
        conv(wide, k, 1, act=None),
    ]
    return Add(*f) if s == 1 and c == k else nn.Sequential(*f)


def hard_excite(c):
    return Excite(c, gate=nn.Hardsigmoid)


def silu_excite(c):
    return Excite(c, inner=nn.SiLU)


def shuffle(x, groups=2):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.f = nn.Sequential(
            conv(c // 2, c // 2, 1), conv(c // 2, c // 2, 3, act=None, groups=c // 2), conv(c // 2, c // 2, 1)
        )

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return shuffle(torch.cat((a, self.f(b)), 1))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over channels by hand, as ConvNeXt's own code has it."""

    def __init__(self, c):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.rand(c)), nn.Parameter(torch.rand(c))

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.w[:, None, None] * x + self.b[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.a, self.b, self.gamma = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.rand(c))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.b(F.gelu(self.a(y)))
        return x + y.permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self, up):
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 24), conv(40, 16)
        self.up, self.last = up, nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.up(self.b(F.max_pool2d(a, 2)))
        return self.last(self.c(torch.cat([a, b], 1)))


class DeepLab(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, c = conv(3, 16, s=2), 16
        self.branches = nn.ModuleList(
            [conv(c, 8, 1), *(nn.Sequential(nn.Conv2d(c, 8, 3, padding=d, dilation=d), nn.ReLU()) for d in (2, 4))]
        )
        self.pool, self.last = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, 8, 1)), nn.Conv2d(32, 5, 1)

    def forward(self, x):
        y = self.body(x)
        whole = F.interpolate(self.pool(y), size=y.shape[2:], mode="bilinear", align_corners=False)
        y = self.last(torch.cat([f(y) for f in self.branches] + [whole], 1))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


class Yolo(nn.Module):
    """C2f, SPPF, a feature pyramid and a detection head."""

    def __init__(self):
        super().__init__()
        act = nn.SiLU
        self.stem, self.c1, self.c2 = conv(3, 16, 3, 2, act), conv(16, 32, 1, act=act), conv(48, 32, 1, act=act)
        self.m = Add(conv(16, 16, act=act), conv(16, 16, act=act))
        self.down, self.p1, self.p2 = conv(32, 32, 3, 2, act), conv(32, 16, 1, act=act), conv(64, 32, 1, act=act)
        self.out = nn.ModuleList([nn.Conv2d(64, 3 * 7, 1), nn.Conv2d(32, 3 * 7, 1)])

    def forward(self, x):
        y = self.stem(x)
        a, b = self.c1(y).split((16, 16), 1)
        y = self.c2(torch.cat([a, b, self.m(b)], 1))
        z = self.p1(self.down(y))
        pools = [z]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        z = self.p2(torch.cat(pools, 1))
        y = torch.cat([F.interpolate(z, scale_factor=2, mode="nearest"), y], 1)
        found = []
        for f, t in zip(self.out, (y, z), strict=True):
            n, _, h, w = t.shape
            o = f(t).view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            xy = (o[..., 0:2] * 2 - 0.5) * 8
            wh = (o[..., 2:4] * 2) ** 2 * 4
            found.append(torch.cat((xy, wh, o[..., 4:]), -1).view(n, -1, 7))
        return torch.cat(found, 1)


class FCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 16, s=2), conv(16, 20, s=2), nn.Conv2d(20, 4, 1)
        self.d = nn.Conv2d(16, 4, 1)
        self.up, self.last = (
            nn.ConvTranspose2d(4, 4, 4, 2, 1, bias=False),
            nn.ConvTranspose2d(4, 4, 4, 2, 1, bias=False),
        )

    def forward(self, x):
        a = self.a(x)
        return self.last(self.up(self.c(self.b(a))) + self.d(a))


class Nhwc(nn.Module):
    """Images come and go as Keras keeps them."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(conv(3, 12), nn.MaxPool2d(2), conv(12, 5))

    def forward(self, x):
        return self.f(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SpatialAttention(nn.Module):
    """CBAM's."""

    def __init__(self):
        super().__init__()
        self.f = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        return x * torch.sigmoid(self.f(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Normalise(nn.Module):
    """Embeddings of length 1."""

    def forward(self, x):
        return F.normalize(x, dim=1)


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(F.softplus(x))


class Choose(nn.Module):
    """A choice by condition, then the largest."""

    def forward(self, x):
        y = torch.where((x > 0.1) | (x < -1), x, x * 0.5)
        return torch.topk(y.masked_fill(y < 0, float("-inf")).flatten(1), 5)[0]


# fmt: off
IMAGE = (3, 32, 32)
FAMILIES = {
    "mobilenet_v1": (lambda: [conv(3, 16, s=2), conv(16, 16, groups=16), conv(16, 24, 1), head(24)], IMAGE),
    "mobilenet_v2": (lambda: [
        conv(3, 16, s=2, act=nn.ReLU6), inverted(16, 16, nn.ReLU6), inverted(16, 20, nn.ReLU6, s=2), head(20)], IMAGE),
    "mobilenet_v3": (lambda: [
        conv(3, 16, s=2, act=nn.Hardswish), inverted(16, 16, nn.Hardswish, excite=hard_excite),
        inverted(16, 20, nn.ReLU, s=2, excite=hard_excite), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 24),
        nn.Hardswish(), nn.Linear(24, 7)], IMAGE),
    "efficientnet": (lambda: [
        conv(3, 16, s=2, act=nn.SiLU), inverted(16, 16, nn.SiLU, excite=silu_excite),
        inverted(16, 20, nn.SiLU, s=2, excite=silu_excite), head(20)], IMAGE),
    "se_resnet": (lambda: [
        conv(3, 16), Add(conv(16, 16), conv(16, 16, act=None), MeanExcite(16), after=nn.ReLU()), head(16)], IMAGE),
    "densenet": (lambda: [
        nn.Conv2d(3, 16, 3), *(Cat(nn.Identity(), nn.Sequential(
            nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 8, 3, padding=1))) for c in (16, 24, 32)),
        nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2), head(20)], IMAGE),
    "inception": (lambda: [
        conv(3, 16, s=2), Cat(
            conv(16, 16, 1), nn.Sequential(conv(16, 8, 1), conv(8, 24)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(16, 8, 1)), nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(16, 8, 1))),
        nn.MaxPool2d(3, 2, ceil_mode=True), head(56)], IMAGE),
    "shufflenet_v2": (lambda: [conv(3, 32, s=2), ShuffleUnit(32), ShuffleUnit(32), head(32)], IMAGE),
    "resnext": (lambda: [
        conv(3, 32), Add(conv(32, 32, 1), conv(32, 32, groups=8), conv(32, 32, 1, act=None), after=nn.ReLU()),
        head(32)], IMAGE),
    "regnet": (lambda: [
        conv(3, 16, s=2), Add(
            conv(16, 24, 1), conv(24, 24, s=2, groups=3), Excite(24), conv(24, 24, 1, act=None),
            skip=conv(16, 24, 1, 2, act=None), after=nn.ReLU()),
        head(24)], IMAGE),
    "convnext": (lambda: [
        nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16), ConvNeXtBlock(16), ChannelNorm(16), nn.Conv2d(16, 24, 2, 2),
        ConvNeXtBlock(24), head(24)], IMAGE),
    "unet_bilinear": (lambda: [UNet(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))], IMAGE),
    "unet_half_pixel": (lambda: [UNet(nn.Upsample(scale_factor=2, mode="bilinear"))], IMAGE),
    "unet_nearest": (lambda: [UNet(nn.Upsample(scale_factor=2))], IMAGE),
    "unet_transposed": (lambda: [UNet(nn.ConvTranspose2d(24, 24, 2, 2))], IMAGE),
    "deeplab": (lambda: [DeepLab()], IMAGE),
    "yolo": (lambda: [Yolo()], IMAGE),
    "fcn": (lambda: [FCN()], IMAGE),
    "espcn": (lambda: [
        nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 27, 3, padding=1), nn.PixelShuffle(3)], (3, 12, 10)),
    "srgan": (lambda: [
        nn.Conv2d(3, 16, 9, padding=4), nn.PReLU(),
        Add(conv(16, 16, act=lambda: nn.PReLU(16)), conv(16, 16, act=None)), nn.Conv2d(16, 64, 3, padding=1),
        nn.PixelShuffle(2), nn.PReLU(), nn.Conv2d(16, 3, 9, padding=4)], (3, 12, 10)),
    "generator": (lambda: [
        nn.ConvTranspose2d(20, 32, 4, 1, 0), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()], (20, 1, 1)),
    "discriminator": (lambda: [
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.InstanceNorm2d(32, affine=True),
        nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 4)], IMAGE),
    "speech": (lambda: [
        nn.Conv1d(4, 16, 9, 4, 4), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(4),
        nn.Conv1d(16, 20, 3, padding=2, dilation=2), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(20, 5)], (4, 200)),
    "adaptive": (lambda: [
        nn.Conv2d(3, 8, 3), nn.ELU(), nn.AdaptiveAvgPool2d((5, 5)), nn.Flatten(), nn.Linear(200, 5),
        nn.LogSoftmax(1)], IMAGE),
    "nhwc": (lambda: [Nhwc()], (32, 32, 3)),
    "group_norm": (lambda: [
        nn.Conv2d(3, 24, 3), nn.GroupNorm(4, 24), nn.ReLU(), nn.Conv2d(24, 8, 3), nn.InstanceNorm2d(8),
        nn.Softplus()], IMAGE),
    "cbam": (lambda: [conv(3, 20), Excite(20), SpatialAttention(), head(20)], IMAGE),
    "activations": (lambda: [
        conv(3, 20, act=Mish), conv(20, 20, act=nn.Mish), conv(20, 16, act=nn.GELU),
        conv(16, 16, act=lambda: nn.GELU(approximate="tanh")), conv(16, 16, act=nn.SELU),
        conv(16, 8, act=nn.Softsign)], IMAGE),
    "embedding": (lambda: [conv(3, 20), head(20, 12), Normalise()], IMAGE),
    "padding": (lambda: [
        nn.ReflectionPad2d(2), nn.Conv2d(3, 16, 5), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2),
        nn.ReplicationPad2d(1), nn.Conv2d(16, 8, 3)], IMAGE),
    "choices": (lambda: [nn.Conv2d(3, 6, 3), Choose()], (3, 8, 8)),
    "clamp": (lambda: [
        nn.Conv2d(3, 20, 3), nn.Hardtanh(-0.5, 0.8), nn.Conv2d(20, 8, 1), nn.Hardsigmoid(), nn.Conv2d(8, 4, 1),
        nn.Softmax2d()], IMAGE),
}
# fmt: on
