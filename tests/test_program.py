"""Programs: sources with includes, definitions, the compiler's log, and a cache that damage cannot break."""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clconv import drivers, program
from clconv.device import Device
from clconv.errors import BuildError
from clconv.program import ProgramKey, build_programs

REAL_FOLDER = program.folder
COMMON = "#define TWO 2\ntypedef float real;\n"
FILL = """// fill.cl
#include "common.h"
  #  include "common.h"
__kernel void fill(__global real *x) { x[get_global_id(0)] = TWO * B + PLUS; }
"""
BROKEN = '#include "common.h"\n\n__kernel void broken(__global real *x) { x[0] = no_such_name; }\n'
NOISY = '#include "common.h"\n__kernel void noisy(__global real *x) { int unused; x[0] = TWO; }\n'


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder of kernels and a cache folder of the test's own; nothing built yet."""
    folder = tmp_path / "cl"
    folder.mkdir()
    for name, text in {"common.h": COMMON, "fill.cl": FILL, "broken.cl": BROKEN, "noisy.cl": NOISY}.items():
        (folder / name).write_text(text)
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    monkeypatch.setattr(program, "folder", lambda: folder)
    yield folder
    program.source.cache_clear()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process would not have."""
    program.source.cache_clear()
    monkeypatch.setattr(program, "_built", type(program._built)())


def fill(device: Device, built: object) -> float:
    """Runs fill.cl's kernel; the value that it writes."""
    cl = drivers.opencl()
    x = np.zeros(4, np.float32)
    buffer = cl.Buffer(device.context, cl.mem_flags.READ_WRITE, x.nbytes)
    cl.Kernel(built, "fill")(device.queue, x.shape, None, buffer)
    cl.enqueue_copy(device.queue, x, buffer)
    assert (x == x[0]).all()
    return float(x[0])


def entries() -> list[Path]:
    return sorted(program._folder().iterdir())


def keep_programs(device: Device, monkeypatch: pytest.MonkeyPatch, *, driver: bool = False) -> None:
    """Whoever keeps a device's compiled programs otherwise, now it is the driver or else clconv."""
    monkeypatch.setattr(device, "facts", replace(device.facts, keeps_programs=driver))


def test_includes_are_inlined_once_and_lines_attributed() -> None:
    lines = program.source("fill.cl").splitlines()
    assert lines == [
        '#line 1 "cl/fill.cl"',
        "// fill.cl",
        '#line 1 "cl/common.h"',
        "#define TWO 2",
        "typedef float real;",
        '#line 3 "cl/fill.cl"',
        '#line 4 "cl/fill.cl"',
        "__kernel void fill(__global real *x) { x[get_global_id(0)] = TWO * B + PLUS; }",
    ]


def test_key_ignores_the_order_of_definitions() -> None:
    assert ProgramKey.of("a.cl", {"X": 1, "A": "2.0f"}) == ProgramKey.of("a.cl", {"A": "2.0f", "X": "1"})
    assert str(ProgramKey.of("a.cl", {"X": 1, "A": 2})) == "a.cl A=2 X=1"


def test_real_sources_are_found() -> None:
    assert REAL_FOLDER().joinpath("common.h").is_file()


