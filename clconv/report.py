"""What a network takes, layer by layer: the table of the CS231n notes, beside what is planned and measured.

The notes count one volume of activations per convolution, pooling and fully-connected layer, four bytes per
value; what works in place (activations, batch normalisation, dropout) or only joins (concatenation) counts
nothing. For training they take the activations twice (their gradients) and the parameters three times (their
gradients, and momentum).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from . import passes
from ._core.layout import ToBlocks, ToPhases, ToPlain
from .device import DeviceFacts
from .engine import Usage
from .errors import ArgumentError, BudgetError, ModelFileError, ShapeError
from .graph import Node, Value
from .io.onnx_convert import Converter
from .io.onnx_file import OnnxModel
from .io.onnx_network import FREE_SIZE
from .io.onnx_values import NeedsConstant
from .nn.network import Entry, Network
from .packing import Array
from .passes.strides import PHASES
from .plan import Plan, make_plan
from .planner import format_bytes
from .pricing import plan_flops
from .relay import batch_of
from .tables import mega, mib, table
from .terms import DEFAULT, Terms

if TYPE_CHECKING:
    from .net import Net

TRANSFORMED = ".winograd"  # what the names of transformed weights end in
MODES = ("test", "train", "both")
IN_PLACE = ("ReLU", "LeakyReLU", "ReLU6", "Sigmoid", "Tanh", "BatchNorm", "Dropout", "Flatten", "Concat")


@dataclass(frozen=True)
class Row:
    """One layer of the user.

    Attributes:
        shape: (N, C, H, W) of the output. values: activations as the notes count them, for the whole batch.
        parameters: learnt values. macs: multiply-adds of one run, of layers with weights.
        algorithm: what computes it; "in conv1" where that layer does it on the way.
        workspace_bytes: extra memory while it runs. live_bytes: arena bytes alive then; None where it has
            no step of its own.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    values: int
    parameters: int
    macs: int
    algorithm: str
    workspace_bytes: int
    live_bytes: int | None


