"""What the curriculum decides at training iteration k, as pure functions of k (paper sec. 4.2, eq. 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.spatial import spatial_clips
from zero1toa.curriculum.temporal import real_clips, synthetic_clips
from zero1toa.errors import ConfigError, nearest
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import ClipSpec, SampleKey, Stage

ORDERS = ("progressive", "random")
_STAGES: tuple[Stage, ...] = ("spatial", "temporal_synthetic", "temporal_real")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Stages, epochs and unlocked frames by iteration.

    The dataset grows and never shrinks: D_s first, D_s with D_syn from ``temporal_start``, all three from
    ``real_start`` (paper sec. 4.3). A stage without clips is skipped. In random order everything is open at once.

    Attributes:
        config: numbers of clips and frames, stage switches, unlock interval, order.

    Raises:
        ConfigError: for an unknown ``curriculum.order``.
    """

    config: CurriculumConfig

    def __post_init__(self) -> None:
        if self.config.order not in ORDERS:
            raise ConfigError(
                f"curriculum.order={self.config.order} is unknown{nearest(self.config.order, ORDERS)}; "
                f"choose {' or '.join(ORDERS)}"
            )

    @property
    def progressive(self) -> bool:
        """Whether the curriculum goes from easy to hard (paper sec. 4.2)."""
        return self.config.order == "progressive"

    def epoch(self, step: int) -> int:
        """Number of stage switches up to iteration ``step``: 0, 1 or 2. A request from an older epoch is refused."""
        if not self.progressive:
            return 0
        return int(step >= self.config.temporal_start) + int(step >= self.config.real_start)

    def open_stages(self, step: int) -> tuple[Stage, ...]:
        """Stages whose clips belong to the dataset at iteration ``step``, the oldest first.

        Without any clip in the stages reached so far, the next stage that has clips is open from the beginning.
        """
        counts = (self.config.spatial_clips, self.config.synthetic_clips, self.config.real_clips)
        starts = (0, self.config.temporal_start, self.config.real_start)
        filled = [(stage, start) for stage, start, count in zip(_STAGES, starts, counts, strict=True) if count]
        reached = tuple(stage for stage, start in filled if step >= start or not self.progressive)
        return reached or tuple(stage for stage, _ in filled[:1])

    def stage(self, step: int) -> Stage:
        """The newest open stage, for display; ``portrait`` if the curriculum has no clips at all."""
        stages = self.open_stages(step)
        return stages[-1] if stages else "portrait"

    def unlocked(self, stage: Stage, step: int) -> int:
        """Open frames j = min(floor(k / d_s) + 1, n_f) of a clip (paper eq. 2).

        Only spatial clips are unlocked step by step; a temporal clip begins relaxed and is open as a whole.
        """
        if stage != "spatial" or not self.progressive:
            return self.config.frames
        return min(step // self.config.unlock_interval + 1, self.config.frames)


def build_clips(
    config: CurriculumConfig, head: HeadModel, identity: HeadParams, size: int, seed: int
) -> dict[SampleKey, ClipSpec]:
    """All clips of an avatar's curriculum, fully open.

    Args:
        config: what to make.
        head: the head model.
        identity: the avatar's head, no batch dimension.
        size: side of the frames in pixels.
        seed: one seed, one set of clips. The stages draw from separate streams, so that the number of clips of one
            stage does not change those of another.
    """
    clips: dict[SampleKey, ClipSpec] = {}
    for number, make in enumerate((spatial_clips, synthetic_clips, real_clips)):
        rng = np.random.default_rng([seed, 0xC11, number])
        for spec in make(config, head, identity, size, rng):
            clips[spec.key] = spec
    return clips


def next_clip(
    keys: Iterable[SampleKey], requested: Mapping[SampleKey, int], open_stages: Sequence[Stage], seed: int
) -> SampleKey | None:
    """The clip to refine next: the open one whose last request is longest ago.

    The paper does not say how a sample is chosen. Least recently requested makes a new stage's clips come first, each
    once, and then refreshes all of them equally often; a random choice would leave one clip in e unseen in a round.
    Requests count, and not answers, so that a clip that cannot be refined does not block the others.

    Args:
        keys: all clips.
        requested: number of the last request for each clip that had one.
        open_stages: stages whose clips may be chosen.
        seed: orders the clips that were never requested.

    Returns:
        The chosen clip, or None if no stage with clips is open.
    """
    candidates = sorted(key for key in keys if key.stage in open_stages)
    if not candidates:
        return None
    order = np.random.default_rng([seed, 0x0BDE]).permutation(len(candidates))
    # The permutation breaks ties only; newer stages go first among the clips that were never requested.
    ranked = [
        (requested.get(key, -1), -open_stages.index(key.stage), int(place), key)
        for key, place in zip(candidates, order, strict=True)
    ]
    return min(ranked)[-1]


def random_clip(keys: Iterable[SampleKey], open_stages: Sequence[Stage], seed: int, number: int) -> SampleKey | None:
    """Any open clip, each as likely as any other: the choice without progressive learning (paper sec. 5.2).

    Args:
        keys: clips to choose from.
        open_stages: stages whose clips may be chosen.
        seed: the run's.
        number: of the request; every request draws anew.

    Returns:
        The chosen clip, or None if there is none.
    """
    candidates = sorted(key for key in keys if key.stage in open_stages)
    if not candidates:
        return None
    return candidates[int(np.random.default_rng([seed, 0x5A4D, number]).integers(len(candidates)))]
