"""One avatar's loop: the decisions of :func:`zero1toa.symgen.alternation.alternate` in its order, without the work.

Between two decisions nothing happens but iterations, so that these pass in one event. As they go by, the policy's
answers turn once, from no to yes for the next request and from yes to no for training; where, is searched by asking it.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable
from random import Random
from typing import Literal

from zero1toa.distributed.simulation.records import Answer, Ending, Records, Request
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.simulation.timeline import Timeline
from zero1toa.distributed.simulation.variation import vary

_ROUNDING = 1e-9  # iterations; an answer at the end of an iteration is heard at its end and not after the next


@dataclasses.dataclass
class State:
    """What a checkpoint holds.

    Attributes:
        step: training iterations done.
        submitted: requests made.
        endings: how requests ended; what was committed before a restart counts as committed.
        outstanding: requests without an answer, by id.
        versions: version of each clip that is trained on.
    """

    step: int
    submitted: int
    endings: dict[Ending, int]
    outstanding: dict[str, Request]
    versions: list[int]

    def copy(self) -> State:
        """A copy that does not change with this one."""
        return State(self.step, self.submitted, dict(self.endings), dict(self.outstanding), list(self.versions))


class Avatar:
    """An avatar, its dataset, and the loop that a trainer runs for it.

    Attributes:
        name: name of the avatar.
        state: what the loop has reached.
        policy: when it may submit and train; a coordinator may change it on the way.

    Args:
        name: name of the avatar.
        settings: what is simulated.
        timeline: the clock.
        records: counts what happens.
        random: varies the training time.
        submit: takes a request.
        ended: told of the end; True with the avatar done, False if one of its clips was given up.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        timeline: Timeline,
        records: Records,
        random: Random,
        submit: Callable[[Request], None],
        ended: Callable[[Avatar, bool], None],
    ) -> None:
        self.name = name
        self.policy = settings.policy
        self.state = State(0, 0, {}, {}, [0] * settings.clips)
        self._saved = self.state.copy()
        self._settings = settings
        self._timeline = timeline
        self._records = records
        self._random = random
        self._submit = submit
        self._ended = ended
        self._committed: dict[str, int] = {}  # the dataset: versions by the request that made them
        self._newest = [0] * settings.clips
        self._doing: Literal["nothing", "rendering", "training", "waiting"] = "nothing"
        self._turn = 0  # changes with all that the loop does, so that events of what it has left are known
        self._inbox: list[Answer] = []
        self._pace = settings.iteration_seconds
        self._since = 0.0
        self._stop = 0

    @property
    def step(self) -> int:
        """Training iterations done by now."""
        if self._doing != "training":
            return self.state.step
        return self.state.step + math.floor((self._timeline.now - self._since) / self._pace + _ROUNDING)

    def begin(self) -> None:
        """Run the loop, from the last checkpoint if there was one."""
        if self.state.step < self._settings.iterations:
            for request in tuple(self.state.outstanding.values()):
                self._submit(request)
        self._proceed()

    def die(self) -> None:
        """Lose everything since the last checkpoint, and the process."""
        self._records.iterations_redone += self.step - self._saved.step
        self._change("nothing")
        self._inbox.clear()
        self.state = self._saved.copy()

    def knows(self, request: Request) -> bool:
        """Whether a request was committed before."""
        return request.request_id in self._committed

    def admit(self, request: Request) -> Answer:
        """Commit a refined clip if it still counts, as :func:`zero1toa.symgen.admission.admit`."""
        known = self._committed.get(request.request_id)
        if known is not None:
            return Answer(request, "duplicate", known)
        current = self._newest[request.clip]
        verdict = self.policy.judge(
            base_version=request.base_version,
            current_version=current,
            epoch=request.epoch,
            current_epoch=self._epoch(self.step),
            age=self.step - request.render_step,
        )
        if verdict != "accept":
            return Answer(request, verdict, current)
        self._newest[request.clip] = self._committed[request.request_id] = current + 1
        return Answer(request, "committed", current + 1)

    def deliver(self, answer: Answer) -> None:
        """Hear an answer: at once when the loop waits, else at the end of the iteration; or not at all, when it is to
        none of its requests."""
        if answer.request.request_id not in self.state.outstanding or self._doing == "nothing":
            return
        self._inbox.append(answer)
        if self._doing == "waiting":
            self._proceed()
        elif self._doing == "training":
            self._stop_by(self._timeline.now)

    def _proceed(self) -> None:
        state = self.state
        while state.step < self._settings.iterations:
            outstanding = state.outstanding
            if self.policy.may_submit(state.step, state.submitted, len(outstanding)):
                self._change("rendering")
                self._timeline.after(self._settings.render_seconds, self._rendered, self._turn)
                return
            renders = [request.render_step for request in outstanding.values()]
            ready = self.policy.may_train(state.step, state.submitted, renders)
            if outstanding:
                answers, self._inbox = self._inbox, []
                if not answers and not ready:
                    self._change("waiting")
                    return
                if not all(self._take(answer) for answer in answers):
                    self._end(done=False)
                    return
                if answers or not ready:
                    continue
            self._train(renders)
            return
        self._end(done=True)

    def _rendered(self, turn: int) -> None:
        if turn != self._turn:
            return
        state = self.state
        clip, epoch = state.submitted % len(state.versions), self._epoch(state.step)
        base = state.versions[clip]
        request_id = f"{self.name}/{clip}/{base}/{epoch}"
        request = Request(request_id, self.name, clip, base, epoch, state.step, self._timeline.now)
        state.submitted += 1
        state.outstanding[request_id] = request
        self._pace = vary(self._settings.iteration_seconds, self._settings.training_variation, self._random)
        self._submit(request)
        self._proceed()

    def _train(self, renders: list[int]) -> None:
        state, every = self.state, self._settings.checkpoint_every
        first = state.step + 1
        # The search goes no further than a change that is due anyway.
        last = min(
            self._settings.iterations,
            (state.step // every + 1) * every,
            state.step + self.policy.interval,
        )

        def to_decide(step: int) -> bool:
            submits = self.policy.may_submit(step, state.submitted, len(renders))
            return submits or not self.policy.may_train(step, state.submitted, renders)

        self._stop = first + bisect_left(range(first, last), True, key=to_decide)
        self._change("training")
        self._since = self._timeline.now
        self._timeline.after((self._stop - state.step) * self._pace, self._trained, self._turn)

    def _stop_by(self, moment: float) -> None:
        """Let training end with the iteration that is under way."""
        iterations = max(math.ceil((moment - self._since) / self._pace - _ROUNDING), 1)
        if self.state.step + iterations < self._stop:
            self._stop = self.state.step + iterations
            self._turn += 1
            self._timeline.after(self._since + iterations * self._pace - moment, self._trained, self._turn)

    def _trained(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._change("nothing")
        self.state.step = self._stop
        if self._stop % self._settings.checkpoint_every == 0:
            self._saved = self.state.copy()
        self._proceed()

    def _take(self, answer: Answer) -> bool:
        """Take in an answer; False if its clip was given up, and the avatar with it."""
        state, request = self.state, answer.request
        # As it was asked for by this process: after a restart, later than by the one that died.
        asked = state.outstanding.pop(request.request_id)
        ending: Ending = "committed" if answer.ending == "duplicate" else answer.ending
        state.endings[ending] = state.endings.get(ending, 0) + 1
        if answer.ending == "failed":
            return False
        state.versions[request.clip] = max(state.versions[request.clip], answer.version)
        self._records.age_seconds.append(self._timeline.now - asked.rendered)
        self._records.age_iterations.append(state.step - asked.render_step)
        return True

    def _end(self, *, done: bool) -> None:
        self._change("nothing")
        self._saved = self.state.copy()
        self._committed.clear()
        self._ended(self, done)

    def _change(self, doing: Literal["nothing", "rendering", "training", "waiting"]) -> None:
        busy = ("rendering", "training")
        change = (doing in busy) - (self._doing in busy)
        if change:
            self._records.training.add(change)
        self._doing = doing
        self._turn += 1

    def _epoch(self, step: int) -> int:
        return sum(step >= start for start in self._settings.stages)
