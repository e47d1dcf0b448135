"""PyTorch's names of weights: those of torchvision's models, for networks whose layers stand in the same order.

The zoo's ResNets, SqueezeNet and MobileNetV2 carry torchvision's names themselves. Chains get the names of a
torchvision model made of `features` and `classifier`, both counted: VGG's, AlexNet's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ArgumentError
from ..nn.network import Entry, Network
from ..packing import Array
from .model_file import check_shapes

IGNORED = "num_batches_tracked"  # a counter beside PyTorch's running statistics
UNCOUNTED = ("LRN", "Flatten", "GlobalAvgPool", "Softmax")  # not among torchvision's features
ALEXNET_CONVOLUTIONS = 5


def torch_names(network: Network) -> dict[str, str]:
    """PyTorch's name of each array, by its name here."""
    return _namings(network)[0]


def _namings(network: Network) -> list[dict[str, str]]:
    """The names that PyTorch may have given, the likeliest first."""
    own = list(network.array_shapes())
    chain = bool(network.entries) and all(
        (before.name,) == entry.inputs for before, entry in zip(network.entries, network.entries[1:], strict=False)
    )
    kept = {entry.name for entry in network.entries if not _unnamed(entry)}
    if not chain or any(name.rpartition(".")[0] in kept for name in own):
        return [{name: name for name in own}]
    convolutions = sum(type(entry.layer).__name__ == "Conv" for entry in network.entries)
    in_front = [False, True] if convolutions != ALEXNET_CONVOLUTIONS else [True, False]
    found = []
    for dropout_in_front in in_front:
        places = _places(network, dropout_in_front)
        found.append({name: f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in own})
    return found


def _unnamed(entry: Entry) -> bool:
    """Whether a layer has the name that it gets by default."""
    return entry.name.startswith(entry.layer.kind) and entry.name[len(entry.layer.kind) :].isdecimal()


def _places(network: Network, dropout_in_front: bool) -> dict[str, str]:
    """Where each layer of a chain stands in torchvision's `features` and `classifier`.

    Args:
        dropout_in_front: of fully-connected layers, as in AlexNet, where the network has no dropout that is counted
            itself; else behind them and their ReLU, as in VGG.
    """
    kinds = [type(entry.layer).__name__ for entry in network.entries]
    first = kinds.index("FC") if "FC" in kinds else len(kinds)
    if first and first < len(kinds) and kinds[first - 1] == "Dropout":
        first -= 1
    counted = "Dropout" in kinds[first:]
    places: dict[str, str] = {}
    features = classifier = units = 0
    for at, (entry, kind) in enumerate(zip(network.entries, kinds, strict=True)):
        if at < first:
            places[entry.name] = f"features.{features}"
            features += kind not in UNCOUNTED
        elif kind not in UNCOUNTED:
            last = "FC" not in kinds[at + 1 :]
            classifier += kind == "FC" and not counted and (not last if dropout_in_front else units > 0)
            places[entry.name] = f"classifier.{classifier}"
            classifier += 1
            units += kind == "FC"
    return places


def matched(network: Network, arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The network's arrays by its own names, from arrays by these names or PyTorch's.

    Counters of batches and a common prefix, such as "module.", are left away.

    Raises:
        ModelFileError: names or shapes do not match; says which, under the file's names.
    """
    shapes = network.array_shapes()
    namings = [{name: name for name in shapes}, *_namings(network)]
    given = {name: a for name, a in arrays.items() if name in shapes or name.rpartition(".")[2] != IGNORED}
    prefix = _common_prefix(given)
    readings = [given] + ([{name[len(prefix) :]: a for name, a in given.items()}] if prefix else [])
    found, naming = max(
        ((reading, naming) for reading in readings for naming in namings),
        key=lambda pair: len(set(pair[0]) & set(pair[1].values())),
    )
    check_shapes({theirs: shapes[ours] for ours, theirs in naming.items()}, found, where)
    return {ours: found[theirs] for ours, theirs in naming.items()}


def _common_prefix(names: Mapping[str, Array]) -> str:
    """ "module." where all names begin with it; "" where they have nothing in common."""
    first = next(iter(names), "").partition(".")[0] + "."
    return first if names and all(name.startswith(first) for name in names) else ""


def renamed(network: Network, arrays: Mapping[str, Array], naming: str) -> dict[str, Array]:
    """The arrays under the names that `naming` asks for: "clconv" or "torch".

    Raises:
        ArgumentError: another naming.
    """
    if naming not in ("clconv", "torch"):
        raise ArgumentError(f'save_weights: naming {naming!r} is not "clconv" or "torch"')
    names = torch_names(network) if naming == "torch" else {}
    return {names.get(name, name): array for name, array in arrays.items()}
