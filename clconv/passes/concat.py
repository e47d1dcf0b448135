"""Makes concatenation virtual: whoever reads it reads the pieces."""

from __future__ import annotations

from .._core.elementwise import Concat
from ..graph import Graph, Node, Value

MAX_PIECES = 4  # cl/common.h: PIECES_OF


def read_pieces(graph: Graph, block: int) -> None:
    """Removes each Concat whose readers can all take its inputs as pieces.

    A piece must fill its channel blocks, all but the last, and come in channel blocks.
    """
    outputs = set(graph.outputs.values())
    for node in list(graph.nodes):
        if type(node.layer) is not Concat or node.outputs[0] in outputs:
            continue
        pieces = node.reads
        fits = len(pieces) <= MAX_PIECES and all(piece.spec.layout == "block" for piece in pieces)
        if not fits or any(piece.spec.shape[1] % block for piece in pieces[:-1]):
            continue
        joined = node.outputs[0]
        if all(_takes_pieces(reader, joined) for reader in graph.readers().get(joined, [])):
            graph.nodes.remove(node)
            graph.rewire(joined, pieces)


def _takes_pieces(node: Node, value: Value) -> bool:
    return all(
        operand is not value or name in node.layer.pieces
        for name, operand in zip(node.layer.inputs, node.inputs, strict=True)
    )
