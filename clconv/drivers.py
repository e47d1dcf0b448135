"""Registers OpenCL drivers that are installed but unknown to the loader, then imports PyOpenCL.

The loader finds drivers through .icd files, one line each: the path or the name of a library. Drivers
from the package index and in containers often come without a usable one. Before the loader first looks,
a private folder is made that holds the system's own .icd files and one for every known driver that none
of them names; OCL_ICD_VENDORS points to it. Nothing is changed when nothing is missing.

Everything in clconv reaches PyOpenCL through `opencl()`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from . import settings
from .errors import NoDeviceError

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
LIBRARY_FOLDERS = (
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
    "/opt/rocm/lib",
    "/opt/rocm/opencl/lib",
    "/opt/amdgpu-pro/lib/x86_64-linux-gnu",
)


@dataclass(frozen=True)
class KnownDriver:
    """A driver that is often installed without being registered.

    `library` is the file's name up to its version, `platform` what its platform calls itself,
    `distribution` the package of the package index that brings it, where there is one, and `beside` a library
    that it brings with it and that others bring, too, older.
    """

    library: str
    platform: str
    distribution: str | None = None
    beside: str | None = None


# PoCL's wheel (pocl-binary-distribution) is not here: PyOpenCL's loader finds it by itself.
KNOWN_DRIVERS = (
    KnownDriver("libintelocl.so", "Intel(R) OpenCL", "intel-opencl-rt", "libtbb.so.12"),
    KnownDriver("libnvidia-opencl.so.1", "NVIDIA CUDA"),
    KnownDriver("libamdocl64.so", "AMD Accelerated Parallel Processing"),
)


@dataclass(frozen=True)
class Registration:
    """What `register` did: the drivers it added, with their libraries, and why one may be missing all the same."""

    added: Mapping[KnownDriver, Path] = field(default_factory=dict)
    folder: Path | None = None
    note: str = ""


_done: Registration | None = None


def opencl() -> ModuleType:
    """PyOpenCL, imported after the drivers are registered.

    Raises:
        NoDeviceError: it cannot be imported, as a build of its own may where the loader is missing.
    """
    register()
    try:
        return importlib.import_module("pyopencl")
    except ImportError as error:
        raise NoDeviceError(
            f"device: PyOpenCL cannot be imported: {error}; "
            "pip install --force-reinstall pyopencl brings a wheel with an OpenCL loader of its own"
        ) from error


def register() -> Registration:
    """Register the known drivers, once per process; `opencl()` calls it."""
    global _done
    if _done is None:
        early = "pyopencl" in sys.modules
        base = _base_folder()
        added = _unregistered(base) if base is not None else {}
        folder = None
        if base is not None and added:
            folder = _private_folder(_entries(base, added))
            os.environ["OCL_ICD_VENDORS"] = str(folder)
            for driver, path in added.items():
                _load_beside(driver, path)
        if base is None and (chosen := _chosen()):
            note = f"drivers: OCL_ICD_VENDORS restricts the loader to {chosen}; unset it to find more"
        else:
            note = _late_note(added) if early else ""
        _done = Registration(added, folder, note)
    return _done


def unloadable(platforms: Container[str]) -> list[str]:
    """Sentences on drivers that were added but are none of the `platforms` found: why they cannot be loaded."""
    notes = []
    for driver, path in register().added.items():
        if driver.platform in platforms:
            continue
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            notes.append(
                f"drivers: {driver.library} cannot be loaded here: {error}; where another package of this process has "
                "loaded an older library of the same name, call clconv.choose() before it"
            )
    return notes


def _load_beside(driver: KnownDriver, path: Path) -> None:
    """Loads a driver's own `beside` where another package has loaded an older one that the driver cannot use.

    OpenVINO's wheel does so. The linker would take what is loaded by that name; what is loaded by its path, for
    everyone, comes first for the symbols of what is loaded after it, and leaves the other package to its own.
    """
    own = path.parent / driver.beside if driver.beside else None
    if own is None or not own.is_file() or not _is_loaded(own.name):
        return
    try:
        ctypes.CDLL(str(path))
    except OSError:
        with contextlib.suppress(OSError):  # `unloadable` says why
            ctypes.CDLL(str(own), ctypes.RTLD_GLOBAL)


def _is_loaded(name: str) -> bool:
    """Whether this process has loaded a library of this name, from wherever."""
    try:
        ctypes.CDLL(name, os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


SUBGROUP_SIZES = 0x4108  # CL_DEVICE_SUB_GROUP_SIZES_INTEL, which PyOpenCL does not know
LEAST_SUBGROUP, MOST_SUBGROUP = 8, 64


def subgroup(cl_device: Any) -> int:
    """How many work-items a PyOpenCL device's subgroups have, a power of two: of several sizes the smallest that is
    worth it, else what the device says of groups. 0: it has no subgroups, or small ones only.
    """
    extensions = _told(cl_device, "extensions", "").split()
    if not {"cl_khr_subgroups", "cl_intel_subgroups"} & {*extensions} and not _told(cl_device, "max_num_sub_groups", 0):
        return 0
    sizes = [_told(cl_device, "preferred_work_group_size_multiple", 0)]
    if "cl_intel_required_subgroup_size" in extensions:
        array, nbytes = (ctypes.c_size_t * 16)(), ctypes.c_size_t()
        query = ctypes.CDLL(opencl()._cl.__file__).clGetDeviceInfo
        query.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        status = query(cl_device.int_ptr, SUBGROUP_SIZES, ctypes.sizeof(array), array, ctypes.byref(nbytes))
        sizes = array[: nbytes.value // ctypes.sizeof(ctypes.c_size_t)] if status == 0 else []
    size = min((size for size in sizes if size >= LEAST_SUBGROUP), default=0)
    return min(MOST_SUBGROUP, 1 << size.bit_length() - 1) if size else 0


def _told(cl_device: Any, name: str, otherwise: Any) -> Any:
    try:
        return getattr(cl_device, name)
    except Exception:  # older devices do not know the question
        return otherwise


def _late_note(added: dict[KnownDriver, Path]) -> str:
    """A sentence when the loader had already looked for drivers before the folder was made, else ""."""
    if not added:
        return ""
    cl = sys.modules["pyopencl"]
    try:
        names = {platform.name for platform in cl.get_platforms()}
    except cl.LogicError:  # how the loader says that there is none
        names = set()
    missing = [driver.library for driver in added if driver.platform not in names]
    if not missing:
        return ""
    return (
        f"drivers: {', '.join(missing)} is installed, but PyOpenCL had been used before clconv could "
        "register it; call clconv.devices() before the first use of PyOpenCL"
    )


def _chosen() -> str | None:
    """Where the user told the loader to look: a folder, an .icd file or a library."""
    return os.environ.get("OCL_ICD_VENDORS") or os.environ.get("OPENCL_VENDOR_PATH") or None


def _base_folder() -> Path | None:
    """The folder of .icd files that the loader would read; None where one driver was chosen by name."""
    chosen = _chosen()
    if not chosen:
        return SYSTEM_VENDORS if sys.platform.startswith("linux") else None
    return Path(chosen) if Path(chosen).is_dir() else None


def _icd_files(base: Path) -> dict[str, str]:
    """Name -> library of every readable .icd file in a folder."""
    found = {}
    for path in sorted(base.glob("*.icd")):
        try:
            found[path.name] = path.read_text(errors="replace").strip()
        except OSError:
            continue
    return found


def _entries(base: Path, added: dict[KnownDriver, Path]) -> dict[str, str]:
    """The private folder's files: those of `base`, and one for each added driver."""
    entries = _icd_files(base)
    for driver, path in added.items():
        entries[f"clconv-{driver.library.split('.')[0]}.icd"] = str(path)
    return entries


