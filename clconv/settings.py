"""Every CLCONV_* environment variable, in one table, read when asked for."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cache
from pathlib import Path

import platformdirs

VARIABLES = {
    "CLCONV_DEVICE": "which device to use: part of its name, or its key as `clconv devices` lists it",
    "CLCONV_CACHE": "folder for compiled kernels and device verdicts (default: the user's cache folder)",
    "CLCONV_BLOCK": "channel block size of the layout: 16, 8, 4 or 1 (default: by device)",
    "CLCONV_KERNELS": "class of kernels: cpu or gpu (default: by device)",
    "CLCONV_DEVICE_ROWS": "file with rows of device parameters, which come behind those of clconv/devices.json",
    "CLCONV_MEMORY": "default memory budget, as 512MB or 64MiB",
    "CLCONV_MAP_WEIGHTS": "0: never leave weights in a mapped file, also where the device could read them there",
    "CLCONV_JOIN": "0: every kernel is a launch of its own; 1: those of a plan are joined from its first run on",
    "CLCONV_TUNING": "0: plan by the model alone, whatever `clconv tune` has measured",
    "CLCONV_PROBE_S": "seconds that a device may take to build and run its probe (default 60)",
    "CLCONV_TEST_DATA": "folder with real data sets and models for the tests",
    "CLCONV_REQUIRE_DRIVERS": "how many drivers must work for the tests to start",
}


def get(name: str) -> str | None:
    """The value of a CLCONV_* variable, or None when it is unset or empty."""
    assert name in VARIABLES, name
    return os.environ.get(name) or None


def cache_folder() -> Path:
    """Where compiled kernels and verdicts are kept; it may not exist yet."""
    chosen = get("CLCONV_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("clconv", appauthor=False))


@cache
def version() -> str:
    """clconv's version, to which what is cached belongs; a source tree that is not installed has none."""
    try:
        return importlib.metadata.version("clconv")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
