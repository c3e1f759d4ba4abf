"""The queue of refinement requests with leases: who works on what, until when, and when to give up. No Ray, no clock.

Time comes in as an argument, so every path is tested without waiting. The queue holds no durable state: a request that
is lost with it is submitted again by its avatar, and deterministic request ids make the repetition harmless.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

State = Literal["queued", "leased", "done", "poisoned", "unknown"]


@dataclasses.dataclass
class Lease(Generic[T]):
    """A request on its way through the queue.

    Attributes:
        request_id: deterministic id of the request.
        avatar: avatar that waits for the answer.
        payload: what a worker needs to serve it.
        attempts: times it was handed out.
        worker: worker that holds it, or None while it is queued.
        deadline: time at which the holder is taken for dead.
        reasons: why earlier attempts failed, one line each.
    """

    request_id: str
    avatar: str
    payload: T
    attempts: int = 0
    worker: str | None = None
    deadline: float = 0.0
    reasons: list[str] = dataclasses.field(default_factory=list)


class LeaseQueue(Generic[T]):
    """First in, first out, with leases that expire and requests that are given up after ``max_attempts``.

    Args:
        lease_seconds: how long a worker may keep a request before it is handed to another one.
        max_attempts: attempts after which a request is poisoned.
    """

    def __init__(self, lease_seconds: float, max_attempts: int = 3) -> None:
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts
        self._queue: OrderedDict[str, Lease[T]] = OrderedDict()
        self._leased: dict[str, Lease[T]] = {}
        self._poisoned: dict[str, Lease[T]] = {}

    def submit(self, request_id: str, avatar: str, payload: T) -> bool:
        """Queue a request; False if it is already queued, leased or poisoned (a repeated submission)."""
        if self.state(request_id) != "unknown":
            return False
        self._queue[request_id] = Lease(request_id, avatar, payload)
        return True

    def take(self, worker: str, now: float) -> Lease[T] | None:
        """Hand the oldest request to ``worker`` until ``now + lease_seconds``, or None if nothing waits."""
        self.expire(now)
        if not self._queue:
            return None
        _, lease = self._queue.popitem(last=False)
        lease.attempts += 1
        lease.worker = worker
        lease.deadline = now + self.lease_seconds
        self._leased[lease.request_id] = lease
        return lease

    def done(self, request_id: str) -> bool:
        """Forget a request that was served; also one whose lease had expired, since its work is committed.

        Returns:
            False for a request that the queue does not know (served before, or lost in a restart).
        """
        known = self._leased.pop(request_id, None) or self._queue.pop(request_id, None)
        known = known or self._poisoned.pop(request_id, None)
        return known is not None

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
        return [lease for lease in (self._again(one, reason) for one in held) if lease is not None]

    def expire(self, now: float) -> list[Lease[T]]:
        """Take back every lease whose deadline has passed; returns the requests that are poisoned by this."""
        late = [lease for lease in self._leased.values() if lease.deadline <= now]
        reason = f"no answer within {self.lease_seconds:.0f} s"
        return [lease for lease in (self._again(one, f"{one.worker}: {reason}") for one in late) if lease is not None]

    def state(self, request_id: str) -> State:
        """Where a request is; ``unknown`` if it was never submitted, was served, or was lost in a restart."""
        if request_id in self._queue:
            return "queued"
        if request_id in self._leased:
            return "leased"
        return "poisoned" if request_id in self._poisoned else "unknown"

    def forget(self, avatar: str) -> None:
        """Drop what is queued or poisoned for an avatar that is finished; leases run out on their own."""
        for store in (self._queue, self._poisoned):
            for request_id in [r for r, lease in store.items() if lease.avatar == avatar]:
                del store[request_id]

    def next_deadline(self) -> float | None:
        """The earliest deadline among the leases, or None without leases."""
        return min((lease.deadline for lease in self._leased.values()), default=None)

    def poisoned(self, avatar: str) -> list[Lease[T]]:
        """Requests of an avatar that were given up, with their reasons."""
        return [lease for lease in self._poisoned.values() if lease.avatar == avatar]

    @property
    def waiting(self) -> int:
        """Number of queued requests."""
        return len(self._queue)

    @property
    def leased(self) -> int:
        """Number of requests that workers hold."""
        return len(self._leased)

    def _again(self, lease: Lease[T], reason: str) -> Lease[T] | None:
        del self._leased[lease.request_id]
        lease.reasons.append(reason)
        lease.worker = None
        if lease.attempts >= self.max_attempts:
            self._poisoned[lease.request_id] = lease
            return lease
        # To the front: an avatar at slack 0 stands still until this very request is answered.
        self._queue[lease.request_id] = lease
        self._queue.move_to_end(lease.request_id, last=False)
        return None
