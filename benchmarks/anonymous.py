"""Memory of this process that no file backs, on Linux: what a program takes from a machine for itself."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path


def anonymous() -> int:
    """Bytes now."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("Anonymous:")).split()[1])


def growth(work: Callable[[], object]) -> int:
    """The most bytes over those of now while something runs, looked at every millisecond or so.

    What is free is given back to the system first. What `work` returns is counted.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = most = anonymous()
    stopped = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stopped.is_set():
            most = max(most, anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        kept = work()
        most = max(most, anonymous())
        del kept
    finally:
        stopped.set()
        watcher.join()
    return most - before
