"""The dispatcher and its refiners: the queue is the real one, with leases, attempts and requests that are given up."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from random import Random

from zero1toa.distributed.failures import no_refiner_lives
from zero1toa.distributed.leases import HISTORY, Lease, LeaseQueue, lease_length, together
from zero1toa.distributed.simulation.records import Answer, Records, Request
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.simulation.timeline import Timeline
from zero1toa.distributed.simulation.training import Avatar
from zero1toa.distributed.simulation.variation import vary
from zero1toa.errors import ConfigError
from zero1toa.symgen.patience import MAX_ATTEMPTS


class _Refiner:
    """A refinement actor on its machine.

    Attributes:
        name: name of this incarnation; a replacement has another one.
        alive: whether it has its machine.
        busy: whether it has requests in hand, other than to commit them.
        commits: ids of the requests that it is about to commit.
        committed: time at which the last of them is committed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.busy = False
        self.commits: list[str] = []
        self.committed = 0.0


class Refinery:
    """Takes requests, has them served in order, and delivers the answers.

    Args:
        settings: what is simulated.
        timeline: the clock.
        records: counts what happens.
        avatars: all avatars by name; filled by the owner.
    """

    def __init__(self, settings: Settings, timeline: Timeline, records: Records, avatars: Mapping[str, Avatar]) -> None:
        self._settings = settings
        self._timeline = timeline
        self._records = records
        self._avatars = avatars
        self._queue: LeaseQueue[Request] = LeaseQueue(lease_length(()), MAX_ATTEMPTS)
        self._durations: deque[float] = deque(maxlen=HISTORY)
        self._idle: deque[_Refiner] = deque()
        self._present: set[_Refiner] = set()  # that have asked for work and live
        self._numbers = itertools.count()
        self._services = Random(f"{settings.seed}/services")
        self._kills = Random(f"{settings.seed}/refiner kills")
        self._deaths = self._given_up = 0

    def start(self) -> None:
        """Start all refiners."""
        for _ in range(self._settings.refiners):
            self._launch()

    def submit(self, request: Request) -> None:
        """Queue a request, unless it is queued or being served."""
        if self._queue.submit(request.request_id, request.avatar, request):
            self._hand_out()

    def forget(self, avatar: str) -> None:
        """Drop what is queued for an avatar whose trainer has ended or died."""
        self._queue.forget(avatar)

    def _launch(self) -> None:
        settings, refiner = self._settings, _Refiner(f"refiner-{next(self._numbers)}")
        self._records.refining_machines.add(1)
        if settings.refiner_kills:
            hours = self._kills.expovariate(settings.refiner_kills)
            self._timeline.after(3600 * hours, self._die, refiner)
        self._timeline.after(settings.refiner_start_seconds, self._ask, refiner)

    def _ask(self, refiner: _Refiner) -> None:
        """Let a refiner ask for work."""
        if not refiner.alive:
            return
        self._work(refiner, False)
        self._present.add(refiner)
        self._idle.append(refiner)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._idle and self._queue.waiting:
            refiner = self._idle.popleft()
            now = self._timeline.now
            lease = self._queue.take(refiner.name, now, refiner.commits)
            assert lease is not None
            count = together(self._queue.waiting + 1, len(self._present), self._settings.micro_batch)
            self._serve(refiner, [lease, *self._queue.take_alike(lease, now, count - 1, lambda request: 0)])

    def _serve(self, refiner: _Refiner, leases: list[Lease[Request]]) -> None:
        settings, now = self._settings, self._timeline.now
        self._work(refiner, True)
        fresh = []
        seconds = 0.0
        for lease in leases:
            if lease.attempts == 1:
                self._records.waits.append(now - lease.payload.rendered)
            self._timeline.after(self._queue.lease_seconds, self._expire, lease)
            seconds += settings.lease_seconds
            if self._avatars[lease.avatar].knows(lease.payload):
                self._timeline.after(seconds, self._commit, refiner, lease)
            else:
                fresh.append(lease)
        if fresh:
            mean = settings.refine_seconds * (1 + settings.marginal * (len(fresh) - 1))
            seconds += vary(mean, settings.refine_variation, self._services)
        self._timeline.after(seconds, self._served, refiner, fresh)

    def _served(self, refiner: _Refiner, leases: list[Lease[Request]]) -> None:
        if not refiner.alive:
            return
        if not leases:
            self._ask(refiner)
            return
        # One commit at a time: before the next can begin, the refiner waits for those of the clips before.
        free = max(refiner.committed - self._timeline.now, 0.0)
        refiner.commits += [lease.request_id for lease in leases]
        for number, lease in enumerate(leases, 1):
            seconds = free + number * self._settings.commit_seconds
            self._timeline.after(seconds, self._commit, refiner, lease)
            refiner.committed = self._timeline.now + seconds
        self._timeline.after(free, self._ask, refiner)

    def _commit(self, refiner: _Refiner, lease: Lease[Request]) -> None:
        if not refiner.alive:
            return
        request = lease.payload
        if request.request_id in refiner.commits:
            refiner.commits.remove(request.request_id)
        avatar = self._avatars[request.avatar]
        answer = avatar.admit(request)
        done = self._queue.done(request.request_id)
        if done is not None and done.worker is not None:
            self._durations.append(self._timeline.now - done.taken)
            self._queue.lease_seconds = lease_length(tuple(self._durations))
        self._deaths = self._given_up = 0
        avatar.deliver(answer)

    def _die(self, refiner: _Refiner) -> None:
        """Lose a refiner, with the clip it refines and the one it is about to commit.

        Raises:
            ConfigError: if refiners die so often that a real batch would end.
        """
        settings, records = self._settings, self._records
        records.refiner_deaths += 1
        records.refining_machines.add(-1)
        self._work(refiner, False)
        refiner.alive = False
        self._present.discard(refiner)
        if refiner in self._idle:  # it lost its machine, and did not fail at its work
            self._idle.remove(refiner)
        else:
            self._deaths += 1
        held = self._queue.leased
        given_up = self._queue.release(refiner.name, f"{refiner.name} died")
        records.clips_lost += held - self._queue.leased
        self._given_up += len(given_up)
        if no_refiner_lives(self._deaths, settings.refiners, self._given_up):
            raise ConfigError(
                f"refiner_kills={settings.refiner_kills:g}: {self._deaths} refiners die in a row before a clip is "
                "refined, which ends a batch; lower it, or refiner_start_seconds or refine_seconds"
            )
        self._give_up(given_up)
        self._timeline.after(settings.restart_seconds, self._launch)
        self._hand_out()

    def _expire(self, lease: Lease[Request]) -> None:
        if self._queue.state(lease.request_id) != "leased" or lease.deadline > self._timeline.now:
            return
        before = self._queue.leased
        given_up = self._queue.expire(self._timeline.now)
        self._records.leases_expired += before - self._queue.leased
        self._give_up(given_up)
        self._hand_out()

    def _give_up(self, leases: list[Lease[Request]]) -> None:
        for lease in leases:
            avatar = self._avatars[lease.avatar]
            avatar.deliver(Answer(lease.payload, "failed", lease.payload.base_version))

    def _work(self, refiner: _Refiner, busy: bool) -> None:
        if refiner.busy != busy:
            refiner.busy = busy
            self._records.refining.add(1 if busy else -1)
