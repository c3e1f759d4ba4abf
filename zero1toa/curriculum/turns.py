"""Whose turn it is: which clip a refinement request asks for, and how much of it is unlocked.

The reconstruction asks it turn by turn, and ``zero1toa plan`` asks it for all turns at once, so that what is printed
before a run is what the run does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from zero1toa.config import Config
from zero1toa.curriculum.schedule import Schedule, next_clip
from zero1toa.types import SampleKey


@dataclasses.dataclass(frozen=True)
class Turn:
    """One refinement request, before anything is rendered.

    Attributes:
        key: the clip.
        unlocked: leading frames of it that are open; the others show the last open one (paper eq. 2).
    """

    key: SampleKey
    unlocked: int


class Turns:
    """The order of refinement requests of one avatar.

    Args:
        config: the run's configuration.
        keys: all clips of the curriculum.
    """

    def __init__(self, config: Config, keys: Collection[SampleKey]) -> None:
        self._schedule = Schedule(config.curriculum)
        self._keys = list(keys)
        self._seed = config.seed
        # Without refinement a clip's target is its first render, which is not made twice.
        self._once = not config.diffusion.enabled

    def next(self, step: int, requested: Mapping[SampleKey, int]) -> Turn | None:
        """The request of training iteration ``step``.

        Args:
            step: training iterations done.
            requested: number of the last request for each clip that had one.

        Returns:
            The clip and its open frames; None if no open clip is left to ask for.
        """
        candidates = [key for key in self._keys if not (self._once and key in requested)]
        key = next_clip(candidates, requested, self._schedule.open_stages(step), self._seed)
        if key is None:
            return None
        frames = self._schedule.config.frames
        return Turn(key, frames if self._once else self._schedule.unlocked(key.stage, step))
