"""Write a folder so that every reader, at every moment, sees the old one or the new one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STALE_SECONDS = 3600.0
"""Age from which an unfinished folder of a dead writer is removed; writing one takes seconds."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` to fill; on leaving without an error it becomes ``target``.

    Where the system can exchange two names in one step (Linux), the change is atomic. Elsewhere an existing folder
    is first renamed to :func:`previous`, which :func:`resolve` finds if the writer dies between the two renames.

    Args:
        target: the folder to make or replace.

    Raises:
        OSError: if the parent folder cannot be written; ``target`` is then unchanged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        # Private by default; a bundle is read by whoever may read the folder it lies in.
        temporary.chmod(0o755)
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        _swap(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def previous(target: Path) -> Path:
    """Where the old folder waits while it is replaced on systems without an exchange of names."""
    return target.parent / f".{target.name}.previous"


def resolve(target: Path) -> Path:
    """The folder to read: ``target``, or the one it was about to replace when a writer died in between."""
    if not target.exists() and previous(target).is_dir():
        return previous(target)
    return target


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        shutil.rmtree(previous(target), ignore_errors=True)
        target.rename(previous(target))
        temporary.rename(target)
    shutil.rmtree(previous(target), ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names atomically; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
