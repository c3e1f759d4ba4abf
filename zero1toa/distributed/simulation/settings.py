"""What is simulated: numbers and durations, with the rates measured in docs/performance.md as defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zero1toa.distributed.placement import AVATARS_PER_REFINER, RECONSTRUCTION_GPU
from zero1toa.errors import ConfigError, nearest
from zero1toa.symgen.staleness import StalenessPolicy


@dataclass(frozen=True)
class Settings:
    """A batch, the machines it runs on, and how long everything takes.

    Values that the configuration has too are called as there. The defaults are the paper's schedule at the size of
    Follow-Your-Emoji on NVIDIA H200s; which of the seconds were measured, docs/scaling.md says.

    Raises:
        ConfigError: for a value that no batch can have.
    """

    portraits: int = 1000
    """Portraits of the batch."""
    refiners: int = 8
    """Refinement actors."""
    at_once: int = 0
    """Avatars in work at a time, each with a trainer of its own; 0 takes 1.5 for each refiner."""
    iterations: int = 10_000
    """Training iterations of an avatar."""
    update_interval: int = 30
    """Iterations between two refined clips."""
    window: int = 1
    """Refinement requests an avatar may have outstanding (W)."""
    slack: float = 0.0
    """Update intervals that training may run ahead of an outstanding request."""
    max_age: int = 300
    """Iterations after which a refined clip is counted as expired."""
    tail_window: int = 0
    """Window of the avatars in work when no portrait waits any more and refiners would idle, with slack as much more;
    ``window`` or less leaves it."""
    clips: int = 40
    """Clips of an avatar's dataset, which its updates go round."""
    stages: tuple[int, ...] = (5000, 8000)
    """Iterations at which the curriculum goes on to its next stage; a clip rendered before is then expired."""
    iteration_seconds: float = 0.034
    """Seconds of a training iteration on the trainer's share of a GPU, previews included."""
    training_variation: float = 0.0
    """Standard deviation over mean of the training time between two requests (gamma distribution)."""
    render_seconds: float = 0.3
    """Seconds to render a request and to find its landmarks, in which the trainer does not train."""
    refine_seconds: float = 3.6
    """Seconds of a refinement of one clip."""
    refine_variation: float = 0.1
    """Standard deviation over mean of a refinement's seconds (gamma distribution; 1 is exponential)."""
    lease_seconds: float = 0.02
    """Seconds that a refiner spends on getting each request."""
    commit_seconds: float = 0.03
    """Seconds to commit a refined clip; the refiner goes on meanwhile, the avatar waits."""
    micro_batch: int = 1
    """Clips that a refiner may serve at once, when more wait than there are refiners."""
    marginal: float = 0.97
    """Cost of each further clip of a micro-batch as a share of the first (alpha): S(b) = S(1 + alpha (b - 1))."""
    prepare_seconds: float = 30.0
    """Seconds to look at a photo, carve it and fit the head, on CPUs."""
    look_ahead: int = 4
    """Portraits that are prepared, or being prepared, before a trainer is free for them."""
    finish_seconds: float = 10.0
    """Seconds from an avatar's last iteration until its trainer is free: bundle, figures, thumbnail."""
    refiner_start_seconds: float = 30.0
    """Seconds until a new refiner takes requests: process, weights, kernels."""
    trainer_start_seconds: float = 30.0
    """Seconds until a new trainer begins; it stays for the next avatar."""
    refiner_kills: float = 0.0
    """Times per hour that a refiner loses its machine."""
    trainer_kills: float = 0.0
    """Times per hour that a trainer with an avatar loses its machine; the avatar goes on from its last checkpoint."""
    restart_seconds: float = 120.0
    """Seconds until a lost machine is replaced; the new process's start comes on top."""
    checkpoint_every: int = 200
    """Iterations between checkpoints."""
    refine_gpus: float = 1.0
    """GPUs of a refiner."""
    reconstruct_gpus: float = RECONSTRUCTION_GPU
    """GPUs of a trainer."""
    seed: int = 0
    """Seed of everything that varies."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} is out of range; it must be {least} or more")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} is out of range; it must be above 0")
        if max(self.window, self.tail_window) > self.clips:
            raise ConfigError(
                f"a window of {max(self.window, self.tail_window)} requests is more than an avatar has clips, "
                f"clips={self.clips}; lower window or tail_window"
            )

    @property
    def avatars(self) -> int:
        """Avatars in work at a time: as many as are wanted and there are portraits for."""
        return min(self.at_once or math.ceil(AVATARS_PER_REFINER * self.refiners), self.portraits)

    @property
    def gpus(self) -> float:
        """GPUs of all actors."""
        return self.refiners * self.refine_gpus + self.avatars * self.reconstruct_gpus

    @property
    def policy(self) -> StalenessPolicy:
        """When an avatar may submit and train."""
        return StalenessPolicy(self.update_interval, self.window, self.slack, self.max_age)


_LEAST = {
    **dict.fromkeys(("portraits", "refiners", "iterations", "update_interval", "window", "clips"), 1),
    **dict.fromkeys(("micro_batch", "look_ahead", "checkpoint_every"), 1),
    **dict.fromkeys(("at_once", "slack", "max_age", "tail_window", "training_variation", "render_seconds"), 0),
    **dict.fromkeys(("refine_variation", "lease_seconds", "commit_seconds", "marginal", "prepare_seconds"), 0),
    **dict.fromkeys(("finish_seconds", "refiner_start_seconds", "trainer_start_seconds", "refiner_kills"), 0),
    **dict.fromkeys(("trainer_kills", "restart_seconds", "refine_gpus", "reconstruct_gpus"), 0),
}
_POSITIVE = ("iteration_seconds", "refine_seconds")


def read_settings(overrides: Sequence[str] = ()) -> Settings:
    """Settings from ``key=value`` strings.

    Args:
        overrides: what differs from the defaults, e.g. ``refiners=64``.

    Raises:
        ConfigError: for an unknown key, or a value of the wrong type or out of range.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    for item in overrides:
        name, sign, _ = item.partition("=")
        if not sign:
            raise ConfigError(f"'{item}' is not a setting of the simulation; write key=value, e.g. refiners=64")
        if name not in names:
            raise ConfigError(f"the simulation has no setting '{name}'{nearest(name, names)}")
    try:
        given = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.merge(OmegaConf.structured(Settings), given)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or "settings"
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    values: Any = OmegaConf.to_container(merged)
    return Settings(**{**values, "stages": tuple(values["stages"])})
