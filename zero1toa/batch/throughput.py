"""Avatars per hour and the effective update interval of a batch, over the last half hour of its samples."""

from __future__ import annotations

import dataclasses
from collections import deque

from zero1toa.batch.records import Sample


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast a batch went over the last while.

    Attributes:
        avatars_per_hour: avatars finished per hour; None until two samples are known.
        effective_interval: training iterations per refined clip, which asynchrony must not stretch beyond
            ``loop.update_interval``; None while no clip was refined.
    """

    avatars_per_hour: float | None = None
    effective_interval: float | None = None


class Throughput:
    """Takes the samples of one job in order and gives the pace after each.

    Figures since the beginning would hide how a long job goes now; figures since the last sample would jump, as avatars
    finish one by one.

    Args:
        window: seconds to look back.
    """

    def __init__(self, window: float = 1800.0) -> None:
        self._window = window
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> Pace:
        """The pace up to ``sample``."""
        self._samples.append(sample)
        # The sample just outside the window stays: the differences then cover the whole of it.
        while len(self._samples) > 2 and self._samples[1].seconds <= sample.seconds - self._window:
            self._samples.popleft()
        first = self._samples[0]
        seconds, clips = sample.seconds - first.seconds, sample.clips - first.clips
        return Pace(
            avatars_per_hour=3600 * (sample.done - first.done) / seconds if seconds > 0 else None,
            effective_interval=(sample.iterations - first.iterations) / clips if clips > 0 else None,
        )
