"""Builds OpenCL programs from cl/ and caches them.

    source("conv_direct.cl")            the text the compiler gets, includes inlined
    build_programs(device, keys)        programs, built in parallel, from the cache where possible

A program's binary is cached by source, options, device, driver and version of clconv, unless the driver has a
cache of its own. An entry that does not load is built again; a folder that cannot be written costs time, never
correctness.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.resources
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import drivers, settings
from .device import Device
from .errors import BuildError, status_name
from .files import write_atomically

if TYPE_CHECKING:
    from importlib.abc import Traversable

    import pyopencl

CACHE_LIMIT_BYTES = 256 << 20
MAGIC = b"clconv program 1\n"  # a cache entry: this, SHA-256 of the rest (32 bytes), the device's binary
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)

PATIENCE_S = 1.0  # what takes longer is shown

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProgramKey:
    """What distinguishes one program: a file of cl/ and its definitions, sorted by name.

    Attributes:
        text: the source where it is not the file's own. standard: of OpenCL C.
    """

    file: str
    defines: tuple[tuple[str, str], ...] = ()
    text: str = field(default="", repr=False)
    standard: str = "CL1.2"

    @classmethod
    def of(cls, file: str, defines: Mapping[str, object] | None = None) -> ProgramKey:
        """A key from a mapping; values are written as `str` writes them."""
        return cls(file, tuple(sorted((name, str(value)) for name, value in (defines or {}).items())))

    def __str__(self) -> str:
        return " ".join([self.file, *(f"{name}={value}" for name, value in self.defines)])


@cache
def folder() -> Traversable:
    """The kernel sources: the package clconv._cl, or the folder cl/ beside clconv/ in a source tree."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.resources.files("clconv._cl")
    beside = Path(__file__).resolve().parent.parent / "cl"
    assert beside.is_dir(), "the kernel sources are neither in clconv._cl nor beside clconv/"
    return beside


@cache
def source(file: str) -> str:
    """A kernel file with its includes inlined once each and every line attributed to its own file."""
    return "".join(_inlined(file, set()))


def _inlined(file: str, seen: set[str]) -> Iterable[str]:
    seen.add(file)
    text = folder().joinpath(file).read_text(encoding="utf-8")
    yield f'#line 1 "cl/{file}"\n'
    position = 0
    for match in INCLUDE.finditer(text):
        yield text[position : match.start()]
        if match[1] not in seen:
            yield from _inlined(match[1], seen)
        position = match.end() + 1
        yield f'#line {text.count(chr(10), 0, match.end()) + 2} "cl/{file}"\n'
    yield text[position:].rstrip("\n") + "\n"


def options(device: Device, key: ProgramKey) -> tuple[str, ...]:
    """The compiler's options for a program on a device."""
    assert not any(re.search(r"\s", name + value) for name, value in key.defines), key
    written_out = (("WRITE_OUT", "1"),) if device.facts.loop_limit else ()
    defines = (("B", str(device.facts.block)), *written_out, *key.defines)
    standard = _subgroup_standard(device) if "SUBGROUP" in dict(key.defines) else key.standard
    return (f"-cl-std={standard}", *(f"-D{name}={value}" for name, value in defines))


def _subgroup_standard(device: Device) -> str:
    """The OpenCL C that has a device's functions of subgroups: they came with version 2, and were optional in 3."""
    return "CL3.0" if device.cl_device.version >= "OpenCL 3" else "CL2.0"


@contextlib.contextmanager
def shown(progress: Progress | None, what: str) -> Iterator[Progress]:
    """`progress`; without one, a line on standard error where that is a terminal, for what takes over a second."""
    if progress is not None or sys.stderr is None or not sys.stderr.isatty():
        yield progress or (lambda done, total: None)
        return
    line = _Line(what)
    timer = threading.Timer(PATIENCE_S, line.write)
    timer.daemon = True
    timer.start()
    try:
        yield line.update
    finally:
        timer.cancel()
        line.erase()


