"""What a running generation tells its caller: one event type and one callback.

The loops know nothing about terminals, reports or trackers; they call a :class:`Progress` with a
:class:`ProgressEvent` and go on. The serial and the distributed loop emit the same events, in the same order for one
avatar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

from zero1toa.types import Stage

EventKind = Literal[
    "started",  # once per call, also when a run continues from a checkpoint (``iteration`` > 0)
    "iteration",  # one training iteration is done
    "answered",  # a refinement request was answered; ``message`` holds the status, ``timings`` its phases
    "preview",  # a preview picture was written; ``preview`` holds its path
    "checkpoint",  # a checkpoint is on disk
    "notice",  # a fallback, a restarted worker, a poisoned request; ``message`` says what
    "finished",  # the bundle is on disk
]


@dataclasses.dataclass(frozen=True)
class ProgressEvent:
    """Where one avatar's generation is.

    Attributes:
        kind: what has just happened.
        avatar: avatar id.
        stage: newest curriculum stage at this iteration.
        iteration: training iterations done, 0 to ``iterations``.
        iterations: training iterations in total.
        losses: unweighted loss terms of this iteration by name and the weighted ``total``, on a GPU of the one before
            where there is one; empty for other kinds.
        requested: refinement requests made since the avatar began.
        refined: clips refined and committed.
        superseded: refined clips refused because another commit came first.
        expired: refined clips refused because they were too old or from an earlier stage.
        gaussians: number of Gaussians.
        seconds: time spent on this avatar, earlier sessions of a continued run included.
        eta: estimated seconds to the end, or None until there is something to estimate from.
        timings: seconds by phase: of this request (``answered``) or of the whole run (``finished``).
        age: iterations between the render of an answered request and its answer, or None.
        preview: path or URL of a picture, or None.
        message: one line of text, or the empty string.
    """

    kind: EventKind
    avatar: str
    stage: Stage
    iteration: int
    iterations: int
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)
    requested: int = 0
    refined: int = 0
    superseded: int = 0
    expired: int = 0
    gaussians: int = 0
    seconds: float = 0.0
    eta: float | None = None
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    age: int | None = None
    preview: str | None = None
    message: str = ""


class Progress(Protocol):
    """Receives every event of a generation, in order, in the caller's thread."""

    def __call__(self, event: ProgressEvent) -> None:
        """Handle one event; an exception raised here ends the generation, which continues from its last checkpoint."""
        ...


def silent(event: ProgressEvent) -> None:
    """A :class:`Progress` that ignores every event."""
