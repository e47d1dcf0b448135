"""Tuned choices: stored by device and driver, used by planning, never in its way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import clconv as cc
from clconv import tuned
from clconv._core.layer import Choice
from clconv.device import Device
from clconv.errors import ModelFileError
from clconv.graph import Node
from clconv.plan import Plan
from clconv.tuned import Entry


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.setenv("CLCONV_TUNING", "1")
    yield tmp_path / "tuned"
    tuned._read.clear()


def planned(device: Device) -> tuple[Plan, Node]:
    with cc.Net("INPUT 21x21x8 -> CONV 3x3x24/2 p1 -> RELU -> FC 4", device=device) as net:
        plan = net.plan(2)
    return plan, next(node for node in plan.graph.nodes if type(node.layer).__name__ == "Conv2d")


def offered(device: Device, node: Node) -> tuple[str, list[Choice]]:
    specs, outs = node.input_specs(), [value.spec for value in node.outputs]
    return tuned.shape_class(node.layer, specs, outs), node.layer.choices(device.facts, specs, outs)


def tune_last(device: Device) -> tuple[str, Choice]:
    """Makes the last of the convolution's choices the tuned one."""
    name, choices = offered(device, planned(device)[1])
    assert len(choices) > 1
    tuned.store(device.facts, {name: Entry(choices[-1].name, dict(choices[-1].tiles), 1.5)})
    return name, choices[-1]


def test_planning_follows_what_was_measured(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, node = planned(device)
    default = plan.choices[node]
    name, wanted = tune_last(device)
    plan, node = planned(device)
    assert plan.choices[node] == wanted != default
    assert list(json.loads(tuned.file(device.facts).read_text())["entries"]) == [name]
    monkeypatch.setenv("CLCONV_TUNING", "0")
    plan, node = planned(device)
    assert plan.choices[node] == default


def test_a_class_knows_shapes_and_settings_but_no_activation(device: Device) -> None:
    _, node = planned(device)
    specs, outs = node.input_specs(), [value.spec for value in node.outputs]
    name = tuned.shape_class(node.layer, specs, outs)
    assert "Conv2d(" in name and "stride=(2,2)" in name and "24x8x3x3:filter" in name and "2x24x11x11:" in name
    other = node.layer.with_(activation="tanh")
    assert tuned.shape_class(other, specs, outs) == name
    assert tuned.shape_class(node.layer, [specs[0], specs[1], None], outs) != name
    assert specs[1] is not None
    assert tuned.shape_class(node.layer, [specs[0], replace(specs[1], groups=2), specs[2]], outs) != name


def test_entries_add_up_and_the_last_counts(device: Device) -> None:
    for gain in (1.2, 1.4):
        tuned.store(device.facts, {"a": Entry("direct", {"WT": 1}, gain)})
    tuned.store(device.facts, {"b": Entry("direct", {"WT": 2}, 1.0)})
    assert {name: entry.gain for name, entry in tuned.entries(device.facts).items()} == {"a": 1.4, "b": 1.0}


def test_a_choice_that_is_not_offered_any_more_is_none(device: Device) -> None:
    name, choices = offered(device, planned(device)[1])
    for entry in (Entry("forgotten", {}, 2.0), Entry(choices[0].name, {"WT": 1000}, 2.0)):
        tuned.store(device.facts, {name: entry})
        plan, node = planned(device)
        assert plan.choices[node] == choices[0]


DAMAGE: list[tuple[Any, str]] = [
    ("", "Expecting value"),
    ("[]", "list indices"),
    ({"format": "something else"}, "its format is 'something else'"),
    ({"device": "another driver"}, "it is for another driver"),
    ({"entries": {"a": {"algorithm": "direct"}}}, "KeyError: 'tiles'"),
    ({"entries": {"a": {"algorithm": "direct", "tiles": {"WT": "wide"}, "gain": 1, "tried": 1}}}, "invalid literal"),
    ({"entries": [1]}, "AttributeError"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE, ids=[reason for _, reason in DAMAGE])
def test_a_file_that_cannot_be_used_is_ignored_once_with_a_warning(device: Device, damage: Any, reason: str) -> None:
    default = planned(device)[0]
    tune_last(device)
    path = tuned.file(device.facts)
    content = json.loads(path.read_text())
    path.write_text(damage if isinstance(damage, str) else json.dumps({**content, **damage}))
    with pytest.warns(UserWarning, match="is ignored") as caught:
        plan, _ = planned(device)
    assert len(caught) == 1 and reason in str(caught[0].message) and str(path) in str(caught[0].message)
    assert list(plan.choices.values()) == list(default.choices.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned(device)
        name, wanted = tune_last(device)
        assert tuned.entries(device.facts)[name].fits(wanted), "it is replaced"


def test_of_another_version_nothing_is_taken(device: Device) -> None:
    tune_last(device)
    path = tuned.file(device.facts)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0.0.1"}))
    assert tuned.entries(device.facts) == {}


def test_what_is_shipped_holds_where_nothing_else_was_measured(
    device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "measured")
    name, wanted = tune_last(device)
    content = json.loads(tuned.file(device.facts).read_text())
    folder.rename(tuned.SHIPPED)
    shipped = tuned.SHIPPED / tuned.file(device.facts).name
    shipped.write_text(json.dumps({**content, "version": "as it was then"}))
    plan, node = planned(device)
    assert plan.choices[node] == wanted and tuned.own_entries(device.facts) == {}
    assert tuned.entries(replace(device.facts, driver_version="next")) == {}
    first = offered(device, node)[1][0]
    tuned.store(device.facts, {name: Entry(first.name, dict(first.tiles), 1.0)})
    plan, node = planned(device)
    assert plan.choices[node] == first


def test_another_driver_has_a_file_of_its_own(device: Device) -> None:
    tune_last(device)
    assert tuned.entries(replace(device.facts, driver_version="next")) == {}


def test_a_folder_that_cannot_be_written_is_said(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelFileError, match="tuning: .* cannot be written"):
        tuned.store(device.facts, {})
