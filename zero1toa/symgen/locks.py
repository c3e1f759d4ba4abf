"""One process at a time: kernel locks that a dead process cannot leave behind."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from zero1toa.errors import OutputError
from zero1toa.storage import Storage

PATIENCE = 60.0
"""Seconds to wait for a holder: the processes of a killed driver take a few seconds to end."""

_TICK = 0.1


class FolderBusyError(OutputError):
    """Another process holds the lock."""


def lock_folder(folder: Storage, name: str, patience: float = PATIENCE) -> AbstractContextManager[object]:
    """Lock a folder where the kernel can: in this machine's file system.

    In a bucket nothing can be locked for a process's lifetime; there the batch's own lock keeps other jobs away.

    Args:
        folder: what is locked.
        name: lock file in it.
        patience: seconds to wait for another holder.
    """
    return nullcontext() if folder.local is None else FolderLock(folder.local / name, patience)


class FolderLock:
    """An exclusive lock on a folder, as a context manager or by :meth:`acquire` and :meth:`release`.

    Args:
        path: the lock file; it stays when the lock is released.
        patience: seconds to wait for another holder.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            FolderBusyError: if another process keeps it.
            OutputError: if the folder cannot be written.
        """
        end = time.monotonic() + self._patience
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            while not self._try():
                if time.monotonic() > end:
                    raise FolderBusyError(f"another process is working in {self._path.parent}; wait until it has ended")
                time.sleep(_TICK)
        except OSError as error:
            self.release()
            raise OutputError(f"cannot lock {self._path}: {error.strerror}") from error
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Take the lock, see :meth:`acquire`."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self.release()

    def _try(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True
