"""Brings requests to workers and answers back to avatars. An asyncio class without Ray in it; Ray runs it as an actor.

No pictures pass through here: an order names its request by reference. What limits an avatar's orders is its window
(:class:`zero1toa.symgen.staleness.StalenessPolicy`): each answer is the credit for another request. Nothing durable
lives here either. A request that is lost in a restart is submitted again by its avatar, which learns of the loss when
it asks for the answer; an answer that is lost has been committed to the dataset before it was given, so the repeated
request comes back as a duplicate.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from zero1toa.distributed.leases import HISTORY, Lease, LeaseQueue, lease_length, together
from zero1toa.distributed.records import Load, Order, Turn
from zero1toa.distributed.sleepers import Sleepers
from zero1toa.symgen.failure import Failure
from zero1toa.symgen.patience import MAX_ATTEMPTS
from zero1toa.types import Receipt

_WORK = ""  # what workers wait for; avatars wait for their own name


class Dispatcher:
    """A queue with leases that workers pull from.

    Args:
        micro_batch: clips that one worker may be given at once.
        clock: seconds; replaced in tests.
    """

    def __init__(self, micro_batch: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._micro_batch = micro_batch
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=HISTORY)
        self._queue: LeaseQueue[Order] = LeaseQueue(lease_length(()), MAX_ATTEMPTS)
        self._answers: dict[str, dict[str, Receipt | Failure]] = {}  # by avatar and request
        self._sleepers = Sleepers()
        self._closed = False
        self._gone: set[str] = set()  # workers that are given nothing any more
        self._attendance = _Attendance()
        self._handed = self._expired = self._poisoned = 0

    async def ask(
        self, avatar: str, orders: Sequence[Order], request_ids: Collection[str], patience: float
    ) -> tuple[list[Receipt | Failure], list[str]]:
        """Take an avatar's new orders, and wait up to ``patience`` seconds for the first answer to its requests.

        An order that is queued, being served or successfully answered is not queued again. Answers to other requests
        of the avatar are dropped: it has taken them in already.

        Args:
            avatar: who asks.
            orders: new orders.
            request_ids: all requests that it waits for, those of ``orders`` among them.
            patience: seconds.

        Returns:
            The answers, and the ids that are neither answered nor in the queue: they are to be submitted again.
        """
        known = {r: answer for r, answer in self._answers.get(avatar, {}).items() if r in request_ids}
        self._answers[avatar] = known
        for order in orders:
            self._submit(order)
        end = time.monotonic() + patience
        while True:
            self._expire()
            known = self._answers.get(avatar, {})
            found = [known[r] for r in request_ids if r in known]
            lost = [r for r in request_ids if r not in known and self._queue.state(r) == "unknown"]
            left = end - time.monotonic()
            if found or lost or left <= 0:
                return found, lost
            await self._sleepers.sleep(avatar, self._until(left))

    async def next(self, worker: str, holding: Collection[str], patience: float, early: float = 0.0) -> Turn:
        """Work for ``worker``, waiting up to ``patience`` seconds for some.

        Args:
            worker: who asks.
            holding: requests that it refines or is about to commit; they stay leased to it.
            patience: seconds.
            early: seconds that it expects to be busy yet; it asks before it is free, to be given work in time.
        """
        end = time.monotonic() + patience
        self._attendance.rests(worker, self._clock() + early)
        try:
            # A worker that died while it waited must not be given what comes in after its death.
            while not self._closed and worker not in self._gone:
                self._expire()
                orders = self._take(worker, holding, ahead=early > 0)
                if orders:
                    return Turn("work", orders)
                left = end - time.monotonic()
                if left <= 0:
                    return Turn("idle")
                await self._sleepers.sleep(_WORK, self._until(left))
            return Turn("closed")
        finally:
            self._attendance.works(worker, self._clock())

    async def done(self, avatar: str, receipt: Receipt) -> None:
        """Deliver the answer of a request that a worker has served and committed."""
        lease = self._queue.done(receipt.request_id)
        if lease is not None and lease.worker is not None:
            self._durations.append(self._clock() - lease.taken)
            self._queue.lease_seconds = lease_length(tuple(self._durations))
        self._answer(avatar, receipt)

    async def fail(self, request_id: str, worker: str, reason: str) -> None:
        """Give a request that ``worker`` could not serve to another one, or give it up after its last attempt."""
        poisoned = self._queue.fail(request_id, worker, reason)
        self._give_up([poisoned] if poisoned else [])
        self._sleepers.wake(_WORK, 1)

    async def lost(self, avatar: str, request_id: str, worker: str) -> None:
        """Forget a request whose pictures died with its avatar's process; the next process submits it again."""
        self._queue.drop(request_id, worker)
        self._sleepers.wake(avatar)

    async def release(self, worker: str, reason: str) -> tuple[bool, int]:
        """Take back what a worker that died or went home held, and give it nothing any more.

        Returns:
            Whether it died while it only waited for work, and how many requests are given up with it.
        """
        self._gone.add(worker)
        waited = self._attendance.waits(worker, self._clock())
        self._attendance.leaves(worker, self._clock())
        given_up = self._queue.release(worker, reason)
        self._give_up(given_up)
        self._sleepers.wake(_WORK)
        return waited, len(given_up)

    async def retire(self, worker: str) -> None:
        """Send a worker home when it has served what it holds."""
        self._gone.add(worker)
        self._sleepers.wake(_WORK)

    async def load(self) -> Load:
        """How busy the workers are."""
        worked, present = self._attendance.sums(self._clock())
        queue = self._queue
        return Load(queue.waiting, queue.leased, self._handed, worked, present, self._expired, self._poisoned)

    async def forget(self, avatar: str) -> None:
        """Drop everything of an avatar that is finished."""
        self._queue.forget(avatar)
        self._answers.pop(avatar, None)

    async def close(self) -> None:
        """Send all workers home."""
        self._closed = True
        self._sleepers.wake(_WORK)

    def _submit(self, order: Order) -> None:
        known = self._answers.setdefault(order.avatar, {})
        answer = known.get(order.request_id)
        if isinstance(answer, Receipt) and answer.status != "expired":
            return
        known.pop(order.request_id, None)
        if self._queue.submit(order.request_id, order.avatar, order):
            self._sleepers.wake(_WORK, 1)

    def _answer(self, avatar: str, answer: Receipt | Failure) -> None:
        self._answers.setdefault(avatar, {})[answer.request_id] = answer
        self._sleepers.wake(avatar)

    def _take(self, worker: str, holding: Collection[str], *, ahead: bool) -> tuple[Order, ...]:
        lease = self._queue.take(worker, self._clock(), holding, ahead=ahead)
        if lease is None:
            return ()
        count = together(self._queue.waiting + 1, self._attendance.present, self._micro_batch)
        alike = self._queue.take_alike(lease, self._clock(), count - 1, lambda order: order.shape)
        self._handed += 1 + len(alike)
        return (lease.payload, *(other.payload for other in alike))

    def _expire(self) -> None:
        deadline = self._queue.next_deadline()
        if deadline is None or self._clock() < deadline:
            return
        before = self._queue.leased
        self._give_up(self._queue.expire(self._clock()))
        self._expired += before - self._queue.leased
        self._sleepers.wake(_WORK)

    def _give_up(self, leases: Iterable[Lease[Order]]) -> None:
        for lease in leases:
            self._poisoned += 1
            self._answer(lease.avatar, Failure(lease.request_id, "; ".join(dict.fromkeys(lease.reasons))))

    def _until(self, seconds: float) -> float:
        """``seconds``, or the time to the next lease's end if that comes first."""
        deadline = self._queue.next_deadline()
        return seconds if deadline is None else min(seconds, max(deadline - self._clock(), 0.0) + 0.01)


