"""Compiles pyx/*.pyx into clconv/_core/ and ships cl/*.cl as clconv/_cl; the rest is in pyproject.toml."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Most of it orchestrates: time goes into the compiler, not the code. The pixel loops of augment are the exception.
QUICK = [] if sys.platform == "win32" else ["-O1", "-g0"]
THOROUGH = [] if sys.platform == "win32" else ["-O3", "-g0"]

extensions = [
    Extension(
        f"clconv._core.{path.stem}",
        [path.as_posix()],
        extra_compile_args=THOROUGH if path.stem == "augment" else QUICK,
    )
    for path in sorted(Path("pyx").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["."],
        compiler_directives={"language_level": 3, "embedsignature": True, "binding": True},
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
