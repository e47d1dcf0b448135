"""From what a user names (a file, a network of the zoo, a pattern) to a network."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, ShapeError
from ..net import Net, load
from ..nn import pattern, zoo
from ..nn.network import Network

PREFIX = "zoo:"
ZOO: dict[str, Callable[..., Network]] = {
    name: function
    for name, function in vars(zoo).items()
    if inspect.isfunction(function) and function.__module__ == zoo.__name__ and not name.startswith("_")
}


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        text: what the user wrote. kind: "file", "zoo" or "pattern".
    """

    text: str
    kind: str

    @property
    def takes_size(self) -> bool:
        """Whether the network is made for any size of image."""
        return self.kind == "zoo" and "size" in inspect.signature(ZOO[self.text]).parameters

    def open(
        self, *, classes: int | None = None, size: int | None = None, device: str | None = None, seed: int = 0
    ) -> Net:
        """The network; `classes` and `size` (pixels) are for those of the zoo, None leaves their own.

        Raises:
            ClconvError: the file cannot be used, the pattern is wrong, the size does not fit.
        """
        if self.kind == "file":
            return load(self.text, device=device)
        return Net(self.network(classes=classes, size=size), device=device, seed=seed)

    def network(self, *, classes: int | None = None, size: int | None = None) -> Network:
        """The description alone, of a pattern or a network of the zoo."""
        if self.kind == "pattern":
            return pattern.parse(self.text)
        wanted: dict[str, Any] = {} if classes is None else {"classes": classes}
        if size is not None and self.takes_size:
            wanted["size"] = size
        return ZOO[self.text](**wanted)


def find(text: str) -> Source:
    """What a user means.

    Raises:
        ArgumentError: it is nothing that could be a network.
    """
    name = text.removeprefix(PREFIX)
    if name in ZOO:
        return Source(name, "zoo")
    if not text.startswith(PREFIX):
        if Path(text).is_file() or text.lower().endswith((".safetensors", ".onnx")):
            return Source(text, "file")
        if "->" in text or re.match(r"\s*input\b", text, re.IGNORECASE):
            return Source(text, "pattern")
    close = difflib.get_close_matches(name, ZOO, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ArgumentError(
        f"network: {text!r} is no file, no network of the zoo{hint} and no pattern. "
        f"The zoo has {', '.join(sorted(ZOO))}; "
        'a pattern looks like "INPUT 28x28x1 -> [CONV 3x3x16 -> RELU -> POOL]*2 -> FC 10"'
    )


def check_vector(net: Net, who: str) -> None:
    """Refuses a network whose output is not one score per class.

    Raises:
        ShapeError: it is an image.
    """
    k, p, q = net.network.output_shape
    if (p, q) != (1, 1):
        raise ShapeError(
            f"{who}: the network's output is an image of {q}x{p} pixels with {k} channels, not one score per class; "
            f"GAP or FC {k} at its end would fit"
        )


def image_text(shape: tuple[int, int, int]) -> str:
    """(C, H, W) in the order of patterns: WxHxC."""
    return f"{shape[2]}x{shape[1]}x{shape[0]}"
