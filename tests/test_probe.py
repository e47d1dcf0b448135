"""Probes that work, fail, crash and hang; verdicts that are kept, expire and get damaged."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clconv import probe
from clconv.device import Device
from clconv.errors import ArgumentError

SUBJECT = probe.Subject("P", "1.2", 0, "d", "7")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_probe_that_works() -> None:
    assert probe.run(python("print('fine')"), 60) == probe.Verdict(True)


@pytest.mark.parametrize(
    "code, reason",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"its driver crashed \(SIGSEGV\)"),
        ("import sys; sys.exit('it computes wrong results')", "it computes wrong results"),
        ("raise RuntimeError('unknown target CPU')", "RuntimeError: unknown target CPU"),
        ("raise SystemExit(7)", "its probe ended with code 7"),
    ],
)
def test_probe_that_fails(code: str, reason: str) -> None:
    found = probe.run(python(code), 60)
    assert not found.works
    assert re.fullmatch(reason, found.reason), found.reason


def test_probe_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(pids)!r} + ".new", "w").write(f"{{os.getpid()}} {{child.pid}}")
        os.rename({str(pids)!r} + ".new", {str(pids)!r})
        time.sleep(600)
    """
    start = time.monotonic()
    found = probe.run(python(code), 3)
    assert found == probe.Verdict(False, "its probe did not end within 3 s")
    assert time.monotonic() - start < 30
    if pids.exists():
        for pid in map(int, pids.read_text().split()):
            assert _ended(pid)


def _ended(pid: int) -> bool:
    """Whether a process is gone or a zombie, waiting a moment for it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_probe_that_cannot_start() -> None:
    found = probe.run(["/nonexistent/python"], 1)
    assert not found.works and "could not be started" in found.reason


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_probe_limit_is_checked(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CLCONV_PROBE_S", text)
    with pytest.raises(ArgumentError, match=f"CLCONV_PROBE_S: '{text}' is not a positive number of seconds"):
        probe.limit_s()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[probe.Verdict]:
    """Verdicts that the next probes give, last first; empty: a probe is an error."""
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    answers: list[probe.Verdict] = []
    monkeypatch.setattr(probe, "run", lambda arguments, limit: answers.pop())
    return answers


def test_verdicts_are_kept(runs: list[probe.Verdict]) -> None:
    runs.append(probe.Verdict(True))
    assert probe.verdict(SUBJECT).works
    assert probe.verdict(SUBJECT).works, "from the cache"
    runs.append(probe.Verdict(False, "newer driver"))
    assert not probe.verdict(probe.Subject("P", "1.2", 0, "d", "8")).works
    assert probe.verdict(SUBJECT).works
    runs.append(probe.Verdict(False, "again"))
    assert probe.verdict(SUBJECT, fresh=True).reason == "again"


def test_failures_are_tried_again_after_a_day(runs: list[probe.Verdict], tmp_path: Path) -> None:
    runs.append(probe.Verdict(False, "hangs"))
    assert probe.verdict(SUBJECT).reason == "hangs"
    assert probe.verdict(SUBJECT).reason == "hangs"
    file = tmp_path / "verdicts.json"
    content = json.loads(file.read_text())
    content[SUBJECT.key]["time"] -= probe.RETRY_S + 1
    file.write_text(json.dumps(content))
    runs.append(probe.Verdict(True))
    assert probe.verdict(SUBJECT).works


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"P | 1.2 | d | 7": 3}', b'{"P | 1.2 | d | 7": {"works": "yes"}}'],
)
def test_damaged_verdicts_are_replaced(runs: list[probe.Verdict], tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "verdicts.json").write_bytes(damage)
    runs.append(probe.Verdict(True))
    assert probe.verdict(SUBJECT).works
    assert json.loads((tmp_path / "verdicts.json").read_text())[SUBJECT.key]["works"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["verdicts.json"]


def test_cache_folder_that_cannot_be_made(
    runs: list[probe.Verdict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "file" / "cache"))
    runs.extend([probe.Verdict(True), probe.Verdict(True)])
    assert probe.verdict(SUBJECT).works and probe.verdict(SUBJECT).works
    assert not runs


def test_real_probe_finds_a_wrong_platform(device: Device) -> None:
    found = probe.run(probe.command(probe.Subject("No such platform", "1", 0, "d", "1")), 120)
    assert found == probe.Verdict(False, "the platform is not there in a new process")


def test_real_probe_of_a_driver_that_cannot_build(device: Device) -> None:
    facts, index = device.facts, int(device.key.split(":")[1])
    subject = probe.Subject(facts.platform_name, facts.platform_version, index, facts.name, facts.driver_version)
    spoilt = [word.replace("fma(", "no_such_function(") for word in probe.command(subject)]
    found = probe.run(spoilt, 120)
    assert not found.works and found.reason
    wrong = [word.replace("4 * x", "5 * x") for word in probe.command(subject)]
    assert probe.run(wrong, 120) == probe.Verdict(False, "it computes wrong results")
