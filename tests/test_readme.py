"""What README and docs say: code runs, tables are right, nothing is forgotten."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import FACTS

from clconv import passes, report, settings
from clconv.cli import COMMANDS
from clconv.nn import LAYERS, zoo
from clconv.nn.pattern_words import usage
from clconv.plan import make_plan
from clconv.train.optimizers import SGD
from clconv.train.step import training_graph

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
MIB = 2**20


def blocks(text):
    """The Python code blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", *sorted(DOCS)])
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, code in enumerate(blocks(README if page == "README.md" else DOCS[page])):
        exec(compile(code, f"{page}, block {number + 1}", "exec"), names)
    if page == "README.md":
        assert "ran so far" in capsys.readouterr().out
        assert (tmp_path / "digits.safetensors").is_file()


def test_readme_has_the_two_commands():
    commands = dict(re.findall(r"^<!-- (\w+) -->\n```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL))
    assert list(commands) == ["demo", "tests"]
    assert all("\n" not in command for command in commands.values())


def memory_rows():
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in README.splitlines()
        if line.startswith("| ") and line.count("|") == 8 and not line.startswith("| network")
    ]


@pytest.mark.parametrize("row", memory_rows(), ids=lambda row: row[0])
def test_readme_tells_the_planned_memory(row):
    name, *figures = row
    network = getattr(zoo, name)()
    graph = network.graph(1, train=False)
    passes.for_inference(graph, FACTS.block)
    passes.fuse_pools(graph, FACTS)
    passes.fuse_inverted(graph, replace(FACTS, workers=1, compute_units=2))
    plan = make_plan(graph, FACTS)
    loss = "softmax" if network.flat_output else "mse"
    training = make_plan(training_graph(network, 32, loss, SGD(0.1, momentum=0.9)), FACTS)
    made = report.describe(network, [plan])
    sizes = (4 * made.activation_values, plan.arena_bytes, plan.weight_bytes, plan.peak_bytes, training.peak_bytes)
    told = [float(figure.replace(",", "")) for figure in figures]
    assert told[0] == made.parameters
    assert told[1:] == pytest.approx([size / MIB for size in sizes], rel=0.02, abs=0.05)


def test_links_lead_somewhere():
    for page, text in {"README.md": README, **{f"docs/{name}": text for name, text in DOCS.items()}}.items():
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), (page, target)


def test_every_layer_is_explained():
    missing = [
        kind for kind in LAYERS if f"`{kind}" not in DOCS["layers.md"] or f"`{usage(kind)}`" not in DOCS["layers.md"]
    ]
    assert missing == []


def test_every_command_and_variable_is_explained():
    assert [name for name in COMMANDS if f"clconv {name}" not in DOCS["cli.md"]] == []
    assert [name for name in settings.VARIABLES if f"`{name}`" not in DOCS["devices.md"]] == []
