"""Makes inverted residuals one operator: what is between their three convolutions is never stored."""

from __future__ import annotations

from .._core.conv import Conv2d
from .._core.conv_depthwise import DepthwiseConv2d
from .._core.conv_inverted import inverted_residual
from ..device import DeviceFacts
from ..graph import Graph, Node, Value, operand_spec
from ..planner.prices import price_of


def fuse_inverted(graph: Graph, facts: DeviceFacts) -> None:
    """1x1 convolution -> depthwise -> 1x1 convolution becomes one operator, likewise the last two alone; the same bits.

    Only where nobody else reads what is between, for kernels of the CPU class, and where the model expects less time:
    with many work-items for few rows, each computes rows of the first that others compute, too.
    """
    if facts.kernels != "cpu" or not facts.workers:
        return
    readers, outputs = graph.readers(), set(graph.outputs.values())

    def sole(value: Value) -> Node | None:
        """The only reader of a value that nothing else needs."""
        found = readers.get(value, [])
        return found[0] if len(found) == 1 and value not in outputs else None

    gone: set[Node] = set()
    for node in [each for each in graph.nodes if type(each.layer) is DepthwiseConv2d]:
        project = sole(node.outputs[0])
        before = node.inputs[0].producer if isinstance(node.inputs[0], Value) else None
        expands = before is not None and before not in gone and _is_product(before) and sole(before.outputs[0]) is node
        if project is None or not _is_product(project) or project.inputs[0] is not node.outputs[0]:
            continue
        for parts in ([before, node, project], [node, project])[0 if expands else 1 :]:
            if _fuse([part for part in parts if part is not None], facts):
                gone.update(part for part in parts[:-1] if part is not None)
                break
    graph.nodes = [each for each in graph.nodes if each not in gone]


def _is_product(node: Node) -> bool:
    """Whether it may be a 1x1 convolution of channel blocks."""
    weight, x = node.inputs[1] if len(node.inputs) > 1 else None, operand_spec(node.inputs[0])
    return (
        type(node.layer) is Conv2d
        and isinstance(weight, Value)
        and weight.spec.groups == 1
        and x is not None
        and x.layout == "block"
    )


def _fuse(parts: list[Node], facts: DeviceFacts) -> bool:
    """Makes the last of the nodes do what all do, if that takes less time."""
    first, last = parts[0], parts[-1]
    layer = inverted_residual(parts[-3].layer if len(parts) == 3 else None, parts[-2].layer, last.layer)
    if layer is None:
        return False
    weights = [operand for part in parts for operand in part.inputs[1:3]]
    inputs = (first.inputs[0], *weights, *last.inputs[3:])
    together = _price(Node(layer, inputs, last.outputs, last.name), facts)
    if together >= sum(_price(part, facts) for part in parts):
        return False
    last.layer, last.inputs, last.name = layer, inputs, first.name  # tables say of the others that they are in that
    return True


def _price(node: Node, facts: DeviceFacts) -> float:
    specs, outs = node.input_specs(), [value.spec for value in node.outputs]
    choice = node.layer.offered(facts, specs, outs)[0]
    return price_of(node.layer.effort(specs, outs, facts, choice), facts)
