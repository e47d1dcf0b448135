"""Rewrites of the graph, one small file each; every pass changes the graph in place."""

from ..graph import Graph
from .concat import read_pieces
from .divide import FEATURES, GRADIENT, divide
from .ends import lend_ends
from .fold import fold_batchnorm
from .fuse import fuse_activations, fuse_pools, fuse_sums
from .halve import halve_weights
from .invert import fuse_inverted
from .layout import convert_layouts
from .masks import move_masks
from .pixels import take_pixels
from .recompute import normalise_again, recompute
from .split import split_weights
from .step import fuse_updates
from .waiting import halve_kept, idle, wait
from .winograd import use_winograd

__all__ = [
    "FEATURES",
    "GRADIENT",
    "convert_layouts",
    "divide",
    "fold_batchnorm",
    "for_inference",
    "fuse_activations",
    "fuse_inverted",
    "fuse_pools",
    "fuse_sums",
    "fuse_updates",
    "halve_kept",
    "halve_weights",
    "idle",
    "lend_ends",
    "move_masks",
    "normalise_again",
    "read_pieces",
    "recompute",
    "split_weights",
    "take_pixels",
    "use_winograd",
    "wait",
]


def for_inference(graph: Graph, block: int, *, fold: bool = True, sums: bool = True) -> None:
    """All passes of test-time mode, in order.

    Args:
        fold: batch normalisation may disappear into derived weights; not where training holds the weights.
        sums: convolutions take in the sums behind them.
    """
    if fold:
        fold_batchnorm(graph)
    fuse_activations(graph)
    if sums:
        fuse_sums(graph)
    read_pieces(graph, block)
    convert_layouts(graph)
    graph.prune()
