"""Convolution (cross-correlation, as everyone's CNN has it) and its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ..errors import ArgumentError, ShapeError
from ..shapes import ROUNDINGS, pads, pair, transposed_count
from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Gradients, LinearLayer, Shape, one_of, register, truth, whole
from .windows import Windows, windows


def check_groups(groups: int, channels: int, filters: int, who: str) -> None:
    """Refuses groups that do not divide both the input channels and the filters."""
    fits = [g for g in range(1, min(channels, filters) + 1) if channels % g == 0 and filters % g == 0]
    would = f"groups={' or '.join(map(str, fits))} would fit"
    for number, what in ((channels, "input channels"), (filters, "filters")):
        if number % groups:
            raise ShapeError(f"{who}: {number} {what} do not divide into {groups} groups; {would}")


def _by_group(weight: Array, groups: int) -> Array:
    """(J, I, R, S) as one matrix per group, (groups, J/groups, I*R*S)."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _contract(taps: Array, groups: int) -> Array:
    """(N, C, R, S, P, Q) as one matrix per image and group, (N, groups, C/groups*R*S, P*Q)."""
    n, _, _, _, p, q = taps.shape
    return taps.reshape(n, groups, -1, p * q)


@register
class Conv(LinearLayer):
    """y[n,k,p,q] = bias[k] + sum over c, r, s of x[n, c, p*stride + r*dilation - pad, ...] * weight[k,c,r,s].

    The channels c are those of k's group; outside the image x is 0. Weight (K, C/groups, R, S), bias (K,).
    """

    who = "conv"
    required = ("filters", "kernel")
    defaults: ClassVar[Attrs] = {
        "stride": 1,
        "pad": 0,
        "dilation": 1,
        "groups": 1,
        "bias": True,
        "rounding": "exact",
    }

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        return {
            "filters": whole(given["filters"], "conv: filters"),
            "kernel": pair(given["kernel"], "conv: kernel"),
            "stride": pair(given["stride"], "conv: stride"),
            "pads": pads(given["pad"], "conv"),
            "dilation": pair(given["dilation"], "conv: dilation"),
            "groups": whole(given["groups"], "conv: groups"),
            "bias": truth(given["bias"], "conv: bias"),
            "rounding": one_of(given["rounding"], ROUNDINGS, "conv: rounding"),
        }

    def windows(self, attrs: Attrs, shapes: Sequence[Shape]) -> Windows:
        """The windows over the input."""
        given = self.settings(attrs)
        ((_, c, h, w),) = self.check_inputs(shapes)
        check_groups(given["groups"], c, given["filters"], "conv")
        return windows(
            (h, w),
            given["kernel"],
            given["stride"],
            given["pads"],
            dilation=given["dilation"],
            rounding=given["rounding"],
            who="conv",
        )

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        return (shapes[0][0], attrs["filters"], *self.windows(attrs, shapes).count)

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        given = self.settings(attrs)
        k, c = given["filters"], shapes[0][1] // given["groups"]
        weight: dict[str, Shape] = {"weight": (k, c, *given["kernel"])}
        return weight | ({"bias": (k,)} if given["bias"] else {})

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        _, c, r, s = self.parameters(attrs, shapes)["weight"]
        return c * r * s

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        k, _, r, s = self.parameters(attrs, shapes)["weight"]
        n, _, p, q = self.output_shape(attrs, shapes)
        per_input = k // self.settings(attrs)["groups"] * r * s
        return [per_input], dict.fromkeys(self.parameters(attrs, shapes), n * p * q)

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        shapes, groups = [x.shape for x in inputs], self.settings(attrs)["groups"]
        taps = self.windows(attrs, shapes).taps(inputs[0])
        y = _by_group(params["weight"], groups) @ _contract(taps, groups)
        y = y.reshape(self.output_shape(attrs, shapes))
        return y + params["bias"][:, None, None] if "bias" in params else y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        groups, over = self.settings(attrs)["groups"], self.windows(attrs, [x.shape for x in inputs])
        n, k, p, q = dy.shape
        dy_by_group = dy.reshape(n, groups, k // groups, p * q)
        taps = over.taps(inputs[0])
        dtaps = _by_group(params["weight"], groups).transpose(0, 2, 1) @ dy_by_group
        dweight = (dy_by_group @ _contract(taps, groups).transpose(0, 1, 3, 2)).sum(axis=0)
        dparams = {"weight": dweight.reshape(params["weight"].shape)}
        if "bias" in params:
            dparams["bias"] = dy.sum(axis=(0, 2, 3))
        return [over.scatter(dtaps.reshape(taps.shape))], dparams


@register
class ConvTranspose(LinearLayer):
    """The transpose of `Conv`: y[n, k, h*stride + r*dilation - pad, ...] sums x[n,c,h,w] * weight[c,k,r,s].

    Each input adds a weighted kernel to the output, which is cut by the padding and longer by `output_pad`
    at its end. Weight (C, K/groups, R, S), bias (K,).
    """

    who = "convtranspose"
    required = ("filters", "kernel")
    defaults: ClassVar[Attrs] = {
        "stride": 1,
        "pad": 0,
        "output_pad": 0,
        "dilation": 1,
        "groups": 1,
        "bias": True,
    }

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        stride = pair(given["stride"], "convtranspose: stride")
        output_pad = pair(given["output_pad"], "convtranspose: output_pad", least=0)
        for extra, step in zip(output_pad, stride, strict=True):
            if extra >= step:
                raise ArgumentError(
                    f"convtranspose: output_pad={extra} is not less than stride={step}; "
                    f"at most {step - 1} would fit, as only so many elements are left over by a stride"
                )
        return {
            "filters": whole(given["filters"], "convtranspose: filters"),
            "kernel": pair(given["kernel"], "convtranspose: kernel"),
            "stride": stride,
            "pads": pads(given["pad"], "convtranspose"),
            "output_pad": output_pad,
            "dilation": pair(given["dilation"], "convtranspose: dilation"),
            "groups": whole(given["groups"], "convtranspose: groups"),
            "bias": truth(given["bias"], "convtranspose: bias"),
        }

    def windows(self, attrs: Attrs, shapes: Sequence[Shape]) -> Windows:
        """The windows over the output; as many as there are inputs."""
        given = self.settings(attrs)
        ((_, c, h, w),) = self.check_inputs(shapes)
        check_groups(given["groups"], c, given["filters"], "convtranspose")
        rows, cols = (
            transposed_count(
                (h, w)[i],
                given["kernel"][i],
                stride=given["stride"][i],
                pad=given["pads"][i],
                dilation=given["dilation"][i],
                output_pad=given["output_pad"][i],
                who="convtranspose",
            )
            for i in (0, 1)
        )
        return Windows((rows, cols), given["kernel"], given["stride"], given["pads"], given["dilation"], (h, w))

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        return (shapes[0][0], attrs["filters"], *self.windows(attrs, shapes).size)

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        given = self.settings(attrs)
        k, c = given["filters"], shapes[0][1]
        weight: dict[str, Shape] = {"weight": (c, k // given["groups"], *given["kernel"])}
        return weight | ({"bias": (k,)} if given["bias"] else {})

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        c, _, r, s = self.parameters(attrs, shapes)["weight"]
        return int(c // self.settings(attrs)["groups"] * r * s)

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        _, k, r, s = self.parameters(attrs, shapes)["weight"]
        n, _, rows, cols = self.output_shape(attrs, shapes)
        _, _, h, w = shapes[0]
        terms = {"weight": n * h * w, "bias": n * rows * cols}
        return [k * r * s], {name: terms[name] for name in self.parameters(attrs, shapes)}

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        groups, over = self.settings(attrs)["groups"], self.windows(attrs, [x.shape for x in inputs])
        (n, c, h, w), (r, s) = inputs[0].shape, over.kernel
        x_by_group = inputs[0].reshape(n, groups, c // groups, h * w)
        taps = _by_group(params["weight"], groups).transpose(0, 2, 1) @ x_by_group
        y = over.scatter(taps.reshape(n, -1, r, s, h, w))
        return y + params["bias"][:, None, None] if "bias" in params else y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        groups, over = self.settings(attrs)["groups"], self.windows(attrs, [x.shape for x in inputs])
        n, c, h, w = inputs[0].shape
        x_by_group = inputs[0].reshape(n, groups, c // groups, h * w)
        dtaps = _contract(over.taps(dy), groups)
        dx = (_by_group(params["weight"], groups) @ dtaps).reshape(n, c, h, w)
        dweight = (x_by_group @ dtaps.transpose(0, 1, 3, 2)).sum(axis=0)
        dparams = {"weight": dweight.reshape(params["weight"].shape)}
        if "bias" in params:
            dparams["bias"] = dy.sum(axis=(0, 2, 3))
        return [dx], dparams


def _conv(name: str, shape: Shape, filters: int, kernel: Any, **attrs: Any) -> Case:
    return Case(name, "Conv", {"filters": filters, "kernel": kernel, **attrs}, (shape,))


def _transpose(name: str, shape: Shape, filters: int, kernel: Any, **attrs: Any) -> Case:
    return Case(name, "ConvTranspose", {"filters": filters, "kernel": kernel, **attrs}, (shape,))


CASES = [
    _conv("one pixel", (1, 1, 1, 1), 1, 1),
    _conv("one channel", (2, 1, 6, 5), 3, 3),
    _conv("odd everything", (2, 3, 12, 17), 5, 3, stride=2, pad=((1, 0), (1, 1))),
    _conv("same size", (2, 3, 7, 9), 16, 3, pad=1),
    _conv("no bias", (1, 5, 6, 7), 15, 3, pad=1, bias=False),
    _conv("channels fill blocks", (1, 16, 8, 8), 32, 3, pad=1),
    _conv("channel tails", (2, 17, 7, 13), 33, 3, pad=1),
    _conv("tails of one less", (1, 15, 5, 14), 31, 3, pad=1),
    _conv("three blocks", (1, 48, 4, 29), 48, 3, pad=1),
    _conv("width 31", (3, 3, 2, 31), 8, 3, pad=1),
    _conv("wide and flat", (1, 3, 1, 57), 5, (1, 7), pad=(0, 3)),
    _conv("tall and thin", (1, 3, 57, 1), 5, (7, 1), pad=(3, 0)),
    _conv("width 2", (5, 4, 15, 2), 6, 3, pad=1),
    _conv("1x1", (2, 31, 7, 7), 17, 1),
    _conv("1x1, stride 2", (2, 16, 7, 9), 32, 1, stride=2),
    _conv("1x1, many channels", (1, 256, 14, 14), 48, 1),
    _conv("1x7", (1, 5, 6, 13), 16, (1, 7), pad=(0, 3)),
    _conv("7x1", (1, 5, 13, 6), 16, (7, 1), pad=(3, 0)),
    _conv("5x5", (2, 3, 14, 15), 16, 5, pad=2),
    _conv("7x7, stride 2", (1, 3, 29, 29), 16, 7, stride=2, pad=3),
    _conv("11x11, stride 4", (1, 3, 67, 67), 24, 11, stride=4),
    _conv("stride 3", (2, 5, 13, 16), 7, 4, stride=3),
    _conv("stride beyond the kernel", (1, 3, 13, 9), 5, 1, stride=4),
    _conv("unequal strides", (1, 3, 9, 14), 5, 3, stride=(1, 3), pad=((1, 1), (0, 1))),
    _conv("even kernel", (1, 3, 7, 7), 5, (2, 4), pad=((1, 0), (2, 1))),
    _conv("kernel is the image", (2, 17, 5, 6), 33, (5, 6)),
    _conv("padding beyond half", (1, 3, 4, 5), 5, 3, pad=2),
    _conv("padding beyond the kernel", (1, 2, 3, 3), 3, 2, pad=3),
    _conv("padding alone makes room", (1, 5, 1, 1), 17, 3, pad=1),
    _conv("dilation", (2, 5, 9, 11), 7, 3, pad=2, dilation=2),
    _conv("unequal dilations, stride 2", (1, 3, 11, 14), 5, (3, 2), stride=2, pad=(3, 0), dilation=(3, 1)),
    _conv("floor", (1, 3, 10, 13), 5, 3, stride=2, pad=(1, 0), rounding="floor"),
    _conv("ceil", (1, 3, 10, 13), 5, (3, 4), stride=(2, 4), rounding="ceil"),
    _conv("2 groups fill blocks", (1, 32, 6, 7), 32, 3, pad=1, groups=2),
    _conv("3 groups", (2, 6, 9, 7), 12, 3, pad=1, groups=3),
    _conv("5 groups of 2", (1, 10, 5, 6), 5, 3, pad=1, groups=5),
    _conv("2 groups across blocks", (1, 48, 4, 5), 34, 3, pad=1, groups=2),
    _conv("4 groups, dilation, stride", (2, 12, 11, 11), 20, 3, stride=2, pad=2, dilation=2, groups=4),
    _conv("1x1, 3 groups", (2, 15, 4, 5), 33, 1, groups=3),
    _conv("depthwise", (2, 17, 7, 9), 17, 3, pad=1, groups=17),
    _conv("depthwise fills blocks", (1, 32, 8, 15), 32, 3, pad=1, groups=32),
    _conv("depthwise, stride 2", (1, 33, 9, 9), 33, 3, stride=2, pad=1, groups=33),
    _conv("depthwise, small", (1, 3, 5, 5), 3, 3, pad=1, groups=3),
    _conv("depthwise, 2 per channel", (1, 17, 6, 7), 34, 3, pad=1, groups=17),
    _conv("depthwise 5x5, dilation", (1, 16, 11, 10), 16, 5, pad=4, dilation=2, groups=16),
    _conv("depthwise, unequal strides", (1, 5, 7, 13), 5, 3, stride=(2, 3), pad=((0, 2), (1, 1)), groups=5),
    _conv("depthwise, oblong", (2, 18, 9, 15), 18, (2, 5), stride=(1, 2), dilation=(3, 1), groups=18),
    _conv("long sum", (1, 512, 7, 7), 8, 3, pad=1),  # 4608 products
    _conv("batch 5", (5, 16, 7, 7), 16, 3, pad=1),
    _conv("larger image", (1, 16, 57, 57), 16, 3, pad=1),
    _transpose("one pixel", (1, 1, 1, 1), 1, 1),
    _transpose("one channel", (2, 1, 4, 3), 2, 3),
    _transpose("odd everything", (2, 5, 6, 9), 3, 3, stride=2, pad=((1, 0), (1, 1))),
    _transpose("doubles the size", (1, 16, 7, 7), 32, 2, stride=2),
    _transpose("doubles the size, 4x4", (2, 17, 5, 7), 5, 4, stride=2, pad=1),
    _transpose("output_pad", (2, 3, 4, 5), 5, 3, stride=2, pad=1, output_pad=1),
    _transpose("unequal output_pad", (1, 3, 3, 4), 5, (3, 2), stride=(3, 2), pad=(1, 0), output_pad=(2, 0)),
    _transpose("stride 1", (1, 15, 7, 13), 31, 3, pad=1),
    _transpose("stride beyond the kernel", (1, 3, 4, 3), 4, 2, stride=4),
    _transpose("dilation", (1, 5, 5, 6), 7, 3, stride=2, pad=2, dilation=2),
    _transpose("2 groups fill blocks", (1, 32, 4, 5), 32, 3, pad=1, groups=2),
    _transpose("3 groups", (2, 6, 5, 4), 12, 3, stride=2, pad=1, groups=3),
    _transpose("depthwise", (1, 17, 4, 5), 17, 3, stride=2, pad=1, groups=17),
    _transpose("depthwise, stride 1", (2, 5, 6, 9), 5, 3, pad=((0, 1), (2, 0)), groups=5),
    _transpose("depthwise, output_pad", (1, 18, 4, 5), 18, (3, 4), stride=(2, 3), output_pad=(1, 2), groups=18),
    _transpose("depthwise, 2 per channel", (1, 5, 4, 4), 10, 3, groups=5),
    _transpose("no bias", (3, 16, 3, 3), 8, 3, stride=2, bias=False),
    _transpose("large padding", (1, 3, 5, 6), 4, 5, stride=2, pad=((4, 3), (2, 4))),
    _transpose("wide and flat", (1, 3, 1, 29), 2, (1, 4), stride=(1, 2), pad=(0, 1)),
    _transpose("long sum", (1, 512, 3, 4), 5, 2, stride=2),
]


def _refused(message: str, shape: Shape = (1, 6, 9, 9), layer: str = "Conv", **attrs: Any) -> Refusal:
    return Refusal(layer, {"filters": 4, "kernel": 3, **attrs}, (shape,), message)


REFUSED = [
    _refused(r"^conv: window reaches over 5 elements but only 0\+4\+0 are there", (1, 3, 4, 4), kernel=5),
    _refused(r"^conv: window reaches over 7 elements but only 1\+4\+1 are there", (1, 3, 4, 4), dilation=3, pad=1),
    _refused(r"^conv: windows of 3 at stride 2 do not tile 0\+8\+0 .*stride=.* would fit", (1, 3, 8, 8), stride=2),
    _refused(
        r"^conv: windows of 3 at stride 3 do not tile 1\+9\+1 elements: \(9 - 3 \+ 2\)/3 \+ 1 = 3\.66667; "
        r'pad=0, or stride=2 or 1 would fit, or ask for rounding="floor" or "ceil"$',
        pad=1,
        stride=3,
    ),
    _refused(r"^conv: 6 input channels do not divide into 4 groups; groups=1 or 2 would fit$", groups=4),
    _refused(r"^conv: 4 filters do not divide into 3 groups; groups=1 or 2 would fit$", groups=3),
    _refused(r"^conv: filters: 0 is not a whole number >= 1$", filters=0),
    _refused(r"^conv: filters: 2\.0 is not a whole number >= 1$", filters=2.0),
    _refused(r"^conv: filters: True is not a whole number >= 1$", filters=True),
    _refused(r"^conv: bias: 'no' is not True or False$", bias="no"),
    _refused(r"^conv: pad: None is not a whole number >= 0, or two", pad=None),
    _refused(r"^conv: kernel: 1\.5 is not a whole number >= 1, or two", kernel=1.5),
    _refused(r"^conv: kernel: 0 is not a whole number >= 1, or two of them \(rows, cols\)$", kernel=0),
    _refused(r"^conv: kernel: \(3, 3, 3\) is not a whole number >= 1, or two", kernel=(3, 3, 3)),
    _refused(r"^conv: stride: 1000000000000 is more than 16777216, which", stride=10**12),
    _refused(r"^conv: stride: 0 is not a whole number >= 1, or two", stride=0),
    _refused(r"^conv: dilation: \(1, 0\) is not a whole number >= 1, or two", dilation=(1, 0)),
    _refused(r"^conv: pad: -1 is not a whole number >= 0, or two", pad=-1),
    _refused(r"^conv: \(1, 1, 1\) is not a padding: an int, \(rows, cols\) or", pad=(1, 1, 1)),
    _refused(r"^conv: groups: 0 is not a whole number >= 1$", groups=0),
    _refused(r"""^conv: rounding: 'up' is not "exact", "floor" or "ceil"$""", rounding="up"),
    _refused(r"^conv: input shape \(3, 9, 9\) is not \(N, C, H, W\), each at least 1$", (3, 9, 9)),
    _refused(
        r"^convtranspose: 1 inputs of kernel 3 at stride 1 minus the padding 2\+2 leave -1 outputs; lessen",
        (1, 2, 1, 1),
        "ConvTranspose",
        pad=2,
    ),
    _refused(
        r"^convtranspose: 6 input channels do not divide into 4 groups; groups=1 or 2 would fit$",
        layer="ConvTranspose",
        groups=4,
    ),
    _refused(
        r"^convtranspose: 4 filters do not divide into 3 groups; groups=1 or 2 would fit$",
        layer="ConvTranspose",
        groups=3,
    ),
    _refused(
        r"^convtranspose: output_pad=2 is not less than stride=2; at most 1 would fit",
        layer="ConvTranspose",
        stride=2,
        output_pad=2,
    ),
    _refused(r"^convtranspose: output_pad: -1 is not a whole number >= 0", layer="ConvTranspose", output_pad=-1),
    _refused(r"^convtranspose: kernel: 0 is not a whole number >= 1", layer="ConvTranspose", kernel=0),
    _refused(r"^convtranspose: stride: 0 is not a whole number >= 1", layer="ConvTranspose", stride=0),
    _refused(r"^convtranspose: pad: -1 is not a whole number >= 0", layer="ConvTranspose", pad=-1),
    _refused(r"^convtranspose: filters: 0 is not a whole number >= 1$", layer="ConvTranspose", filters=0),
]
