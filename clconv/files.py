"""Writing files so that readers see the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# What a damaged .npz file makes zipfile and NumPy raise; RuntimeError: it is encrypted, or compressed in another way.
ARCHIVE_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
NAME_LENGTH = 40  # of the name in that of the temporary file: file systems allow some 255 bytes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes its place at the end, or goes away when the body raises.

    A file that was there hands on its permissions; of a link, the file that it points to is replaced.

    Raises:
        OSError: the file or its folder cannot be written, or the disk is full; `path` is as it was.
    """
    target = Path(os.path.realpath(path))
    there = target.exists()
    if there and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = target.with_name(f".{target.name[:NAME_LENGTH]}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if there else 0o666))
    except OSError as error:  # in which nobody knows the temporary name
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if there:
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file in one go, making its folder where needed; see `replacing`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
