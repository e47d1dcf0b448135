"""From the nodes of an ONNX file to a graph, for inputs of concrete shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ArgumentError, ClconvError, ModelFileError, ShapeError
from ..graph import Graph, Value
from ..packing import Array
from ..shapes import TensorSpec
from . import (  # noqa: F401  converters register themselves
    onnx_compose,
    onnx_conv,
    onnx_elementwise,
    onnx_loss,
    onnx_move,
    onnx_norm,
    onnx_reduce,
    onnx_resize,
    onnx_shape,
    onnx_volume,
)
from .onnx_file import DOMAINS, Branch, OnnxModel, OnnxNode
from .onnx_table import CONVERTERS
from .onnx_values import Builder, Device, Host, NeedsConstant, Op, Shape, Tensor, Unsupported

MISFITS = (ValueError, TypeError, IndexError, ArithmeticError)  # what NumPy makes of numbers that do not fit


@dataclass
class Built:
    """A graph with what the model's outputs are in it.

    Attributes:
        outputs: by ONNX name; those on the device are outputs of the graph, the first as "y", others under
            their names with "y:" in front.
    """

    graph: Graph
    outputs: dict[str, Tensor]
    labels: dict[str, str]

    def arrays(self, results: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name, from what a run of the graph returned."""
        found = {}
        for name, tensor in self.outputs.items():
            if isinstance(tensor, Host):
                found[name] = tensor.array
            else:
                found[name] = results[self.labels[name]].reshape(tensor.shape).astype(tensor.dtype, copy=False)
        return found