@dataclass(frozen=True)
class Total:
    """What one mode takes, as planned: floating-point operations, of a stage for more images its share, and bytes;
    `peak_bytes` is all together.

    Attributes:
        mapped_bytes: weights in a file, mapped or brought in parts, which `weight_bytes` and `peak_bytes` leave out.
        host_bytes: of activations that wait in host memory, which `arena_bytes` and `peak_bytes` leave out.
    """

    mode: str
    flops: int
    weight_bytes: int
    arena_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    mapped_bytes: int = 0
    host_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """A network's table.

    Attributes:
        batch: images. rows: the image and all layers; live bytes are those of the first of `totals`.
        totals: planned, for each mode asked for. usages: of runs so far, planned and measured.
        notes: why a mode is missing.
    """

    batch: int
    device: str
    rows: tuple[Row, ...]
    totals: tuple[Total, ...]
    usages: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def activation_values(self) -> int:
        """Activations of the forward pass, as the notes count them."""
        return sum(row.values for row in self.rows)

    @property
    def parameters(self) -> int:
        """Learnt values."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds of layers with weights, forward."""
        return sum(row.macs for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        sums = {"activation_values": self.activation_values, "parameters": self.parameters, "macs": self.macs}
        return {**asdict(self), **sums}

    def __str__(self) -> str:
        return "\n".join([*_layer_lines(self), "", *_total_lines(self), *_usage_lines(self), *self.notes])


def describe(
    network: Network, plans: Sequence[Plan], usages: Iterable[Usage] = (), notes: Iterable[str] = ()
) -> Report:
    """The report on a network from plans for one batch size; the first gives the figures of each layer.

    Args:
        plans: of test-time mode, of a training step, or both.
    """
    if not network.entries:
        return graph_report(plans, network.array_shapes(), usages, notes)
    plan = plans[0]
    batch = plan.graph.inputs["x"].spec.shape[0]
    shapes: dict[str, tuple[int, ...]] = {"input": (batch, *network.input_shape)}
    steps: dict[str, list[_Ran]] = {}
    for stage in plan.stages:
        for node, live in zip(stage.graph.nodes, stage.live_bytes, strict=True):
            steps.setdefault(node.name, []).append(_Ran(stage, node, live))
    rows = [Row("input", "Input", shapes["input"], math.prod(shapes["input"]), 0, 0, "", 0, None)]
    homes = {"input": "input"}
    for entry in network.entries:
        rows.append(_row(entry, shapes, steps.get(entry.name, []), homes))
        shapes[entry.name] = rows[-1].shape
    return Report(batch, plan.facts.name, tuple(rows), _totals(plans), tuple(usages), tuple(notes))


def graph_report(
    plans: Sequence[Plan],
    parameters: Mapping[str, tuple[int, ...]],
    usages: Iterable[Usage] = (),
    notes: Iterable[str] = (),
) -> Report:
    """The report on a network that has no layers of its own, operator by operator.

    Args:
        plans: as for `describe`. parameters: shapes of the learnt arrays by name.
    """
    plan = plans[0]
    inputs = plan.graph.inputs
    rows = [
        Row("input" if len(inputs) == 1 else name, "Input", v.spec.shape, math.prod(v.spec.shape), 0, 0, "", 0, None)
        for name, v in inputs.items()
    ]
    for stage in plan.stages:
        names = {v: name.removesuffix(TRANSFORMED).removesuffix(PHASES) for name, v in stage.graph.persistent.items()}
        sizes = {value: math.prod(parameters[name]) for value, name in names.items() if name in parameters}
        found = zip(stage.graph.nodes, stage.live_bytes, strict=True)
        rows += [_node_row(_Ran(stage, node, live), sizes) for node, live in found]
    batch = rows[0].shape[0]
    return Report(batch, plan.facts.name, tuple(rows), _totals(plans), tuple(usages), tuple(notes))


def model_report(model: OnnxModel, facts: DeviceFacts, batch: int = 1) -> Report:
    """The report on an ONNX model with any number of inputs, in test-time mode.

    Sizes that the file leaves open are `batch` in front, and 224 elsewhere.

    Raises:
        ModelFileError: something in the model is not supported, or its shapes depend on the values of an input.
    """
    converter = Converter(model)
    shapes: dict[str, tuple[int, ...] | Array] = {}
    for port in model.inputs:
        sizes = [dim if isinstance(dim, int) else FREE_SIZE for dim in port.dims or ()]
        free = bool(sizes) and not isinstance((port.dims or ())[0], int)
        shapes[port.name] = (batch, *sizes[1:]) if free else tuple(sizes)
    try:
        graph = converter.build(shapes).graph
    except NeedsConstant as error:
        raise ModelFileError(f"{model.where}: its sizes depend on the values of an input: {error}") from error
    passes.for_inference(graph, facts.block)
    parameters = {name: array.shape for name, array in model.arrays.items()}
    return graph_report([make_plan(graph, facts)], parameters)


def _totals(plans: Sequence[Plan]) -> tuple[Total, ...]:
    return tuple(
        Total(
            "train" if "hyper" in p.persistent else "test",
            sum(plan_flops(stage) * batch_of(p) // batch_of(stage) for stage in p.stages),
            p.weight_bytes,
            p.arena_bytes,
            p.optimizer_bytes,
            p.peak_bytes,
            p.mapped_bytes + p.streamed_bytes,
            p.host_bytes,
        )
        for p in plans
    )


class _Ran(NamedTuple):
    """A node, the plan that runs it, and the arena bytes alive then."""

    plan: Plan
    node: Node
    live: int

    @property
    def algorithm(self) -> str:
        """Its choice, and in how many strips or tiles it runs, where it does."""
        segment = self.plan.segment_of(self.node)
        return self.plan.choices[self.node].name + ("" if segment is None else f", {self.plan.cut(segment)}")


def _row(entry: Entry, shapes: dict[str, tuple[int, ...]], steps: list[_Ran], homes: dict[str, str]) -> Row:
    reference, arguments = entry.layer.reference, entry.layer.arguments
    inputs = [shapes[name] for name in entry.inputs]
    shape = reference.output_shape(arguments, inputs)
    parameters = reference.parameters(arguments, inputs)
    kind = type(entry.layer).__name__
    homes[entry.name] = entry.name if steps else homes[entry.inputs[0]]
    return Row(
        entry.name,
        kind,
        shape,
        0 if kind in IN_PLACE else math.prod(shape),
        sum(math.prod(p) for p in parameters.values()),
        _macs(kind, inputs, shape, parameters),
        _algorithm(kind, steps, homes[entry.name]),
        max((ran.plan.choices[ran.node].workspace_bytes for ran in steps), default=0),
        max((ran.live for ran in steps), default=None),
    )


def _node_row(ran: _Ran, sizes: Mapping[Value, int]) -> Row:
    """A row for one operator; `sizes`: learnt values by what holds them."""
    plan, node, live = ran
    y = node.outputs[0]
    stored = [value.parameter.public_shape for value in node.reads if value.parameter]
    weighted = any(len(shape) > 1 for shape in stored)
    return Row(
        node.name,
        node.layer.operator,
        y.spec.shape,
        math.prod(y.spec.shape),
        sum(sizes.get(value, 0) for value in node.reads),
        plan.costs[node].flops // 2 if weighted else 0,
        ran.algorithm,
        plan.choices[node].workspace_bytes,
        live,
    )


def _macs(
    kind: str, inputs: Sequence[tuple[int, ...]], shape: tuple[int, ...], parameters: dict[str, tuple[int, ...]]
) -> int:
    """Multiply-adds: every weight meets every output (or, transposed, every input) of its channel."""
    if kind not in ("Conv", "ConvTranspose", "FC", "Local"):
        return 0
    weights = math.prod(parameters["weight"])
    if kind == "Local":  # each place has weights of its own
        return weights * shape[0]
    n, _, h, w = inputs[0] if kind == "ConvTranspose" else shape
    return weights * n * h * w


def _algorithm(kind: str, steps: Sequence[_Ran], home: str) -> str:
    """The choice for the layer's own operator, or where its work is done instead."""
    own = [ran for ran in steps if type(ran.node.layer) not in (ToBlocks, ToPhases, ToPlain)]
    if own:
        return own[0].algorithm
    if steps:
        return "conversion"
    if kind == "Concat":
        return "by readers"
    if kind in ("Dropout", "Flatten"):
        return "nothing"
    return f"in {home}"


def report(
    net: Net,
    batch: int = 1,
    mode: str = "both",
    memory: str | int | None = None,
    *,
    terms: Terms = DEFAULT,
    bn: str | None = None,
) -> Report:
    """The report on a network for `batch` images, with what its runs have measured; nothing is allocated.

    Args:
        mode: "test", "train" or "both"; the figures of single layers are test-time mode's unless "train".
        memory, bn: as for `Net.plan`. terms: of test-time mode, and in training its storage. In "both", training that
            does not fit is a note.

    Raises:
        ArgumentError: another mode or batch. BudgetError: it does not fit.
    """
    if mode not in MODES:
        raise ArgumentError(f"summary: mode {mode!r} is not one of {', '.join(MODES)}")
    if mode == "train":
        terms.for_training("summary")
    plans, notes = [], []
    if mode != "train":
        plans.append(net.plan(batch, "test", memory, **asdict(terms)))
    if mode != "test":
        try:
            plans.append(training_plan(net, batch, memory, bn, terms.storage))
        except (ArgumentError, BudgetError, ModelFileError, ShapeError) as error:
            if mode == "train":
                raise
            notes.append(f"training mode: {error}")
    return describe(net.network, plans, net.usages, notes)


def training_plan(
    net: Net, batch: int, memory: str | int | None = None, bn: str | None = None, storage: str | None = None
) -> Plan:
    """The plan of a training step with the loss that goes with the network's output."""
    loss = "softmax" if net.network.flat_output else "mse"
    return net.plan(batch, "train", memory, loss=loss, bn=bn, storage=storage)


def plan_table(plan: Plan) -> str:
    """A plan step by step: what runs, on what, where its output lies, and the bytes alive; stage by stage."""
    places = {
        value: placement
        for stage in plan.stages
        for interval, placement in zip(stage.intervals, stage.arena.placements, strict=True)
        for value in interval.values
    }
    lines = []
    ran = [each for stage in plan.stages for each in zip(repeat(stage), stage.graph.nodes, stage.live_bytes)]
    for step, (stage, node, live) in enumerate(ran):
        choice, cost = stage.choices[node], stage.costs[node]
        where = [f"{places[v].slab}:{places[v].offset}" if v in places else "tiles" for v in node.outputs[:1]]
        more = f" +{len(node.outputs) - 1}" if len(node.outputs) > 1 else ""
        lines.append(
            (
                str(step),
                node.name,
                node.layer.operator,
                choice.name,
                " ".join(str(value.spec) for value in node.outputs[:1]) + more,
                *(where or [""]),
                mega(cost.flops),
                mib(choice.workspace_bytes),
                mib(live),
            )
        )
    header = ("step", "layer", "operator", "algorithm", "output", "slab:byte", "MFLOP", "work MiB", "live MiB")
    return "\n".join(
        [
            *table(header, lines, right=(0, 5, 6, 7, 8), flexible=(1, 2, 4)),
            "",
            f"weights {format_bytes(plan.weight_bytes)}, arena {format_bytes(plan.arena_bytes)}, optimizer state "
            f"{format_bytes(plan.optimizer_bytes)}, peak {plan.peak_bytes} bytes ({format_bytes(plan.peak_bytes)})",
        ]
    )


def _layer_lines(report: Report) -> list[str]:
    cells = [
        (
            row.name,
            row.kind,
            "x".join(map(str, row.shape[1:])),
            f"{row.values:,}" if row.values else "",
            mib(4 * row.values) if row.values else "",
            f"{row.parameters:,}" if row.parameters else "",
            mega(row.macs) if row.macs else "",
            row.algorithm,
            mib(row.workspace_bytes) if row.workspace_bytes else "",
            mib(row.live_bytes) if row.live_bytes is not None else "",
        )
        for row in report.rows
    ]
    header = ("layer", "kind", "output", "values", "MiB", "parameters", "MMAC", "algorithm", "work MiB", "live MiB")
    return table(header, cells, right=(3, 4, 5, 6, 8, 9), flexible=(0, 7))


def _total_lines(report: Report) -> list[str]:
    images = "1 image" if report.batch == 1 else f"{report.batch} images"
    cells = [
        (
            "test-time mode" if t.mode == "test" else "training, with momentum",
            *(mib(n) for n in (t.weight_bytes, t.arena_bytes, t.optimizer_bytes, t.peak_bytes)),
            f"{t.flops / 1e9:.3f}",
            mib(t.mapped_bytes) if t.mapped_bytes else "",
            mib(t.host_bytes) if t.host_bytes else "",
        )
        for t in report.totals
    ]
    values, parameters = report.activation_values, report.parameters
    for name, amounts in (
        ("forward", (4 * parameters, 4 * values, None, 4 * (parameters + values))),
        ("training", (4 * parameters, 8 * values, 8 * parameters, 4 * (3 * parameters + 2 * values))),
    ):
        figures = ("" if amount is None else mib(amount) for amount in amounts)
        cells.append((f"CS231n's count, {name}", *figures, "", "", ""))
    optional = ["weights in a file", "in the host"]
    header = [f"{images}, MiB", "weights", "activations", "optimizer", "total", "GFLOP", *optional]
    always = len(header) - len(optional)
    shown = [i for i in range(len(header)) if i < always or any(row[i] for row in cells)]
    return [
        *table([header[i] for i in shown], [[row[i] for i in shown] for row in cells], right=range(1, len(shown))),
        "",
        f"activations {values:,} values = {4 * values / 1e6:,.2f} MB, parameters {parameters:,} = "
        f"{4 * parameters / 1e6:,.2f} MB, {report.macs / 1e9:.3f} GMAC on {report.device}",
    ]


def _usage_lines(report: Report) -> list[str]:
    if not report.usages:
        return []
    cells = [
        (
            "test-time mode" if u.mode == "test" else "training",
            str(u.batch),
            str(u.planned_bytes),
            str(u.measured_bytes),
        )
        for u in report.usages
    ]
    return ["", *table(("ran so far", "images", "planned bytes", "measured bytes"), cells, right=(1, 2, 3))]
