"""Whose turn it is: which clip a refinement request asks for, and how much of it is unlocked.

The reconstruction asks it turn by turn, and ``zero1toa plan`` asks it for all turns at once, so that what is printed
before a run is what the run does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from zero1toa.config import Config
from zero1toa.curriculum.schedule import Schedule, next_clip, random_clip
from zero1toa.errors import ConfigError, nearest
from zero1toa.types import SampleKey

UPDATES = ("iterative", "once")


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

    Raises:
        ConfigError: for an unknown ``curriculum.order`` or ``curriculum.updates``.
    """

    def __init__(self, config: Config, keys: Collection[SampleKey]) -> None:
        self._schedule = Schedule(config.curriculum)
        self._keys = list(keys)
        self._seed = config.seed
        updates = config.curriculum.updates
        if updates not in UPDATES:
            raise ConfigError(
                f"curriculum.updates={updates} is unknown{nearest(updates, UPDATES)}; choose {' or '.join(UPDATES)}"
            )
        # Without refinement a clip's target is its first render, which is not made twice. What is made once is made
        # with all frames open, or the frames that were locked then would never be seen.
        self._once = updates == "once" or not config.diffusion.enabled
        self._distilled = config.distillation.method != "none"  # then there is no dataset

    def open(self, step: int) -> list[tuple[SampleKey, int]]:
        """Clips that belong to the curriculum at iteration ``step``, sorted, each with its open frames."""
        stages = self._schedule.open_stages(step)
        return [(key, self._unlocked(key, step)) for key in sorted(self._keys) if key.stage in stages]

    def next(self, number: int, step: int, requested: Mapping[SampleKey, int]) -> Turn | None:
        """The request of training iteration ``step``.

        Args:
            number: of the request.
            step: training iterations done.
            requested: number of the last request for each clip that had one.

        Returns:
            The clip and its open frames; None if no open clip is left to ask for.
        """
        if self._distilled:
            return None
        candidates = [key for key in self._keys if not (self._once and key in requested)]
        stages = self._schedule.open_stages(step)
        if self._schedule.progressive:
            key = next_clip(candidates, requested, stages, self._seed)
        else:
            key = random_clip(candidates, stages, self._seed, number)
        return None if key is None else Turn(key, self._unlocked(key, step))

    def _unlocked(self, key: SampleKey, step: int) -> int:
        return self._schedule.config.frames if self._once else self._schedule.unlocked(key.stage, step)