class Converter:
    """Makes graphs of a model for concrete inputs. What depends on no input is computed once, here.

    Attributes:
        arrays: initializers and what follows from them, by name; those in `transposed` with their two axes
            exchanged.

    Raises:
        ModelFileError: operators that are not supported, all of them, by node and opset.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        check_operators(model)
        self.arrays: dict[str, Array] = dict(model.arrays)
        self.nodes = self._folded(model.nodes)
        self.users = Counter(name for node in self.nodes for name in node.inputs)
        self.users.update(port.name for port in model.outputs)
        self.transposed = self._transposable()
        for name in self.transposed:
            self.arrays[name] = np.ascontiguousarray(self.arrays[name].T)
            if name in model.arrays:
                model.arrays[name] = self.arrays[name].T  # a view: one copy is enough

    def _folded(self, nodes: Sequence[OnnxNode]) -> list[OnnxNode]:
        """The nodes that read something else than known arrays; the others are computed."""
        left = []
        b = Builder(train=False, users={}, transposed=frozenset())
        for node in nodes:
            names = [name for name in node.inputs if name]
            if not all(name in self.arrays for name in names) or not self._fold(b, node):
                left.append(node)
        return left

    def _fold(self, b: Builder, node: OnnxNode) -> bool:
        tensors = {name: Host(self.arrays[name], name, True) for name in node.inputs if name}
        try:
            results = self._convert(b, node, tensors)
        except (ClconvError, ImportError, *MISFITS):
            return False
        if not all(isinstance(r, Host) and r.static for r in results if r is not None):
            return False
        for name, result in zip(node.outputs, results, strict=False):
            if name and isinstance(result, Host):
                self.arrays[name] = result.array
        return True

    def _transposable(self) -> frozenset[str]:
        """Matrices that are read as (values, units) by matrix products alone."""
        found: set[str] = set()
        other: set[str] = set()
        for node in self.nodes:
            plain = node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB"))
            for i, name in enumerate(node.inputs):
                fits = plain and i == 1 and name in self.arrays and self.arrays[name].ndim == 2
                (found if fits and self.arrays[name].dtype == np.float32 else other).add(name)
        return frozenset(found - other - {port.name for port in self.model.outputs})

    def build(self, inputs: Mapping[str, Shape | Array], *, train: bool = False, first: str | None = None) -> Built:
        """The graph for inputs of known shape, or known altogether.

        Args:
            inputs: by name: a shape, for a float tensor that the host feeds, or an array.
            first: the input that the graph calls "x".

        Raises:
            NeedsConstant: an operator must know an input beforehand, of which only the shape was given.
            ModelFileError: operators whose arguments are not supported, all of them.
        """
        b = Builder(train=train, users=self.users, transposed=self.transposed)
        tensors: dict[str, Tensor] = {name: Host(array, name, True) for name, array in self.arrays.items()}
        for port in self.model.inputs:
            given = inputs[port.name]
            if isinstance(given, tuple):
                label = "x" if port.name == first else port.name
                value = b.graph.input(label, TensorSpec(given or (1,), layout="plain"))
                tensors[port.name] = Device(value, given, port.dtype, frozenset([port.name]))
            else:
                tensors[port.name] = Host(given, "", False)
        self._convert_all(b, tensors)
        return self._finish(b, tensors)

    def _convert_all(self, b: Builder, tensors: dict[str, Tensor]) -> None:
        problems: list[tuple[OnnxNode, str]] = []
        needs: list[NeedsConstant] = []
        for node in self.nodes:
            if any(name and name not in tensors for name in node.inputs):
                continue  # behind a node that failed
            b.label = node.label
            try:
                results = self._convert(b, node, tensors)
            except NeedsConstant as error:
                needs.append(error)
                problems.append((node, str(error)))
                continue
            except (Unsupported, ShapeError, ArgumentError, NotImplementedError, ImportError) as error:
                problems.append((node, str(error)))
                continue
            except MISFITS as error:
                problems.append((node, f"its inputs or attributes do not fit: {error}"))
                continue
            for name, result in zip(node.outputs, results, strict=False):
                if name and isinstance(result, Host) and not result.name:
                    result = replace(result, name=name)
                if name and result is not None:
                    tensors[name] = result
                    if isinstance(result, Device):
                        b.born.setdefault(result.value, name)
        if needs and len(needs) == len(problems) and all(error.roots for error in needs):
            raise NeedsConstant(str(needs[0]), frozenset().union(*(error.roots for error in needs)))
        if problems:
            raise ModelFileError(_listed(self.model, problems))

    def _convert(self, b: Builder, node: OnnxNode, tensors: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        inputs = [tensors[name] if name else None for name in node.inputs]
        op = Op(node, inputs, self.model.opsets.get(node.domain, self.model.opset))
        if node.op == "If":
            return self._taken(b, op, tensors)
        if node.op not in CONVERTERS:
            raise Unsupported("inside a condition")
        made = CONVERTERS[node.op](b, op)
        results = [made] if isinstance(made, Host | Device) else made
        if results and isinstance(results[0], Device):
            b.origin.setdefault(results[0].value, op)
        return results

    def _taken(self, b: Builder, op: Op, tensors: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        """The branch that a condition known beforehand takes, converted in place of its node."""
        branch = op.get("then_branch" if op.number(0, "condition") else "else_branch")
        if not isinstance(branch, Branch):
            raise Unsupported("it has no branch to take")
        inside = {**tensors, **{name: Host(array, "", False) for name, array in branch.arrays.items()}}
        for node in branch.nodes:
            made = self._convert(b, node, inside)
            inside.update({n: t for n, t in zip(node.outputs, made, strict=False) if n and t is not None})
        return [inside[name] for name in branch.outputs]

    def _finish(self, b: Builder, tensors: Mapping[str, Tensor]) -> Built:
        outputs, labels = {}, {}
        for i, port in enumerate(self.model.outputs):
            if port.name not in tensors:
                raise ModelFileError(f"{self.model.where}: output {port.name!r}: the node that makes it gives none")
            tensor = outputs[port.name] = tensors[port.name]
            if isinstance(tensor, Device):
                labels[port.name] = "y" if i == 0 else f"y:{port.name}"
                b.graph.outputs[labels[port.name]] = _computed(b, tensor.value)
        b.graph.prune()  # what only led to a composition that is one operator must not keep others from fusing
        return Built(b.graph, outputs, labels)


def _computed(b: Builder, value: Value) -> Value:
    """A value that a run makes: a copy of what is on the device before."""
    if not value.persistent:
        return value
    from .._core.plain_elementwise import Unary

    return b.add(Unary("identity"), value)


def check_operators(model: OnnxModel) -> None:
    """Raises ModelFileError that names all operators without a converter."""
    problems = [
        (node, "")
        for node in model.nodes
        if (node.op not in CONVERTERS and node.op != "If") or node.domain not in DOMAINS
    ]
    if problems:
        raise ModelFileError(_listed(model, problems))


def _listed(model: OnnxModel, problems: Sequence[tuple[OnnxNode, str]]) -> str:
    """What is not supported: operators with opset, count, first node and reason."""
    groups: dict[tuple[str, str, str], list[OnnxNode]] = {}
    for node, reason in problems:
        groups.setdefault((node.domain, node.op, reason), []).append(node)
    lines = []
    for (domain, op, reason), nodes in groups.items():
        version = model.opsets.get(domain if domain != "ai.onnx" else "", "?")
        name = f"{domain}.{op}" if domain else op
        why = f": {reason}" if reason else ""
        lines.append(f"{name} (opset {version}), {len(nodes)} times, first in node {nodes[0].label!r}{why}")
    return f"{model.where}: not supported:\n  " + "\n  ".join(lines)
