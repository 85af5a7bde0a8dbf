"""Writing a file so that a crash leaves either the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[Any]) -> None:
    """Write ``chunks`` (bytes or memoryviews) to ``path``.

    A temporary file in the same folder is written, flushed to the disk, and renamed over the target; then the folder
    itself is flushed, so that the new name survives a power cut too. A symbolic link keeps pointing where it did, and
    an existing file keeps its permissions. On any error the temporary file is removed and the target is untouched.
    """
    target = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:100]}.{os.urandom(6).hex()}.tmp")
    # O_EXCL: never follow or overwrite something that somebody planted under the temporary name.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.chmod(temporary, os.stat(target).st_mode & 0o7777)
            for chunk in chunks:
                view = memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
                while len(view):
                    written = file.write(view[: 1 << 30])  # Linux writes at most 2 GiB a call
                    view = view[written:]
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some network file systems refuse to flush a folder
                os.fsync(directory)
        finally:
            os.close(directory)
