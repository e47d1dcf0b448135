"""The words of the pattern language, derived from the arguments that layers take."""

from __future__ import annotations

import difflib

from .. import reference
from .base import Layer

POOLS = {"max": "MaxPool", "avg": "AvgPool", "l2": "L2Pool", "global": "GlobalAvgPool"}
SHORTER = {
    "POOL": "MaxPool",
    "GAP": "GlobalAvgPool",
    "BN": "BatchNorm",
    "DECONV": "ConvTranspose",
}
WORDS = {**{name.upper(): name for name in reference.LAYERS}, **SHORTER}
"""Words by which a pattern names layers -> class names."""

SHORT = {"p": "pad", "d": "dilation", "g": "groups"}
FLAGS: dict[str, tuple[str, object]] = {
    "nobias": ("bias", False),
    "countpad": ("count_pad", True),
    "within": ("region", "within"),
    "floor": ("rounding", "floor"),
    "ceil": ("rounding", "ceil"),
}
WHOLE = ("filters", "units", "groups", "size", "kernel", "stride", "dilation", "output_pad")


def _leading() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for kind, layer in reference.LAYERS.items():
        known = (*layer.required, *layer.defaults)
        for names in (("kernel", "filters"), ("kernel",), ("units",), ("rate",), ("slope",)):
            if all(name in known for name in names):
                found[kind] = names
                break
    return found


LEADING = _leading()
"""Arguments that stand right behind the name, by class name."""


def usage(kind: str) -> str:
    """How a layer is written: "CONV FxFxK [/S] [pP] [dD] [gG] [nobias] [floor] [ceil]"."""
    layer = reference.LAYERS[kind]
    known = {**dict.fromkeys(layer.required), **layer.defaults}
    lead = {
        ("kernel", "filters"): " FxFxK",
        ("kernel",): " [FxF]",
        ("units",): " K",
        ("rate",): " [rate]",
        ("slope",): " [slope]",
    }
    said = word_of(kind) + lead.get(LEADING.get(kind, ()), "")
    said += " [/S]" * ("stride" in known)
    said += "".join(f" [{short}{short.upper()}]" for short, name in SHORT.items() if name in known)
    said += "".join(f" [{flag}]" for flag, (name, _) in FLAGS.items() if name in known)
    shown = {*SHORT.values(), "kernel", "filters", "units", "rate", "slope", "stride"}
    shown |= {name for name, _ in FLAGS.values()}
    return said + "".join(f" [{name}=...]" for name in known if name not in shown)


def word_of(kind: str) -> str:
    """The shortest word for a layer: "BN", "POOL avg"."""
    if kind in POOLS.values() and kind != "GlobalAvgPool":
        mode = next(mode for mode, pool in POOLS.items() if pool == kind)
        return "POOL" if mode == "max" else f"POOL {mode}"
    return min((word for word, named in WORDS.items() if named == kind), key=len)


def closest(word: str) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(word, WORDS, n=3, cutoff=0.5)
    return f"{' or '.join(near)} is close" if near else f"there are {', '.join(sorted(WORDS))}"


def default_pad(layer: Layer) -> tuple[int, int] | None:
    """The padding (rows, cols) that patterns leave out, or None where it would not be whole.

    It keeps the size at stride 1; a transposed convolution makes it `stride` times as large.
    """
    given = layer.settings
    ends = given["stride"] if type(layer).__name__ == "ConvTranspose" else (1, 1)
    dilation = given.get("dilation", (1, 1))
    twice = [(k - 1) * d + 1 - s for k, d, s in zip(given["kernel"], dilation, ends, strict=True)]
    if any(t % 2 or t < 0 for t in twice):
        return None
    return twice[0] // 2, twice[1] // 2


def size_is_kept(kind: str) -> str:
    """What the default padding does."""
    return "makes the size S times as large" if kind == "ConvTranspose" else "keeps the size"