class _Attendance:
    """Since when each worker works or rests, and for how long it has done so."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[bool, float]] = {}  # worker: whether it works, and since when
        self._sums = {True: 0.0, False: 0.0}

    @property
    def present(self) -> int:
        """Number of workers that are there."""
        return len(self._since)

    def waits(self, worker: str, now: float) -> bool:
        """Whether a worker waits for work; one that has never asked for any, or is not free yet, does not."""
        works, since = self._since.get(worker, (True, now))
        return not works and since <= now

    def rests(self, worker: str, since: float) -> None:
        """Begin a rest, now or when the worker expects to be free."""
        self._change(worker, False, since)

    def works(self, worker: str, now: float) -> None:
        """End a rest; nothing changes for a worker that was not free yet."""
        if worker in self._since:
            self._change(worker, True, max(now, self._since[worker][1]))

    def leaves(self, worker: str, now: float) -> None:
        self._change(worker, False, now)
        del self._since[worker]

    def sums(self, now: float) -> tuple[float, float]:
        """Seconds of work, and seconds of presence."""
        sums = dict(self._sums)
        for working, since in self._since.values():
            sums[working] += now - since
        return sums[True], sums[True] + sums[False]

    def _change(self, worker: str, works: bool, now: float) -> None:
        working, since = self._since.get(worker, (works, now))
        self._sums[working] += now - since
        self._since[worker] = (works, now)
