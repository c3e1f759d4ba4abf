"""The queue of refinement requests with leases: who works on what, until when, and when to give up. No Ray, no clock.

Time comes in as an argument, so every path is tested without waiting. The queue holds no durable state: a request that
is lost with it is submitted again by its avatar, and deterministic request ids make the repetition harmless.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

FIRST_LEASE = 1800.0
"""Seconds of a lease before anything was measured: loading weights and compiling kernels come first."""
SHORTEST_LEASE = 60.0
"""Seconds below which no lease goes, so that a machine that is busy for a moment loses nothing."""
HISTORY = 50
"""Recent services that the lease's length is taken from."""


def lease_length(durations: Sequence[float]) -> float:
    """Seconds to lease a request for: three times the slowest of the services measured lately.

    Workers that die are noticed at once by other means; a lease is for those that hang.

    Args:
        durations: seconds of recent services; fewer than three say nothing yet.
    """
    return FIRST_LEASE if len(durations) < 3 else max(SHORTEST_LEASE, 3 * max(durations))


def together(waiting: int, workers: int, most: int) -> int:
    """How many requests a worker is given at once: its even share of those that wait.

    A worker that took more would leave others with none; with up to as many waiting as there are workers, each is
    served alone, so that micro-batches cost nothing where they gain nothing.

    Args:
        waiting: requests that wait, at least one.
        workers: workers that are there, busy or not, the one that asks among them.
        most: largest number.
    """
    return min(most, math.ceil(waiting / workers))


State = Literal["queued", "leased", "unknown"]


@dataclasses.dataclass
class Lease(Generic[T]):
    """A request on its way through the queue.

    Attributes:
        request_id: deterministic id of the request.
        avatar: avatar that waits for the answer.
        payload: what a worker needs to serve it.
        attempts: times it was handed out.
        worker: worker that holds it, or None while it is queued.
        taken: time at which the holder took it.
        deadline: time at which the holder is taken for dead.
        ahead: whether the holder was given it while it was still busy, and has not asked for more since.
        reasons: why earlier attempts failed, one line each.
    """

    request_id: str
    avatar: str
    payload: T
    attempts: int = 0
    worker: str | None = None
    taken: float = 0.0
    deadline: float = 0.0
    ahead: bool = False
    reasons: list[str] = dataclasses.field(default_factory=list)


