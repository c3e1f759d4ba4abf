"""A lease on a folder in a bucket: a file that its owner renews, for places where no kernel can lock.

The file changes with every renewal. Whether an owner lives is judged by watching for such a change on one's own clock;
times that other machines wrote are never compared with it, so their clocks may be as wrong as they like.

A bucket has no way to write a file only if it did not change. So who writes the file then waits and reads it back: of
two that wrote at once, the later one owns it, and the earlier one sees that. Where someone may still believe to be the
owner, the wait is longer than the time between two renewals, in which that one finds the file to be another's, and
stops.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable

from zero1toa.batch.holder import Holder, refusal
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage


@dataclasses.dataclass(frozen=True)
class Times:
    """How long things take, in seconds.

    Attributes:
        beat: between two renewals.
        stale: without a renewal after which an owner counts as dead.
        settle: between writing and reading back where nobody owned the lease.
        contest: the same where an owner was thought dead, or another may have come first; longer than ``beat``.
        look: between two looks at another's lease.
    """

    beat: float = 10.0
    stale: float = 60.0
    settle: float = 2.0
    contest: float = 15.0
    look: float = 2.0


STANDARD = Times()


class Lease:
    """The right to work in a folder, for as long as it is renewed. Safe to use from several threads.

    Args:
        storage: the folder.
        name: the lease's file in it.
        owner: unique among all that may ever ask for the lease.
        holder: what others are told about the owner.
        times: see :class:`Times`.
        say: receives a line while waiting to see whether another owner lives.
        clock: seconds on a clock of this process.
        sleep: waits for some seconds of it.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        owner: str,
        holder: Holder,
        times: Times = STANDARD,
        say: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._storage = storage
        self._name = name
        self._owner = owner
        self._holder = holder
        self._times = times
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._mutex = threading.Lock()
        self._beats = 0
        self._renewed = 0.0
        self._lost = ""

    def acquire(self) -> None:
        """Take the lease, after watching an earlier owner for as long as it may be alive.

        Raises:
            OutputError: if another job owns it, or takes it at the same time.
            StorageError: if the folder cannot be reached.
        """
        looked, found = self._clock(), self._read()
        free_at = looked if found is None else self._outlive(found)
        self._write()
        # Whoever is slow from looking to writing may have written over an owner that came in between.
        contested = free_at is None or self._clock() - free_at > self._times.settle / 2
        self._sleep(self._times.contest if contested else self._times.settle)
        found = self._read()
        if found is None or _owner(found) != self._owner:
            raise refusal(self._storage, Holder.parse(found or ""))
        self._renewed = self._clock()

    def renew(self) -> None:
        """Show that the owner lives, or find out that the lease is another's; :meth:`check` then says so.

        Raises:
            StorageError: if the folder cannot be reached.
        """
        with self._mutex:
            if self._lost:
                return
            found = self._read()
            if found is None or _owner(found) != self._owner:
                who = Holder.parse(found or "") or "another job, which has ended since,"
                self._lost = f"{who} has taken over {self._storage}, where this job was thought dead; this job stops"
                return
            self._write()
            self._renewed = self._clock()

    def check(self) -> None:
        """Make sure that the lease is still this owner's.

        Raises:
            OutputError: if another job has taken it.
            StorageError: if the folder could not be reached for so long that another job may have taken it.
        """
        if self._clock() - self._renewed > self._times.stale:
            self.renew()
        if self._lost:
            raise OutputError(self._lost)

    def release(self) -> None:
        """Give the lease back if it is still this owner's; where that fails, it will be found stale."""
        with self._mutex:
            try:
                found = self._read()
                if found is not None and _owner(found) == self._owner:
                    self._storage.delete(self._name)
            except StorageError:
                return

    def _outlive(self, found: str) -> float | None:
        """Watch another's lease until it is gone or stale.

        Returns:
            The time at which it was looked for and not found, or None for a stale one.
        """
        holder = Holder.parse(found) or "an earlier job"
        self._say(f"waiting up to {self._times.stale:.0f} s to see whether {holder} lives")
        begun = self._clock()
        while self._clock() - begun < self._times.stale:
            self._sleep(self._times.look)
            looked, now = self._clock(), self._read()
            if now is None:
                return looked
            if now != found:
                raise refusal(self._storage, Holder.parse(now))
        return None

    def _read(self) -> str | None:
        try:
            return self._storage.read(self._name).decode(errors="replace")
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        self._beats += 1
        about = {"owner": self._owner, "beat": self._beats, **dataclasses.asdict(self._holder)}
        self._storage.write(self._name, json.dumps(about))


def _owner(text: str) -> str | None:
    try:
        return str(json.loads(text)["owner"])
    except (ValueError, KeyError, TypeError):
        return None
