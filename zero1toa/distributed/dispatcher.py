"""Brings requests to workers and answers back to avatars. An asyncio class without Ray in it; Ray runs it as an actor.

Nothing durable lives here. A request that is lost in a restart is submitted again by its avatar, which learns of the
loss when it asks for the answer; an answer that is lost has been committed to the dataset before it was given, so the
repeated request comes back as a duplicate.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from zero1toa.distributed.leases import Lease, LeaseQueue, lease_length
from zero1toa.distributed.records import Order, Turn
from zero1toa.symgen.refinery import MAX_ATTEMPTS, Failure
from zero1toa.types import Receipt

_HISTORY = 50  # services that the lease's length is taken from


class Dispatcher:
    """A queue with leases that workers pull from.

    Args:
        clock: seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=_HISTORY)
        self._queue: LeaseQueue[Order] = LeaseQueue(lease_length(()), MAX_ATTEMPTS)
        self._answers: dict[str, tuple[str, Receipt | Failure]] = {}
        self._changed = asyncio.Condition()
        self._closed = False
        self._dead: set[str] = set()

    async def submit(self, order: Order) -> None:
        """Queue an order; one that is queued, being served or successfully answered is not queued again."""
        request_id = order.request.request_id
        answer = self._answers.get(request_id)
        if answer is not None and isinstance(answer[1], Receipt) and answer[1].status != "expired":
            return
        self._answers.pop(request_id, None)
        if self._queue.submit(request_id, order.request.avatar, order):
            await self._notify()

    async def next(self, worker: str, patience: float) -> Turn:
        """Work for ``worker``, waiting up to ``patience`` seconds for some."""
        end = time.monotonic() + patience
        # A worker that died while it waited must not be given what comes in after its death.
        while not self._closed and worker not in self._dead:
            await self._expire()
            lease = self._queue.take(worker, self._clock())
            if lease is not None:
                return Turn("work", lease.payload)
            left = end - time.monotonic()
            if left <= 0:
                return Turn("idle")
            await self._wait(left)
        return Turn("closed")

    async def done(self, avatar: str, receipt: Receipt) -> None:
        """Deliver the answer of a request that a worker has served and committed."""
        lease = self._queue.done(receipt.request_id)
        if lease is not None and lease.worker is not None:
            self._durations.append(self._clock() - lease.taken)
            self._queue.lease_seconds = lease_length(tuple(self._durations))
        self._answers[receipt.request_id] = (avatar, receipt)
        await self._notify()

    async def fail(self, request_id: str, worker: str, reason: str) -> None:
        """Give a request that ``worker`` could not serve to another one, or give it up after its last attempt."""
        poisoned = self._queue.fail(request_id, worker, reason)
        self._give_up([poisoned] if poisoned else [])
        await self._notify()

    async def release(self, worker: str, reason: str) -> None:
        """Take back what a dead worker held, and give it nothing any more."""
        self._dead.add(worker)
        self._give_up(self._queue.release(worker, reason))
        await self._notify()

    async def answers(
        self, avatar: str, request_ids: Sequence[str], patience: float
    ) -> tuple[list[Receipt | Failure], list[str]]:
        """Answers to an avatar's requests, waiting up to ``patience`` seconds for the first.

        Answers to other requests of the avatar are dropped: it has taken them in already.

        Returns:
            The answers, and the ids that are neither answered nor in the queue: they are to be submitted again.
        """
        for request_id in [r for r, (owner, _) in self._answers.items() if owner == avatar and r not in request_ids]:
            del self._answers[request_id]
        end = time.monotonic() + patience
        while True:
            await self._expire()
            found = [self._answers[r][1] for r in request_ids if r in self._answers]
            lost = [r for r in request_ids if r not in self._answers and self._queue.state(r) == "unknown"]
            left = end - time.monotonic()
            if found or lost or left <= 0:
                return found, lost
            await self._wait(left)

    async def forget(self, avatar: str) -> None:
        """Drop everything of an avatar that is finished."""
        self._queue.forget(avatar)
        for request_id in [r for r, (owner, _) in self._answers.items() if owner == avatar]:
            del self._answers[request_id]

    async def close(self) -> None:
        """Send all workers home."""
        self._closed = True
        await self._notify()

    async def _expire(self) -> None:
        poisoned = self._queue.expire(self._clock())
        if poisoned:
            self._give_up(poisoned)
            await self._notify()

    def _give_up(self, leases: Iterable[Lease[Order]]) -> None:
        for lease in leases:
            reason = "; ".join(dict.fromkeys(lease.reasons))
            self._answers[lease.request_id] = (lease.avatar, Failure(lease.request_id, reason))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, seconds: float) -> None:
        deadline = self._queue.next_deadline()
        if deadline is not None:
            seconds = min(seconds, max(deadline - self._clock(), 0.0) + 0.01)
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except TimeoutError:
                return