class LeaseQueue(Generic[T]):
    """First in, first out, with leases that expire and requests that are given up after ``max_attempts``.

    A request that is given up (poisoned) is handed back to the caller with its reasons and forgotten here.

    Args:
        lease_seconds: how long a worker may keep a request before it is handed to another one.
        max_attempts: attempts after which a request is given up.
    """

    def __init__(self, lease_seconds: float, max_attempts: int = 3) -> None:
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts
        self._queue: OrderedDict[str, Lease[T]] = OrderedDict()
        self._leased: dict[str, Lease[T]] = {}

    def submit(self, request_id: str, avatar: str, payload: T) -> bool:
        """Queue a request; False if it is already queued or leased (a repeated submission).

        A repeated submission brings the payload up to date: what the first one referred to may be gone.
        """
        known = self._queue.get(request_id) or self._leased.get(request_id)
        if known is not None:
            known.payload = payload
            return False
        self._queue[request_id] = Lease(request_id, avatar, payload)
        return True

    def take(self, worker: str, now: float, holding: Collection[str] = (), *, ahead: bool = False) -> Lease[T] | None:
        """Hand the oldest request to ``worker`` until ``now + lease_seconds``, or None if nothing waits.

        Args:
            worker: who asks.
            now: seconds.
            holding: ids of the requests that the worker still has in its hands. One that is leased to it and not among
                them was lost on the way to it; it gets that one again. Those that are queued all the same become its.
            ahead: whether it is still busy with what it holds.
        """
        for request_id in self._queue.keys() & holding:
            # Handed out before a restart lost it, and submitted again: this worker has it in its hands.
            self._lease(request_id, worker, now, ahead=False)
        held = [lease for lease in self._leased.values() if lease.worker == worker]
        for lease in held:
            lease.ahead = False
        for lease in held:
            if lease.request_id not in holding:
                lease.deadline = now + self.lease_seconds
                return lease
        return self._lease(next(iter(self._queue)), worker, now, ahead) if self._queue else None

    def take_alike(self, first: Lease[T], now: float, count: int, kind: Callable[[T], Hashable]) -> list[Lease[T]]:
        """Hand up to ``count`` more requests to the worker of ``first`` that can be served in one go with it.

        Args:
            first: what the worker has just taken.
            now: seconds.
            count: largest number.
            kind: requests of the same kind can be served together.
        """
        wanted = kind(first.payload)
        alike = [r for r, lease in self._queue.items() if kind(lease.payload) == wanted][: max(count, 0)]
        assert first.worker is not None
        return [self._lease(request_id, first.worker, now, first.ahead) for request_id in alike]

    def _lease(self, request_id: str, worker: str, now: float, ahead: bool) -> Lease[T]:
        lease = self._queue.pop(request_id)
        lease.attempts += 1
        lease.ahead = ahead
        lease.worker = worker
        lease.taken = now
        lease.deadline = now + self.lease_seconds
        self._leased[lease.request_id] = lease
        return lease

    def done(self, request_id: str) -> Lease[T] | None:
        """Forget a request that was served; also one whose lease had expired, since its work is committed.

        Returns:
            The request, or None if the queue does not know it (served before, or lost in a restart).
        """
        return self._leased.pop(request_id, None) or self._queue.pop(request_id, None)

    def fail(self, request_id: str, worker: str, reason: str) -> Lease[T] | None:
        """Note that ``worker`` could not serve a request, and queue it again or poison it.

        Returns:
            The request if it is now poisoned, else None. A report by a worker that no longer holds it changes nothing.
        """
        lease = self._leased.get(request_id)
        if lease is None or lease.worker != worker:
            return None
        return self._again(lease, reason)

    def release(self, worker: str, reason: str) -> list[Lease[T]]:
        """Take everything back from a worker that died; returns the requests that are poisoned by this."""
        held = [lease for lease in self._leased.values() if lease.worker == worker]
        return self._take_back(held, lambda lease: reason)

    def expire(self, now: float) -> list[Lease[T]]:
        """Take back every lease whose deadline has passed; returns the requests that are poisoned by this."""
        late = [lease for lease in self._leased.values() if lease.deadline <= now]
        reason = f"no answer within {self.lease_seconds:.0f} s"
        return self._take_back(late, lambda lease: f"{lease.worker}: {reason}")

    def state(self, request_id: str) -> State:
        """Where a request is; ``unknown`` if never submitted, served, given up, or lost in a restart."""
        if request_id in self._queue:
            return "queued"
        return "leased" if request_id in self._leased else "unknown"

    def drop(self, request_id: str, worker: str) -> None:
        """Forget a request whose payload is lost, so that its avatar, finding it unknown, submits it again.

        A report by a worker that no longer holds it changes nothing.
        """
        lease = self._leased.get(request_id)
        if lease is not None and lease.worker == worker:
            del self._leased[request_id]

    def forget(self, avatar: str) -> None:
        """Drop what is queued for an avatar that is finished; leases run out on their own."""
        for request_id in [r for r, lease in self._queue.items() if lease.avatar == avatar]:
            del self._queue[request_id]

    def next_deadline(self) -> float | None:
        """The earliest deadline among the leases, or None without leases."""
        return min((lease.deadline for lease in self._leased.values()), default=None)

    @property
    def waiting(self) -> int:
        """Number of queued requests."""
        return len(self._queue)

    @property
    def leased(self) -> int:
        """Number of requests that workers hold."""
        return len(self._leased)

    def _take_back(self, leases: Sequence[Lease[T]], reason: Callable[[Lease[T]], str]) -> list[Lease[T]]:
        poisoned = []
        for lease in leases:
            if lease.ahead:  # its holder had not begun with it: that was no attempt
                lease.attempts -= 1
                self._put_back(lease)
            elif self._again(lease, reason(lease)) is not None:
                poisoned.append(lease)
        return poisoned

    def _again(self, lease: Lease[T], reason: str) -> Lease[T] | None:
        lease.reasons.append(reason)
        if lease.attempts < self.max_attempts:
            self._put_back(lease)
            return None
        del self._leased[lease.request_id]
        lease.worker = None
        return lease

    def _put_back(self, lease: Lease[T]) -> None:
        """To the front: an avatar at slack 0 stands still until this very request is answered."""
        del self._leased[lease.request_id]
        lease.worker = None
        self._queue[lease.request_id] = lease
        self._queue.move_to_end(lease.request_id, last=False)
