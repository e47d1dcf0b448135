"""What `clconv tune` found on a device, and how planning uses it: measured choices before modelled ones.

One file of JSON per device and driver version, in the cache folder; what is not there is looked for in a file of the
same name that was shipped, clconv/measured/:

    {"format": ..., "version": clconv's, "device": DeviceFacts.identity, "entries": {
        "Conv2d ... x=1x64x56x56 ...": {"algorithm": "direct", "tiles": {"WT": 14, "KB": 2}, "gain": 1.12,
        "tried": 9}, ...}}

An operator without an entry, or with one that its layer does not offer any more, is planned by the model.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import settings
from .errors import ModelFileError
from .files import write_atomically

if TYPE_CHECKING:
    from ._core.layer import Choice, Layer
    from .device import DeviceFacts
    from .shapes import TensorSpec

FORMAT = "clconv tuning 1"
SHIPPED = Path(__file__).with_name("measured")
UNNAMED = ("activation", "slope")  # of a layer: the same kernel with other arguments
_lock = threading.Lock()
_read: dict[Path, tuple[tuple[int, int], dict[str, Entry]]] = {}


@dataclass(frozen=True)
class Entry:
    """The fastest choice for one shape class.

    Attributes:
        gain: the default's time over its own. tried: how many of the layer's choices were tried, in their order.
    """

    algorithm: str
    tiles: Mapping[str, int]
    gain: float
    tried: int = 0

    def fits(self, choice: Choice) -> bool:
        """Whether this is the choice."""
        return choice.name == self.algorithm and dict(choice.tiles) == self.tiles


def ordered(
    facts: DeviceFacts,
    layer: Layer,
    specs: Sequence[TensorSpec | None],
    outs: Sequence[TensorSpec],
    choices: list[Choice],
) -> list[Choice]:
    """An operator's choices, the one that was measured to be the fastest first."""
    if len(choices) < 2 or settings.get("CLCONV_TUNING") == "0":
        return choices
    known = entries(facts)
    entry = known.get(shape_class(layer, specs, outs)) if known else None
    if entry is None:
        return choices
    return sorted(choices, key=lambda choice: not entry.fits(choice))


def shape_class(layer: Layer, specs: Iterable[TensorSpec | None], outs: Iterable[TensorSpec]) -> str:
    """What an entry holds for: the operator with its settings, and the shapes and layouts it works on."""
    return f"{_text(layer)} {' '.join(map(_spec, specs))} -> {' '.join(map(_spec, outs))}"


def _text(value: Any) -> str:
    """An object with its attributes, as nothing else would write it."""
    if not hasattr(value, "__dict__"):
        return repr(value).replace(" ", "")
    named = (f"{name}={_text(v)}" for name, v in sorted(vars(value).items()) if name not in UNNAMED)
    return f"{type(value).__name__}({','.join(named)})"


def _spec(spec: TensorSpec | None) -> str:
    if spec is None:
        return "-"
    groups = f"/{spec.groups}" if spec.groups > 1 else ""
    return f"{spec}:{spec.layout}{groups}"


def file(facts: DeviceFacts) -> Path:
    """Where a device's entries are."""
    name = hashlib.sha256(facts.identity.encode()).hexdigest()[:16]
    return settings.cache_folder() / "tuned" / f"{name}.json"


def entries(facts: DeviceFacts) -> dict[str, Entry]:
    """What was found on a device, here or where clconv was made; nothing where there is no file, or, with a warning,
    none that can be used.
    """
    path = file(facts)
    return {**_held(SHIPPED / path.name, facts), **_held(path, facts)}


def own_entries(facts: DeviceFacts) -> dict[str, Entry]:
    """What was found on a device here."""
    return dict(_held(file(facts), facts))


def _held(path: Path, facts: DeviceFacts) -> dict[str, Entry]:
    try:
        state = path.stat()
    except OSError:
        return {}
    stamp = (state.st_mtime_ns, state.st_size)
    with _lock:
        if path not in _read or _read[path][0] != stamp:
            _read[path] = (stamp, _entries(path, facts))
        return _read[path][1]


def _entries(path: Path, facts: DeviceFacts) -> dict[str, Entry]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["device"] != facts.identity:
            raise ValueError(f"it is for {content['device']}")
        found = {name: _entry(value) for name, value in content["entries"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | AttributeError) else str(error)
        warnings.warn(f"tuning: {path} is ignored: {what}; `clconv tune` makes it anew", stacklevel=2)
        return {}
    # What is shipped belongs to this version; so does not what an earlier one left.
    return found if path.parent == SHIPPED or content.get("version") == settings.version() else {}


def _entry(value: Any) -> Entry:
    tiles = {str(name): int(number) for name, number in value["tiles"].items()}
    return Entry(str(value["algorithm"]), tiles, float(value["gain"]), int(value["tried"]))


def store(facts: DeviceFacts, found: Mapping[str, Entry]) -> Path:
    """Adds entries to a device's file; where they are then.

    Raises:
        ModelFileError: it cannot be written.
    """
    path = file(facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be used is replaced
        known = {**own_entries(facts), **found}
    content = {"format": FORMAT, "version": settings.version(), "device": facts.identity}
    rows = {name: asdict(entry) for name, entry in sorted(known.items())}
    try:
        write_atomically(path, json.dumps({**content, "entries": rows}, indent=1).encode())
    except OSError as error:
        raise ModelFileError(f"tuning: {path} cannot be written: {error.strerror}") from error
    return path
