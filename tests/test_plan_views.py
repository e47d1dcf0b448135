"""What people see of a plan: live bytes over its steps, why it is as it is, pictures and traces of it."""

import json

import pytest
from helpers import least, run
from PIL import Image

import clconv as cc
from clconv.errors import ArgumentError
from clconv.explain import explain, step_seconds
from clconv.plots import plot_plan
from clconv.pricing import step_cost
from clconv.tables import table
from clconv.timeline import timeline, trace

PATTERN = "INPUT 64x64x3 -> [[CONV 3x3x32 -> RELU]*2 -> POOL]*2 -> FC 10"
PHOTO = "INPUT 64x64x3 -> [CONV 3x3x32 -> RELU]*4 -> CONV 3x3x3"


@pytest.fixture(scope="module")
def net():
    with cc.Net(PATTERN) as made:
        yield made


@pytest.mark.parametrize("how", [{}, {"memory": "least"}, {"batch": 8, "mode": "train"}])
def test_a_timeline_adds_up(net, how):
    if how.get("memory"):
        how = {"memory": least(net)}
    plan = net.plan(**how)
    line = timeline(plan)
    assert line.totals == [plan.residence.nbytes() + live for live in plan.step_bytes]
    assert line.transient == plan.step_bytes
    assert len(line.labels) == len(plan.schedule.steps) == len(line.places) - 1
    assert list(line.places) == sorted(line.places) and line.places[-1] == len(plan.graph.nodes)
    assert line.held_bytes == plan.peak_bytes >= max(line.totals)
    assert line.mapped_bytes == plan.mapped_bytes


def test_gradients_are_told_from_activations(net):
    line = timeline(net.plan(8, "train"))
    first = next(i for i, nbytes in enumerate(line.bytes["gradients"]) if nbytes)
    assert line.labels[first] in ("loss", "fc1") and first > line.labels.index("fc1")
    assert not any(line.bytes["gradients"][:first]) and all(line.bytes["weights"])
    assert "gradients" not in timeline(net.plan(8)).bytes


def test_an_explanation_is_of_all_steps():
    with cc.Net(PHOTO) as net:
        unlimited, plan = net.plan(), net.plan(memory=least(net))
    assert plan.segments
    told = explain(plan, unlimited)
    assert sum(part.steps for part in told.parts) == len(plan.schedule.steps)
    assert any("strips of" in part.how or "tiles of" in part.how for part in told.parts)
    # Strips compute each row once, tiles some columns again; weights are read again.
    assert told.flops >= told.unlimited_flops == plan.flops
    assert sum(step_cost(plan, s).traffic_bytes for s in plan.schedule.steps) > sum(
        cost.traffic_bytes for cost in unlimited.costs.values()
    )
    assert told.ratio > 1
    same = explain(unlimited, unlimited)
    assert same.ratio == pytest.approx(1) and [part.how for part in same.parts] == ["whole"]
    assert " of " in str(told) and max(map(len, str(told).splitlines())) <= 110


