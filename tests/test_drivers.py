"""Registration of installed drivers that the loader does not know, each test on a machine of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from clconv import drivers
from clconv.device import Survey, pick
from clconv.errors import NoDeviceError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine of its own: an .icd folder, a library folder, no wheels; register() starts afresh."""
    vendors, libraries = tmp_path / "vendors", tmp_path / "lib"
    vendors.mkdir()
    libraries.mkdir()
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "cache"))
    for name in ("OPENCL_VENDOR_PATH", "OCL_ICD_FILENAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OCL_ICD_VENDORS", str(vendors))
    monkeypatch.setattr(drivers, "_done", None)
    monkeypatch.setattr(drivers, "_library_folders", lambda: [libraries])
    monkeypatch.setattr(drivers, "_wheel_library", lambda driver: None)
    monkeypatch.delitem(sys.modules, "pyopencl")
    return SimpleNamespace(vendors=vendors, libraries=libraries, cache=tmp_path / "cache")


def listed(folder: Path | None) -> dict[str, str]:
    assert folder is not None
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_nothing_is_changed_when_nothing_is_missing(machine) -> None:
    (machine.vendors / "a.icd").write_text("liba.so\n")
    done = drivers.register()
    assert done == drivers.Registration() and os.environ["OCL_ICD_VENDORS"] == str(machine.vendors)
    assert not machine.cache.exists()


def test_an_unregistered_driver_joins_the_others(machine) -> None:
    (machine.vendors / "a.icd").write_text("liba.so\n")
    (machine.vendors / "readme.txt").write_text("not a driver")
    library = machine.libraries / "libnvidia-opencl.so.1"
    library.write_text("")
    done = drivers.register()
    assert [driver.platform for driver in done.added] == ["NVIDIA CUDA"]
    assert os.environ["OCL_ICD_VENDORS"] == str(done.folder)
    assert listed(done.folder) == {"a.icd": "liba.so", "clconv-libnvidia-opencl.icd": str(library)}
    assert drivers.register() is done, "once per process"


def test_a_driver_that_cannot_be_loaded_says_why(machine) -> None:
    library = machine.libraries / "libnvidia-opencl.so.1"
    library.write_text("no library")
    (note,) = drivers.unloadable({"Portable Computing Language"})
    assert note.startswith("drivers: libnvidia-opencl.so.1 cannot be loaded here: ") and str(library) in note
    assert drivers.unloadable({"NVIDIA CUDA"}) == []


def test_a_driver_gets_its_own_library_where_an_older_one_is_loaded(tmp_path: Path) -> None:
    """As OpenVINO's libtbb.so.12 is loaded before Intel's driver, which needs functions of its own one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    for folder in ("other", "own"):
        (tmp_path / folder).mkdir()

    def compiled(source: str, made: Path, *options: str) -> None:
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(made), "-x", "none", *options]
        subprocess.run(command, input=source.encode(), check=True)

    own, shared = tmp_path / "own", "-Wl,-soname,libshared.so.12"
    compiled("int version(void) { return 1; }", tmp_path / "other" / "libshared.so.12", shared)
    compiled("int version(void) { return 2; } int news(void) { return 3; }", own / "libshared.so.12", shared)
    source = "int version(void); int news(void); int both(void) { return 10 * version() + news(); }"
    compiled(source, own / "libdriver.so", str(own / "libshared.so.12"), "-Wl,-rpath,$ORIGIN", "-Wl,-z,now")
    program = f"""
        import ctypes
        from pathlib import Path
        from clconv.drivers import KnownDriver, _load_beside
        other = ctypes.CDLL({str(tmp_path / "other" / "libshared.so.12")!r})
        driver = Path({str(own / "libdriver.so")!r})
        try:
            ctypes.CDLL(str(driver))
            raise SystemExit("loaded with the other's library")
        except OSError:
            pass
        _load_beside(KnownDriver("libdriver.so", "a platform", beside="libshared.so.12"), driver)
        print(ctypes.CDLL(str(driver)).both(), other.version())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=Path(drivers.__file__).parents[1],
    )
    assert done.stdout == "23 1\n", done.stderr


@pytest.mark.parametrize("line", ["{lib}/libnvidia-opencl.so.1", "libnvidia-opencl.so.1", "libnvidia-opencl.so.535.1"])
def test_a_registered_driver_is_not_registered_twice(machine, line: str) -> None:
    for name in ("libnvidia-opencl.so.1", "libnvidia-opencl.so.535.1"):
        (machine.libraries / name).write_text("")
    (machine.vendors / "nvidia.icd").write_text(line.format(lib=machine.libraries))
    assert not drivers.register().added