def test_build_and_run(device: Device) -> None:
    keys = [ProgramKey.of("fill.cl", {"PLUS": n}) for n in (0, 1, 2, 1)]
    told: list[tuple[int, int]] = []
    built = build_programs(device, keys, lambda done, total: told.append((done, total)))
    assert [fill(device, built[key]) for key in keys] == [2 * device.facts.block + n for n in (0, 1, 2, 1)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    again = build_programs(device, keys, lambda done, total: told.append((done, total)))
    assert len(told) == 3 and all(again[key] is built[key] for key in keys)


def test_definition_with_a_space_is_a_mistake_of_ours(device: Device) -> None:
    with pytest.raises(AssertionError):
        build_programs(device, [ProgramKey.of("fill.cl", {"PLUS": "1 + 1"})])


def test_failure_names_file_definitions_and_device(device: Device) -> None:
    with pytest.raises(BuildError) as caught:
        build_programs(device, [ProgramKey.of("broken.cl", {"PLUS": 3})])
    text = str(caught.value)
    assert text.startswith(f"program broken.cl: it does not compile for device {device.key} (")
    assert f"-DB={device.facts.block} " in text and "-DPLUS=3" in text and ": CL_BUILD_PROGRAM_FAILURE" in text
    assert "no_such_name" in caught.value.log
    assert device.facts.simulator or "cl/broken.cl:3" in caught.value.log  # Oclgrind ignores #line
    assert not program._folder().exists() or not entries()
    key = ProgramKey.of("fill.cl", {"PLUS": 5})
    assert fill(device, build_programs(device, [key])[key]) == 2 * device.facts.block + 5, "others still build"


def test_compiler_remarks_are_not_warnings(device: Device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_programs(device, [ProgramKey.of("noisy.cl")])


@pytest.mark.parametrize("damage", ["none", "empty", "cut", "garbage", "flipped", "foreign", "rejected"])
def test_cache(device: Device, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    keep_programs(device, monkeypatch)
    key = ProgramKey.of("fill.cl", {"PLUS": 7})
    build_programs(device, [key])
    (entry,) = entries()
    whole = entry.read_bytes()
    harmed = {
        "none": whole,
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "garbage": b"\x00\x01" * 500,
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "foreign": whole.replace(program.MAGIC, b"clconv program 0\n"),
        "rejected": whole,
    }[damage]
    entry.write_bytes(harmed)
    if damage == "rejected":  # a whole entry that the driver does not take
        monkeypatch.setattr(program, "_from_binary", lambda *arguments: None)
    compiled: list[ProgramKey] = []
    from_source = program._from_source

    def spy(device: Device, key: ProgramKey, text: str, arguments: tuple[str, ...]) -> object:
        compiled.append(key)
        return from_source(device, key, text, arguments)

    monkeypatch.setattr(program, "_from_source", spy)
    forget(monkeypatch)
    assert fill(device, build_programs(device, [key])[key]) == 2 * device.facts.block + 7
    assert compiled == ([] if damage == "none" else [key])
    assert program._load(entries()[0]) is not None and len(entries()) == 1


def test_cache_folder_that_cannot_be_made(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "file" / "cache"))
    key = ProgramKey.of("fill.cl", {"PLUS": 9})
    assert fill(device, build_programs(device, [key])[key]) == 2 * device.facts.block + 9


def test_entries_differ_by_source_and_definitions(
    device: Device, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_programs(device, monkeypatch)
    build_programs(device, [ProgramKey.of("fill.cl", {"PLUS": n}) for n in (1, 2)])
    assert len(entries()) == 2
    (sources / "common.h").write_text(COMMON.replace("2", "4"))
    forget(monkeypatch)
    key = ProgramKey.of("fill.cl", {"PLUS": 1})
    assert fill(device, build_programs(device, [key])[key]) == 4 * device.facts.block + 1
    assert len(entries()) == 3


def test_nothing_is_kept_twice(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_programs(device, monkeypatch, driver=True)
    key = ProgramKey.of("fill.cl", {"PLUS": 11})
    assert fill(device, build_programs(device, [key])[key]) == 2 * device.facts.block + 11
    assert not program._folder().exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("slow", [True, False])
def test_what_takes_long_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(program, "PATIENCE_S", 0.05 if slow else 60)
    with program.shown(None, "building") as tell:
        tell(1, 3)
        time.sleep(0.2 if slow else 0)
        tell(2, 3)
    lines = terminal.getvalue().split("\r")
    if slow:
        assert [line.split(" ...")[0] for line in lines[1:3]] == ["clconv: building 1/3", "clconv: building 2/3"]
        assert not lines[3].strip() and not lines[4], "it is erased"
    else:
        assert lines == [""]


def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", plain := io.StringIO())
    monkeypatch.setattr(program, "PATIENCE_S", 0)
    with program.shown(None, "building") as tell:
        tell(1, 3)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with program.shown(lambda done, total: told.append((done, total)), "building") as tell:
        tell(1, 3)
    assert plain.getvalue() == terminal.getvalue() == "" and told == [(1, 3)]


def test_oldest_entries_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    for age in range(5):
        path = folder / f"{age}"
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - age * 1000,) * 2)
    program._trim(folder, limit_bytes=250)
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    program._trim(tmp_path / "not there", limit_bytes=0)
