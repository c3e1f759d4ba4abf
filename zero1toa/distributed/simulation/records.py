"""What passes between simulated trainers and refiners, and what is counted on the way."""

from __future__ import annotations

import dataclasses
from array import array
from typing import Literal

from zero1toa.distributed.simulation.timeline import Level, Timeline

Ending = Literal["committed", "duplicate", "superseded", "expired", "failed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A clip to be refined.

    Attributes:
        request_id: the same for the same clip, version and stage of an avatar, as in a real run.
        avatar: name of the avatar.
        clip: number of the clip.
        base_version: version of the clip that the trainer had when it rendered.
        epoch: stage of the curriculum.
        render_step: training iteration of the render.
        rendered: time at which it was submitted, in seconds.
    """

    request_id: str
    avatar: str
    clip: int
    base_version: int
    epoch: int
    render_step: int
    rendered: float


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended.

    Attributes:
        request: the request.
        ending: what became of it.
        version: version of its clip in the dataset from now on.
    """

    request: Request
    ending: Ending
    version: int


@dataclasses.dataclass(frozen=True)
class Moment:
    """What had been counted at some time; see :class:`Records`.

    Attributes:
        seconds: the time.
        answers: clips that avatars had taken in.
        refining: integral of refiners with a request in hand.
        refining_machines: integral of machines that refiners held.
        training: integral of trainers that trained or rendered.
        training_machines: integral of machines that trainers held.
    """

    seconds: float
    answers: int
    refining: float
    refining_machines: float
    training: float
    training_machines: float


@dataclasses.dataclass
class Records:
    """Everything that is counted during a simulation.

    Attributes:
        timeline: the clock.
        refining: refiners with a request in hand.
        refining_machines: machines that refiners hold.
        training: trainers that train or render.
        training_machines: machines that trainers hold.
        waits: seconds from each request to its first refiner.
        age_seconds: seconds between render and answer, of every answer.
        age_iterations: training iterations between them.
        refiner_deaths: refiners that lost their machine.
        trainer_deaths: trainers that lost theirs.
        clips_lost: clips that refiners had in hand when they died.
        iterations_redone: training iterations lost with trainers since their last checkpoint.
        leases_expired: leases that ran out.
    """

    timeline: Timeline
    refining: Level
    refining_machines: Level
    training: Level
    training_machines: Level
    waits: array[float] = dataclasses.field(default_factory=lambda: array("d"))
    age_seconds: array[float] = dataclasses.field(default_factory=lambda: array("d"))
    age_iterations: array[float] = dataclasses.field(default_factory=lambda: array("d"))
    refiner_deaths: int = 0
    trainer_deaths: int = 0
    clips_lost: int = 0
    iterations_redone: int = 0
    leases_expired: int = 0

    @classmethod
    def on(cls, timeline: Timeline) -> Records:
        """Empty records on a clock."""
        return cls(timeline, Level(timeline), Level(timeline), Level(timeline), Level(timeline))

    def moment(self) -> Moment:
        """What has been counted by now."""
        return Moment(
            self.timeline.now,
            len(self.age_seconds),
            self.refining.integral,
            self.refining_machines.integral,
            self.training.integral,
            self.training_machines.integral,
        )
