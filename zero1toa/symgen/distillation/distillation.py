"""Score distillation of rendered clips through a video backbone, as a loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zero1toa.config import Config, DistillationConfig
from zero1toa.diffusion.protocol import ReferenceState, VideoBackbone
from zero1toa.diffusion.sampling import seeded_noise
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.errors import ConfigError, nearest
from zero1toa.symgen.distillation.directions import ism_direction, nfsd_direction, sds_direction
from zero1toa.symgen.distillation.negative import spoiled
from zero1toa.symgen.refine import prepare_reference, resize
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack

METHODS = ("none", "sds", "ism", "nfsd")


class ScoreDistillation:
    """The loss of one avatar's renders.

    Published for text-to-image models, where a condition is a prompt; here it is the portrait with the landmarks of the
    render, and unconditional is what the backbone calls so. NFSD's negative prompt is the portrait spoiled, with its
    own landmarks. A backbone that can be shown the render beside its latents is not shown it: it would find no noise in
    it.

    Args:
        config: the run's configuration.
        backbone: the diffusion model.
        reference: the portrait.

    Raises:
        ConfigError: for values that cannot work.
    """

    def __init__(self, config: Config, backbone: VideoBackbone, reference: Reference) -> None:
        self._config = config.distillation
        check_distillation(self._config)
        frames = min(config.loop.batch_frames, config.curriculum.frames)
        if frames > backbone.spec.max_frames:
            raise ConfigError(
                f"score distillation asks the backbone for {frames} frames at once, and '{backbone.spec.name}' takes "
                f"{backbone.spec.max_frames}; lower loop.batch_frames"
            )
        self._backbone = backbone
        self._schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
        background = config.render.background
        self._reference = prepare_reference(reference, backbone, background)
        self._negative: ReferenceState | None = None
        if self._config.method == "nfsd":
            self._negative = prepare_reference(spoiled(reference, background, config.seed), backbone, background)

    def __call__(self, renders: Tensor, landmarks: LandmarkTrack, rng: np.random.Generator) -> Tensor:
        """A scalar whose gradient with respect to the latents is the method's direction, over their number.

        Its value is half the mean square of that direction, which says how far the clip is from where it is pulled, and
        is no loss that falls from step to step: noise level and noise are drawn anew.

        Args:
            renders: consecutive frames of a clip ``[F, H, W, 3]`` in [0, 1], with gradients.
            landmarks: of these frames.
            rng: source of noise level and noise.
        """
        backbone = self._backbone
        latents = backbone.encode(resize(renders[None].to(backbone.device), backbone.spec.size)).float()
        direction = self._direction(latents.detach(), landmarks, rng)
        return 0.5 * (latents - (latents.detach() - direction)).square().mean()

    @torch.no_grad()
    def _direction(self, clean: Tensor, landmarks: LandmarkTrack, rng: np.random.Generator) -> Tensor:
        backbone, config, schedule = self._backbone, self._config, self._schedule
        maps = torch.from_numpy(backbone.draw_control(landmarks, backbone.spec.size)).to(backbone.device).float() / 255
        control = backbone.prepare_control(maps[None])
        low, high = (round(share * len(schedule)) for share in config.timesteps)
        timestep = int(rng.integers(low, max(high, low + 1)))
        noise = seeded_noise(clean, int(rng.integers(2**31)))

        def conditional(latents: Tensor, at: int) -> Tensor:
            return backbone.predict(latents, at, self._reference, control, conditional=True)

        def null(latents: Tensor, at: int) -> Tensor:
            return backbone.predict(latents, at, self._reference, control, conditional=False)

        def negative(latents: Tensor, at: int) -> Tensor:
            return backbone.predict(latents, at, self._negative, control, conditional=True)

        if config.method == "sds":
            return sds_direction(conditional, null, schedule, clean, noise, timestep, config.guidance)
        if config.method == "ism":
            interval, step = (max(1, round(s * len(schedule))) for s in (config.interval, config.inversion_step))
            return ism_direction(conditional, null, schedule, clean, timestep, interval, step, config.guidance)
        return nfsd_direction(conditional, null, negative, schedule, clean, noise, timestep, config.guidance)


def check_distillation(config: DistillationConfig) -> None:
    """Refuse values that cannot work.

    Raises:
        ConfigError: naming the value.
    """
    if config.method not in METHODS:
        raise ConfigError(
            f"distillation.method={config.method} is unknown{nearest(config.method, METHODS)}; "
            f"choose {', '.join(METHODS)}"
        )
    low, high = config.timesteps
    if not 0 <= low < high < 1:
        raise ConfigError(f"distillation.timesteps={[low, high]} must rise within 0 and 1, 1 not included")
    for name in ("interval", "inversion_step"):
        if not 0 < getattr(config, name) <= 1:
            raise ConfigError(f"distillation.{name}={getattr(config, name)} must be above 0 and at most 1")


def refuse_distribution(config: DistillationConfig) -> None:
    """Refuse score distillation where trainer and diffusion model are in different processes.

    Raises:
        ConfigError: naming the method.
    """
    check_distillation(config)
    if config.method != "none":
        raise ConfigError(
            f"distillation.method={config.method} asks the diffusion model in every training iteration, "
            "which runs in one process only: add --serial"
        )
