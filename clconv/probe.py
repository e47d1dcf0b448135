"""Finds out whether a device works, without risk: a small kernel is built and run in a child process.

Listed devices can fail every build, crash or hang. The verdict is kept in the cache folder, by platform,
device and driver version; a failure is tried again after a day.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import settings
from .errors import ArgumentError
from .files import write_atomically

RETRY_S = 24 * 3600.0
DEFAULT_LIMIT_S = 60.0
_file_lock = threading.Lock()

# Runs as `python -c`: the child needs PyOpenCL only. Platforms are found by name, because the child's
# list may be longer than a parent's whose loader had looked before every driver was registered.
SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import pyopencl as cl
platform, version, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
found = [p for p in cl.get_platforms() if (p.name.strip(), p.version.strip()) == (platform, version)]
if not found:
    sys.exit("the platform is not there in a new process")
context = cl.Context([found[0].get_devices()[index]])
queue = cl.CommandQueue(context)
source = '''__kernel void probe(__global float *x, float a) {
    size_t i = get_global_id(0);
    x[i] = fma(x[i], a, (float)i);
}'''
# a constant of its own per run keeps drivers from answering out of their caches
program = cl.Program(context, source + "//" + sys.argv[4]).build(["-cl-std=CL1.2"], cache_dir=False)
x = np.arange(1000, dtype=np.float32)
buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
program.probe(queue, x.shape, None, buffer, np.float32(3))
y = np.empty_like(x)
cl.enqueue_copy(queue, y, buffer)
queue.finish()
if not np.array_equal(y, 4 * x):
    sys.exit("it computes wrong results")
"""


@dataclass(frozen=True)
class Verdict:
    """Whether a device works, and if not, why."""

    works: bool
    reason: str = ""


@dataclass(frozen=True)
class Subject:
    """What is probed: a platform, the index of a device in it, and what names the driver."""

    platform: str
    platform_version: str
    index: int
    device: str
    driver: str

    @property
    def key(self) -> str:
        """The verdict's name in the cache."""
        return " | ".join((self.platform, self.platform_version, self.device, self.driver))


def verdict(subject: Subject, *, fresh: bool = False) -> Verdict:
    """The device's verdict, from the cache unless it is `fresh` or there is none that holds."""
    known = None if fresh else _cached(subject)
    if known is not None:
        return known
    found = run(command(subject), limit_s())
    _remember(subject, found)
    return found


def limit_s() -> float:
    """CLCONV_PROBE_S in seconds.

    Raises:
        ArgumentError: it is not a positive number.
    """
    text = settings.get("CLCONV_PROBE_S")
    try:
        value = DEFAULT_LIMIT_S if text is None else float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ArgumentError(f"CLCONV_PROBE_S: {text!r} is not a positive number of seconds")
    return value


def command(subject: Subject) -> list[str]:
    """The child's command line."""
    return [
        sys.executable or "python3", "-c", SCRIPT,
        subject.platform, subject.platform_version, str(subject.index), os.urandom(8).hex(),
    ]  # fmt: skip


def run(arguments: Sequence[str], limit: float) -> Verdict:
    """Run a probe for at most `limit` seconds; its last line on stderr is the reason of a failure."""
    # A file, not a pipe: what the driver itself started may keep a pipe open after the child's end.
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Verdict(False, f"its probe could not be started: {error}")
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            end(child)
            return Verdict(False, f"its probe did not end within {limit:g} s")
        except BaseException:
            end(child)
            raise
        errors.seek(0)
        lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if code == 0:
        return Verdict(True)
    if code < 0:
        return Verdict(False, f"its driver crashed ({signal_name(-code)})")
    return Verdict(False, _last_words(lines) or f"its probe ended with code {code}")


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs, with all that it started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def signal_name(number: int) -> str:
    """What a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(lines: list[str]) -> str:
    """The line that says most: an exception's own, else the last one; at most 200 characters."""
    said = [line for line in lines if "Error" in line and not line.startswith(" ")]
    return (said or lines or [""])[-1].strip()[:200]


def _file() -> Path:
    return settings.cache_folder() / "verdicts.json"


def _read() -> dict[str, dict[str, object]]:
    """All verdicts; a file that is missing or damaged holds none."""
    try:
        content = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, dict)}


def _cached(subject: Subject) -> Verdict | None:
    entry = _read().get(subject.key, {})
    works, reason, when = entry.get("works"), entry.get("reason"), entry.get("time")
    if not isinstance(works, bool) or not isinstance(reason, str) or not isinstance(when, (int, float)):
        return None
    if not works and not 0 <= time.time() - when < RETRY_S:
        return None
    return Verdict(works, reason)


def _remember(subject: Subject, found: Verdict) -> None:
    """Keep a verdict; a cache folder that cannot be written costs a probe in every process, no more."""
    with _file_lock, contextlib.suppress(OSError):
        verdicts = _read()
        verdicts[subject.key] = {"works": found.works, "reason": found.reason, "time": time.time()}
        write_atomically(_file(), json.dumps(verdicts, indent=1).encode())