class _Line:
    """A line that is written over until it is erased."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._figures = ""
        self._started = time.monotonic()
        self._written = ""
        self._lock = threading.Lock()

    def update(self, done: int, total: int) -> None:
        self._figures = f" {done}/{total}"
        if time.monotonic() - self._started >= PATIENCE_S:
            self.write()

    def write(self) -> None:
        with self._lock:
            self._written = f"clconv: {self._what}{self._figures} ... (kept for the next time)"
            sys.stderr.write(f"\r{self._written}")
            sys.stderr.flush()

    def erase(self) -> None:
        with self._lock:
            if self._written:
                sys.stderr.write("\r" + " " * len(self._written) + "\r")
                sys.stderr.flush()


_built: weakref.WeakKeyDictionary[Device, dict[ProgramKey, pyopencl.Program]] = weakref.WeakKeyDictionary()
_built_lock = threading.Lock()


def build_programs(
    device: Device, keys: Iterable[ProgramKey], progress: Progress | None = None
) -> dict[ProgramKey, pyopencl.Program]:
    """Programs for a device, built in parallel by threads.

    Args:
        device: what to build for.
        keys: which programs; repetitions are built once.
        progress: called with (done, total) after each one that was not already there; left out, see `shown`.

    Raises:
        BuildError: a program does not compile; `log` holds what the compiler said.
    """
    device.check_alive()
    wanted = list(dict.fromkeys(keys))
    with _built_lock:
        there = _built.setdefault(device, {})
        missing = [key for key in wanted if key not in there]
    if missing:
        threads = min(len(missing), device.facts.build_threads or os.cpu_count() or 1)
        with shown(progress, "building kernels") as tell, ThreadPoolExecutor(threads) as pool:
            futures = {pool.submit(_build, device, key): key for key in missing}
            for done, future in enumerate(as_completed(futures), start=1):
                if error := future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise error
                with _built_lock:
                    there.setdefault(futures[future], future.result())
                tell(done, len(missing))
        _trim(_folder())
    return {key: there[key] for key in wanted}


def _build(device: Device, key: ProgramKey) -> pyopencl.Program:
    """One program, from its cached binary or else from source; the binary is then cached."""
    text, arguments = key.text or source(key.file), options(device, key)
    entry = _folder() / _digest(device, text, arguments)
    binary = _load(entry)
    if binary is not None:
        program = _from_binary(device, binary, arguments)
        if program is not None:
            return program
        with contextlib.suppress(OSError):
            entry.unlink()
    program = _from_source(device, key, text, arguments)
    if not device.facts.keeps_programs:
        _store(entry, program)
    return program


def kept(device: Device, key: ProgramKey) -> bool:
    """Whether a program was compiled to the end on this machine, so that building it takes little time."""
    return _note(device, key).exists()


def keep(device: Device, key: ProgramKey) -> None:
    """Notes that a program was compiled to the end."""
    with contextlib.suppress(OSError):
        write_atomically(_note(device, key), b"")


def _note(device: Device, key: ProgramKey) -> Path:
    digest = _digest(device, key.text or source(key.file), options(device, key))
    return _folder() / f"{digest}.kept"


def _digest(device: Device, text: str, arguments: tuple[str, ...]) -> str:
    facts = device.facts
    driver = (facts.name, facts.driver_version, facts.platform_name, facts.platform_version)
    parts = (text, *arguments, *driver, settings.version())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _from_source(device: Device, key: ProgramKey, text: str, arguments: tuple[str, ...]) -> pyopencl.Program:
    cl = drivers.opencl()
    # PyOpenCL's inner program class: its outer one would add its own cache, options and warnings
    raw = cl._cl._Program(device.context, text)
    try:
        raw._build(" ".join(arguments).encode(), [device.cl_device])
    except cl.Error as error:
        try:
            log = str(raw.get_build_info(device.cl_device, cl.program_build_info.LOG)).strip("\n\0")
        except cl.Error:
            log = "the driver gives no log"
        raise BuildError(
            f"program {key.file}: it does not compile for device {device.key} ({device.facts.platform_name}: "
            f"{device.facts.name}) with {' '.join(arguments)}: {status_name(error.code)}",
            log,
        ) from error
    program: pyopencl.Program = cl.Program(raw)
    return program


def _from_binary(device: Device, binary: bytes, arguments: tuple[str, ...]) -> pyopencl.Program | None:
    """A program from its binary, or None where the driver does not take it."""
    cl = drivers.opencl()
    try:
        raw = cl._cl._Program(device.context, [device.cl_device], [binary])
        raw._build(" ".join(arguments).encode(), [device.cl_device])
    except cl.Error:
        return None
    program: pyopencl.Program = cl.Program(raw)
    return program


def _folder() -> Path:
    return settings.cache_folder() / "programs"


def _load(entry: Path) -> bytes | None:
    """The binary in a cache entry; None where there is none or it is damaged: drivers crash on such."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    binary = content[len(MAGIC) + 32 :]
    if content != _sealed(binary):
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)  # the least recently used go first when the folder is trimmed
    return binary


def _sealed(binary: bytes) -> bytes:
    """A binary as a cache entry."""
    return MAGIC + hashlib.sha256(binary).digest() + binary


def _store(entry: Path, program: Any) -> None:
    """Cache a program's binary, where the driver hands one out and the folder can be written."""
    cl = drivers.opencl()
    try:
        (binary,) = program.get_info(cl.program_info.BINARIES)
    except (cl.Error, ValueError):
        return
    if binary:
        with contextlib.suppress(OSError):
            write_atomically(entry, _sealed(binary))


def _trim(folder: Path, limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
    """Remove the least recently used entries until the folder holds at most `limit_bytes`."""
    entries = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                state = path.stat()
                entries.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries, key=lambda item: item[0]):
        if total <= limit_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
