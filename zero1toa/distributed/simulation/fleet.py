"""The coordinator and its trainers: portraits are prepared, begun, begun again after a death, and end once."""

from __future__ import annotations

import dataclasses
from collections import deque
from random import Random

from zero1toa.distributed.failures import MAX_DEATHS
from zero1toa.distributed.simulation.records import Moment, Records
from zero1toa.distributed.simulation.refining import Refinery
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.simulation.timeline import Timeline
from zero1toa.distributed.simulation.training import Avatar


@dataclasses.dataclass
class Training:
    """An avatar that was begun.

    Attributes:
        avatar: the avatar.
        begun: times that it was begun.
        furthest: iteration it had reached at its last death.
        deaths: deaths in a row without an iteration gained.
        alive: whether a trainer works on it.
    """

    avatar: Avatar
    begun: int = 0
    furthest: int = -1
    deaths: int = 0
    alive: bool = False


class Fleet:
    """A whole batch.

    Attributes:
        done: avatars that were finished.
        failed: avatars that were given up.
        full: when as many avatars had begun as there are trainers, and the refiners had started; None if before that
            a trainer found no portrait left.
        emptying: when the first trainer found no portrait left, or None.

    Args:
        settings: what is simulated.
        timeline: the clock.
        records: counts what happens.
    """

    def __init__(self, settings: Settings, timeline: Timeline, records: Records) -> None:
        self.done: list[Avatar] = []
        self.failed: list[Avatar] = []
        self.full: Moment | None = None
        self.emptying: Moment | None = None
        self._settings = settings
        self._timeline = timeline
        self._records = records
        self._avatars: dict[str, Avatar] = {}
        self._refinery = Refinery(settings, timeline, records, self._avatars)
        self._unseen = deque(f"portrait-{number}" for number in range(settings.portraits))
        self._preparing = 0
        self._ready: deque[str] = deque()
        self._in_work: dict[str, Training] = {}
        self._loops: set[str] = set()  # avatars whose loop has begun
        self._warm = 0  # trainers without an avatar
        self._widened = False
        self._variations = Random(f"{settings.seed}/training")
        self._kills = Random(f"{settings.seed}/trainer kills")

    @property
    def over(self) -> bool:
        """Whether every portrait has ended."""
        return len(self.done) + len(self.failed) == self._settings.portraits

    def start(self) -> None:
        """Start the refiners, and the first portraits."""
        self._refinery.start()
        self._prepare()

    def _prepare(self) -> None:
        while self._unseen and self._preparing + len(self._ready) < self._settings.look_ahead:
            self._preparing += 1
            self._timeline.after(self._settings.prepare_seconds, self._prepared, self._unseen.popleft())

    def _prepared(self, name: str) -> None:
        self._preparing -= 1
        self._ready.append(name)
        self._fill()

    def _fill(self) -> None:
        """Begin what can be begun."""
        while self._ready and len(self._in_work) < self._settings.avatars:
            name = self._ready.popleft()
            avatar = Avatar(
                name,
                self._settings,
                self._timeline,
                self._records,
                self._variations,
                self._refinery.submit,
                self._reached_end,
            )
            self._avatars[name] = avatar
            training = self._in_work[name] = Training(avatar)
            self._begin(training)
        self._prepare()
        self._widen()

    def _begin(self, training: Training, wait: float = 0.0) -> None:
        """Begin an avatar, or begin it again, on a trainer that is there or on a new one ``wait`` seconds later."""
        training.begun += 1
        if self._warm:
            self._warm -= 1
            seconds = wait = 0.0
        else:
            seconds = wait + self._settings.trainer_start_seconds
            self._timeline.after(wait, self._records.training_machines.add, 1)
        training.alive = True
        if self._settings.trainer_kills:
            hours = self._kills.expovariate(self._settings.trainer_kills)
            self._timeline.after(wait + 3600 * hours, self._die, training, training.begun)
        self._timeline.after(seconds, self._loop, training, training.begun)

    def _loop(self, training: Training, begun: int) -> None:
        if not training.alive or training.begun != begun:
            return
        self._loops.add(training.avatar.name)
        if self.full is None and len(self._loops) == self._settings.avatars:
            late = self._settings.refiner_start_seconds - self._timeline.now
            self._timeline.after(late, self._all_in_work)
        training.avatar.policy = self._settings.policy
        self._widened = False
        self._widen()
        training.avatar.begin()

    def _all_in_work(self) -> None:
        if self.full is None and self.emptying is None:
            self.full = self._records.moment()

    def _widen(self) -> None:
        """As the coordinator does it in the tail of a batch."""
        settings = self._settings
        more = self._unseen or self._preparing or self._ready
        if self._widened or settings.tail_window <= settings.window or more or not self._in_work:
            return
        if len(self._in_work) * settings.window <= settings.refiners:
            slack = settings.slack + settings.tail_window - settings.window
            for training in self._in_work.values():
                policy = training.avatar.policy
                training.avatar.policy = dataclasses.replace(policy, window=settings.tail_window, slack=slack)
            self._widened = True

    def _die(self, training: Training, begun: int) -> None:
        avatar = training.avatar
        if not training.alive or training.begun != begun or avatar.name not in self._in_work:
            return
        reached = avatar.step
        self._records.trainer_deaths += 1
        self._records.training_machines.add(-1)
        training.alive = False
        avatar.die()
        self._refinery.forget(avatar.name)
        training.deaths = training.deaths + 1 if reached <= training.furthest else 1
        training.furthest = max(training.furthest, reached)
        if training.deaths < MAX_DEATHS:
            self._begin(training, self._settings.restart_seconds)
        else:
            self._leave(avatar, done=False)

    def _reached_end(self, avatar: Avatar, done: bool) -> None:
        training = self._in_work[avatar.name]
        if done:
            self._timeline.after(self._settings.finish_seconds, self._finish, training, training.begun)
        else:  # its process is ended with it
            self._records.training_machines.add(-1)
            self._leave(avatar, done=False)

    def _finish(self, training: Training, begun: int) -> None:
        if training.alive and training.begun == begun:
            self._warm += 1
            self._leave(training.avatar, done=True)

    def _leave(self, avatar: Avatar, *, done: bool) -> None:
        (self.done if done else self.failed).append(avatar)
        del self._in_work[avatar.name]
        self._refinery.forget(avatar.name)
        if self.emptying is None and not (self._unseen or self._preparing or self._ready):
            self.emptying = self._records.moment()
        self._fill()
