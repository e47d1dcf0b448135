"""Compiles pyx/*.pyx into clconv/_core/ and ships cl/*.cl as clconv/_cl; the rest is in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

extensions = [
    Extension(f"clconv._core.{path.stem}", [path.as_posix()]) for path in sorted(Path("pyx").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["."],
        compiler_directives={"language_level": 3, "embedsignature": True, "binding": True},
    ),
)