def _unregistered(base: Path) -> dict[KnownDriver, Path]:
    """The known drivers that are installed here and named by no .icd file that works."""
    folders = _library_folders()
    named = list(_icd_files(base).values())
    named += os.environ.get("OCL_ICD_FILENAMES", "").split(os.pathsep)
    registered = [found for found in (_resolve(name, folders) for name in named if name) if found]
    result = {}
    for driver in KNOWN_DRIVERS:
        stem = driver.library.split(".so")[0]
        if any(path.name.split(".so")[0] == stem for path in registered):
            continue
        path = _wheel_library(driver) or _resolve(driver.library, folders)
        if path is not None:
            result[driver] = path
    return result


def _resolve(name: str, folders: list[Path]) -> Path | None:
    """The file that a line of an .icd file names, or None if there is none."""
    if os.path.isabs(name):
        return Path(name) if Path(name).is_file() else None
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _library_folders() -> list[Path]:
    """Where the dynamic linker looks, and the usual places of drivers besides."""
    listed = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for path in sorted(Path("/etc/ld.so.conf.d").glob("*.conf")):
        try:
            listed += [line.strip() for line in path.read_text(errors="replace").splitlines()]
        except OSError:
            continue
    listed += [*LIBRARY_FOLDERS, os.path.join(sys.prefix, "lib")]
    return [Path(folder) for folder in dict.fromkeys(listed) if folder.startswith("/")]


def _wheel_library(driver: KnownDriver) -> Path | None:
    """The library inside an installed wheel; its own .icd file may hold a placeholder path."""
    if driver.distribution is None:
        return None
    try:
        files = importlib.metadata.files(driver.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == driver.library:
            path = Path(os.path.realpath(str(file.locate())))
            return path if path.is_file() else None
    return None


def _private_folder(entries: dict[str, str]) -> Path:
    """A folder that holds exactly `entries`, named by their content and made atomically."""
    text = "\n".join(f"{name}\t{entries[name]}" for name in sorted(entries))
    folder = settings.cache_folder() / "icd" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if _icd_files(folder) == entries:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _fill(fresh, entries)
        except OSError:  # a full disk; empty folders would gather there, one for each process
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        try:
            fresh.rename(folder)
        except OSError:  # another process made it meanwhile, or somebody damaged it
            if _icd_files(folder) == entries:
                shutil.rmtree(fresh, ignore_errors=True)
                return folder
            return _until_exit(fresh)
        return folder
    except OSError:  # the cache folder cannot be written
        fresh = Path(tempfile.mkdtemp(prefix="clconv-icd-"))
        _fill(fresh, entries)
        return _until_exit(fresh)


def _fill(folder: Path, entries: dict[str, str]) -> None:
    for name, library in entries.items():
        (folder / name).write_text(library + "\n")
    folder.chmod(0o755)


def _until_exit(folder: Path) -> Path:
    """`folder`, removed when this process (not a forked child) ends."""
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