def test_an_explanation_of_parts_of_a_batch(net):
    unlimited = net.plan(32, "train")
    plan = net.plan(32, "train", memory=unlimited.peak_bytes // 4)
    told = explain(plan, unlimited, "train", 32)
    assert told.told == plan.told != ()
    images = plan.graph.inputs["x"].spec.shape[0]
    assert told.runs == 32 / images and told.flops >= told.unlimited_flops


def test_a_training_step_is_told_in_stretches():
    with cc.Net("INPUT 32x32x3 -> [CONV 3x3x16 -> BN -> RELU]*6 -> FC 10") as net:
        unlimited = net.plan(16, "train")
        whole = explain(unlimited, unlimited, "train", 16)
        plan = net.plan(16, "train", memory=int(0.7 * unlimited.peak_bytes))
        told = explain(plan, unlimited, "train", 16)
    assert (whole.parts[0].span, whole.parts[0].how) == ("conv1 .. fc1", "forward")
    assert [part.how for part in whole.parts] == ["forward", "backward"]
    assert [part.ratio for part in whole.parts] == pytest.approx([1, 1])
    assert [part.how for part in told.parts][:2] == ["forward", "backward"]
    assert {part.how for part in told.parts[2:]} == {"again, backward"}
    assert all(part.ratio > 1.1 for part in told.parts[2:]) and told.parts[0].ratio == pytest.approx(1, rel=0.1)
    assert sum(part.steps for part in told.parts) == len(plan.schedule.steps) > len(unlimited.schedule.steps)
    text = str(told)
    assert text.count("modelled time") == 1 and "is computed again, in" in text
    assert max(map(len, text.splitlines())) <= 110


def test_spans_of_long_names_keep_both_ends():
    rows = [("features.3.conv.0.0 .. features.12.conv.2", "x" * 90)]
    line = table(("layers", "how"), rows, right=(), flexible=(0,))[-1]
    assert len(line) == 110 and line.startswith("…nv.0.0 .. ….conv.2 x")


def test_traces_count_what_is_alive(net):
    plan = net.plan(memory=least(net))
    made = trace(plan, "a network", step_seconds(plan))
    counters = [event["args"] for event in made["traceEvents"] if event["ph"] == "C"]
    assert [sum(amounts.values()) for amounts in counters] == timeline(plan).totals
    times = [event["ts"] for event in made["traceEvents"] if event["ph"] == "X"]
    assert times == sorted(times) and len(times) == len(plan.schedule.steps)


def colours(path):
    return {rgb for _, rgb in Image.open(path).convert("RGB").getcolors(1 << 24)}


def test_pictures_show_kinds_budget_and_what_would_be(net, tmp_path):
    pytest.importorskip("matplotlib")
    plan = net.plan(memory=least(net))
    plot_plan(plan, tmp_path / "plan.png", budget=least(net), unlimited=net.plan(), title="a network")
    seen = colours(tmp_path / "plan.png")
    green, grey, red = (0x55, 0xA8, 0x68), (0xD9, 0xD9, 0xD9), (0xC4, 0x4E, 0x52)
    assert {green, grey, red} <= seen
    plot_plan(net.plan(8, "train"), tmp_path / "train.svg")
    assert (tmp_path / "train.svg").read_text().startswith("<?xml")
    with pytest.raises(ArgumentError, match=r"plan.abc: the ending .abc names no picture format; .png or .svg would"):
        plot_plan(plan, tmp_path / "plan.abc")


def test_summary_shows_the_plan_for_a_budget(net, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    low = least(net)
    result = run("summary", PATTERN, "--memory", str(low), "--explain", "--plot", str(tmp_path / "a.png"),
                 "--trace", str(tmp_path / "a.json"))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert ("strips" in result.stdout or "tiles" in result.stdout) and "without a limit" in result.stdout
    assert "training mode: fit: training on batches of 1 does not fit" in result.stdout
    assert "test-time mode takes" in result.stderr
    assert (tmp_path / "a.png").is_file() and json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    content = json.loads(run("summary", PATTERN, "--mode", "test", "--memory", str(low), "--explain", "--json").stdout)
    assert content["totals"][0]["peak_bytes"] == low and content["plans"][0]["peak_bytes"] == low
    monkeypatch.setenv("CLCONV_MEMORY", str(low))
    assert json.loads(run("summary", PATTERN, "--mode", "test", "--json").stdout)["totals"][0]["peak_bytes"] == low
    result = run("summary", PATTERN, "--mode", "test", "--memory", str(low - 64))
    assert result.exit_code == 2 and f"at least {low} bytes" in result.output
    result = run("summary", PATTERN, "--mode", "train", "--memory", str(low))
    assert result.exit_code == 2 and "Nothing was allocated" in result.output
    for option, name in (("--plot", "b.png"), ("--trace", "b.json")):
        result = run("summary", PATTERN, option, str(tmp_path / "a.json" / name))
        assert result.exit_code == 2 and "cannot be written" in result.output
    result = run("summary", PATTERN, "--trace", "b.png")
    assert result.exit_code == 2 and "a timeline is a .json file; b.json would fit" in result.output
