"""One job at a time in a batch's output, wherever it lies."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from zero1toa.batch.holder import Holder, refusal
from zero1toa.batch.lease import STANDARD, Lease, Times
from zero1toa.errors import StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.locks import FolderBusyError, FolderLock

LOCK = ".job.lock"
"""Lock file of an output in a file system: the kernel's lock, which a killed job cannot leave behind."""

LEASE = "job.lease"
"""Lease file of an output elsewhere."""

PATIENCE = 5.0
"""Seconds to wait for another holder of the kernel's lock: a job that was just killed may still be ending."""


class JobLock:
    """The output of a batch, for one job, as a context manager.

    In a file system the kernel keeps the lock. Elsewhere a :class:`~zero1toa.batch.lease.Lease` is renewed in the
    background, and can be lost by a job that stood still for a minute, so that the job must :meth:`check` now and then.

    Args:
        storage: the output.
        job: what a second job is told: the job's id, by which its user may stop it.
        patience: seconds to wait for another holder of the kernel's lock.
        times: of a lease.
        say: receives a line while waiting to see whether another job lives.
    """

    def __init__(
        self,
        storage: Storage,
        job: str,
        patience: float = PATIENCE,
        times: Times = STANDARD,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._storage = storage
        self._job = job
        self._patience = patience
        self._times = times
        self._say = say
        self._held = contextlib.ExitStack()
        self._lease: Lease | None = None

    def __enter__(self) -> Self:
        """Take the output.

        Raises:
            OutputError: if another job works in it; the message says which, where and since when.
            StorageError: if the output cannot be reached or written.
        """
        holder = Holder.here(self._job)
        with contextlib.ExitStack() as held:
            if self._storage.local is None:
                self._rent(holder, held)
            else:
                self._lock(self._storage.local / LOCK, holder, held)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the output back."""
        self._held.close()

    def check(self) -> None:
        """Make sure that the output is still this job's; cheap enough to be called before every step.

        Raises:
            OutputError: if another job thought this one dead and has taken over. This job must stop.
            StorageError: if the output could not be reached for so long that this may have happened.
        """
        if self._lease is not None:
            self._lease.check()

    def _lock(self, path: Path, holder: Holder, held: contextlib.ExitStack) -> None:
        try:
            held.enter_context(FolderLock(path, self._patience))
        except FolderBusyError as error:
            with contextlib.suppress(OSError):
                raise refusal(self._storage, Holder.parse(path.read_text(errors="replace"))) from error
            raise
        try:
            path.write_text(json.dumps(dataclasses.asdict(holder)))  # in place: another file would not be locked
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def _rent(self, holder: Holder, held: contextlib.ExitStack) -> None:
        lease = Lease(self._storage, LEASE, uuid.uuid4().hex, holder, self._times, self._say)
        lease.acquire()
        held.callback(lease.release)
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(lease, ended), name="job-lease", daemon=True)
        thread.start()
        held.callback(thread.join)
        held.callback(ended.set)
        self._lease = lease

    def _keep(self, lease: Lease, ended: threading.Event) -> None:
        while not ended.wait(self._times.beat):
            # A bucket may be out of reach for a moment. If it stays so, check() says it.
            with contextlib.suppress(StorageError):
                lease.renew()
