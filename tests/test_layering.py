"""The house: imports point down the floors; the files of a layer exist and agree."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import clconv as cc
from clconv import reference
from clconv.device import choose
from clconv.nn.base import LAYERS
from clconv.program import ProgramKey, build_programs

ROOT = Path(__file__).parent.parent

# Top level modules of clconv by floor; a module imports only from its own floor upwards in this list.
FLOORS = [
    ["errors"],
    ["files", "recent", "settings", "shapes", "tables", "terms"],
    ["tuning", "packing", "tuned"],
    ["probe"],
    ["drivers"],
    ["device"],
    ["program"],
    ["reference"],
    ["_core"],
    ["joined"],
    ["joining"],
    ["graph"],
    ["autodiff"],
    ["passes", "planner"],
    ["plan"],
    ["storing"],
    ["mapped"],
    ["engine", "fitting", "limits", "pricing"],
    ["relay", "waiting"],
    ["nn"],
    ["data", "io"],
    ["train"],
    ["finetune", "inputs", "inference", "training"],
    ["timeline"],
    ["report", "gradcheck", "plots", "bench"],
    ["explain"],
    ["net"],
    ["zoo", "selftest", "onnx_backend", "fits"],
    ["trial"],
    ["tune"],
    ["cli"],
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def modules():
    for path in sorted((ROOT / "clconv").rglob("*.py")):
        parts = path.relative_to(ROOT / "clconv").with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield path, parts


def imported(path, parts):
    """Top level modules of clconv that a file imports when it is loaded, with the line."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in typing_only:
            continue
        package = list(parts[:-1])
        if node.level:
            base = package[: len(package) - node.level + 1]
            target = base + (node.module.split(".") if node.module else [])
        elif node.module and node.module.split(".")[0] == "clconv":
            target = node.module.split(".")[1:]
        else:
            continue
        names = [target[0]] if target else [alias.name for alias in node.names]
        for name in names:
            if name in FLOOR:
                yield name, node.lineno


def test_every_module_has_a_floor():
    assert {parts[0] for _, parts in modules()} <= set(FLOOR)


@pytest.mark.parametrize("path, parts", list(modules()), ids=lambda v: "/".join(v) if isinstance(v, tuple) else "")
def test_imports_point_down(path, parts):
    own = FLOOR[parts[0]]
    for name, line in imported(path, parts):
        assert FLOOR[name] <= own, f"{path.name}:{line} imports {name}, which is a floor above {parts[0]}"


def test_the_architecture_page_has_the_same_floors():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = [line.split("|")[2] for line in page[page.index("| floor |") :].splitlines() if line.startswith("| ")][1:]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert told == [name for floor in FLOORS for name in floor]


def test_public_names_are_sorted_and_complete():
    assert list(cc.__all__) == sorted(cc.__all__)
    assert set(LAYERS) <= set(cc.__all__)
    assert all(hasattr(cc, name) for name in cc.__all__)


def test_every_layer_has_reference_cases_and_refusals():
    assert set(LAYERS) == set(reference.LAYERS)
    assert {case.layer for case in reference.CASES} == set(LAYERS)
    assert {refusal.layer for refusal in reference.REFUSED} == set(LAYERS)


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_arguments_agree_with_the_reference(layer):
    """Same names and defaults as the specification."""
    fields = {f.name: f.default for f in dataclasses.fields(LAYERS[layer]) if f.name != "name"}
    spec = reference.LAYERS[layer]
    assert set(fields) == {*spec.required, *spec.defaults}
    assert all(fields[name] == default for name, default in spec.defaults.items())


def test_the_stem_names_a_layer_everywhere():
    stems = {Path(LAYERS[name].__module__.replace(".", "/")).name for name in LAYERS}
    for stem in stems:
        assert (ROOT / "clconv" / "reference" / f"{stem}.py").exists() or stem == "softmax", stem
        assert list((ROOT / "cl").glob(f"{stem}*.cl")), stem
        assert (ROOT / "pyx" / f"{stem}.pyx").exists(), stem


@pytest.mark.parametrize("path", sorted((ROOT / "cl").glob("*.cl")), ids=lambda p: p.name)
def test_kernel_files_introduce_themselves(path):
    text = path.read_text()
    assert text.startswith(f"// {path.name} -- "), "the first line names the file and says what it computes"
    header, *_ = re.findall(r'#include "([^"]+)"', text)
    while header != "common.h":
        header, *_ = re.findall(r'#include "([^"]+)"', (path.parent / header).read_text())
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("block", [8, 1])
def test_every_kernel_file_compiles_alone(block, monkeypatch):
    """With its defaults alone, on the default device."""
    monkeypatch.setenv("CLCONV_BLOCK", str(block))
    device = choose(choose().key)
    build_programs(device, [ProgramKey(path.name) for path in (ROOT / "cl").glob("*.cl")])


@pytest.mark.parametrize("folder", ["cl", "pyx", "clconv/_core"])
def test_lines_have_at_most_120_columns(folder):
    """Of what ruff does not read."""
    long = [
        f"{path.name}:{number}"
        for suffix in ("cl", "h", "pyx", "pxd", "pyi")
        for path in (ROOT / folder).glob(f"*.{suffix}")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert not long


# Longer than the budget, and why.
LONGER = {
    "plain_move.pyx": 460,  # ten small operators around one copy kernel
    "net.py": 520,  # the face over everything: mostly docstrings of arguments
}


@pytest.mark.parametrize("path", sorted((ROOT / "pyx").glob("*.pyx")), ids=lambda p: p.name)
def test_budgets_of_layers(path):
    assert len(path.read_text().splitlines()) <= LONGER.get(path.name, 300)
    assert (ROOT / "clconv" / "_core" / f"{path.stem}.pyi").exists(), "a stub types it"


@pytest.mark.parametrize("path, parts", list(modules()), ids=lambda v: "/".join(v) if isinstance(v, tuple) else "")
def test_budgets_of_modules(path, parts):
    assert len(path.read_text().splitlines()) <= LONGER.get(path.name, 450)


def test_gradients_read_only_what_layers_keep():
    """`keeps` is true: nothing else of the forward pass reaches the nodes of a gradient."""
    from clconv.autodiff import differentiate
    from clconv.graph import Graph
    from clconv.shapes import TensorSpec

    for case in reference.CASES:
        graph = Graph()
        xs = [graph.input(f"x{i}", TensorSpec(shape, layout="plain")) for i, shape in enumerate(case.shapes)]
        y = LAYERS[case.layer](**case.attrs).apply(graph, "layer", *xs, train=True)
        forward = list(graph.nodes)
        dy = graph.input("dy", TensorSpec(y.spec.shape, layout="plain"))
        params = [v for v in graph.persistent.values() if v.role == "param"]
        differentiate(graph, {y: dy}, [*xs, *params])
        kept = {dy, *(v for v in graph.persistent.values() if v.role == "control")}
        for node in forward:
            named = dict(zip((*node.layer.inputs, *node.layer.outputs), (*node.inputs, *node.outputs), strict=True))
            kept.update(named[name] for name in node.layer.keeps)
        made = set()
        for node in graph.nodes[len(forward) :]:
            made.update(node.outputs)
            assert set(node.reads) <= kept | made, f"{case}: {node} reads {set(node.reads) - kept - made}"