def test_a_placeholder_path_does_not_count(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    library = machine.libraries / "libintelocl.so"
    library.write_text("")
    (machine.vendors / "intel-cpu.icd").write_text("/opt/placeholder/lib/libintelocl.so")
    assert listed(drivers.register().folder)["clconv-libintelocl.icd"] == str(library)


def test_filenames_of_the_environment_count(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    monkeypatch.setenv("OCL_ICD_FILENAMES", f"libother.so{os.pathsep}libamdocl64.so")
    assert not drivers.register().added


def test_one_driver_chosen_by_the_user_is_respected(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    monkeypatch.setenv("OCL_ICD_VENDORS", "libpocl.so")
    done = drivers.register()
    assert not done.added and os.environ["OCL_ICD_VENDORS"] == "libpocl.so"
    assert done.note == "drivers: OCL_ICD_VENDORS restricts the loader to libpocl.so; unset it to find more"


def test_children_use_the_same_folder(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    first = drivers.register().folder
    monkeypatch.setattr(drivers, "_done", None)
    assert not drivers.register().added and os.environ["OCL_ICD_VENDORS"] == str(first)


def test_a_damaged_private_folder_is_not_used(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    first = drivers.register().folder
    assert first is not None
    (first / "clconv-libamdocl64.icd").write_text("")
    monkeypatch.setattr(drivers, "_done", None)
    monkeypatch.setenv("OCL_ICD_VENDORS", str(machine.vendors))
    second = drivers.register().folder
    assert second != first
    assert listed(second) == {"clconv-libamdocl64.icd": str(machine.libraries / "libamdocl64.so")}


def test_a_cache_folder_that_cannot_be_written(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    machine.cache.write_text("a file in its place")
    folder = drivers.register().folder
    assert list(listed(folder)) == ["clconv-libamdocl64.icd"]


def test_a_full_disk_keeps_no_rest(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    fill, full = drivers._fill, [OSError(28, "No space left on device")]

    def once(folder: Path, entries: dict[str, str]) -> None:
        if full:
            raise full.pop()
        fill(folder, entries)

    monkeypatch.setattr(drivers, "_fill", once)
    assert list(listed(drivers.register().folder)) == ["clconv-libamdocl64.icd"]
    assert list((machine.cache / "icd").iterdir()) == []


def test_import_that_came_too_early_is_told(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    others = SimpleNamespace(get_platforms=lambda: [SimpleNamespace(name="Other")], LogicError=RuntimeError)
    monkeypatch.setitem(sys.modules, "pyopencl", others)
    assert drivers.register().note.startswith(
        "drivers: libamdocl64.so is installed, but PyOpenCL had been used before clconv could register it"
    )
    found = Survey((), (), (drivers.register().note,))
    with pytest.raises(NoDeviceError, match="PyOpenCL had been used before clconv could register it"):
        pick(found, None)


def test_import_before_use_is_early_enough(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.libraries / "libamdocl64.so").write_text("")
    name = "AMD Accelerated Parallel Processing"
    found = SimpleNamespace(get_platforms=lambda: [SimpleNamespace(name=name)], LogicError=RuntimeError)
    monkeypatch.setitem(sys.modules, "pyopencl", found)
    assert drivers.register().note == ""


def test_registration_of_many_processes_at_once(machine) -> None:
    library = machine.libraries / "libamdocl64.so"
    library.write_text("")
    code = f"""
        from pathlib import Path
        from clconv import drivers
        drivers._library_folders = lambda: [Path({str(machine.libraries)!r})]
        drivers._wheel_library = lambda driver: None
        folder = drivers.register().folder
        print(folder, *(path.read_text().strip() for path in folder.iterdir()))
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(6)
    ]
    answers = {child.communicate(timeout=60)[0] for child in children}
    assert all(child.returncode == 0 for child in children)
    (answer,) = answers
    folder, written = answer.split()
    assert written == str(library)
    assert [path.name for path in (machine.cache / "icd").iterdir()] == [Path(folder).name]


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"extensions": "cl_khr_subgroups", "preferred_work_group_size_multiple": 32}, 32),
        ({"extensions": "cl_khr_subgroups", "preferred_work_group_size_multiple": 128}, 64),
        ({"extensions": "cl_khr_subgroups", "preferred_work_group_size_multiple": 24}, 16),
        ({"extensions": "", "max_num_sub_groups": 16, "preferred_work_group_size_multiple": 16}, 16),
        ({"extensions": "cl_khr_subgroups", "preferred_work_group_size_multiple": 1}, 0),
        ({"extensions": "cl_khr_fp64", "preferred_work_group_size_multiple": 32}, 0),
        ({}, 0),
    ],
)
def test_the_size_of_subgroups_is_what_a_device_says(told: dict[str, object], size: int) -> None:
    assert drivers.subgroup(SimpleNamespace(**told)) == size
