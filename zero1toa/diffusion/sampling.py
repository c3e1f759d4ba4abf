"""Landmark-guided denoising, and the whole refinement of a clip's latents (paper sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zero1toa.diffusion.guidance import check_rescale
from zero1toa.diffusion.inversion import Predict, invert
from zero1toa.diffusion.protocol import ControlState, ReferenceState, VideoBackbone
from zero1toa.diffusion.schedule import CLEAN, NoiseSchedule
from zero1toa.diffusion.windows import check_length, windowed


def denoise(predict: Predict, schedule: NoiseSchedule, latents: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Deterministic DDIM sampling (eta 0) down to the clean level.

    Args:
        predict: guided model output for latents and a timestep.
        schedule: noise levels of the model.
        latents: latents at ``timesteps[0]``, ``[B, T, C, h, w]``.
        timesteps: noisiest first.

    Returns:
        Clean latents, float32.
    """
    current = latents.float()
    for index, timestep in enumerate(timesteps):
        following = timesteps[index + 1] if index + 1 < len(timesteps) else CLEAN
        output = predict(current, timestep).float()
        current = schedule.move(current, output, schedule.level(timestep), schedule.level(following))
    return current


def seeded_noise(latents: Tensor, seed: int) -> Tensor:
    """Standard normal shaped as ``latents``, the same on every device."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)


@torch.no_grad()
def refine_latents(
    backbone: VideoBackbone,
    latents: Tensor,
    reference: ReferenceState,
    control: ControlState,
    *,
    steps: int,
    strength: float = 1.0,
    guidance: float = 1.0,
    inversion_guidance: float = 1.0,
    guidance_rescale: float = 0.0,
    fixed_point_iterations: int = 0,
    noise: Tensor | None = None,
) -> Tensor:
    """Invert a clip with its reference and landmarks, then denoise it under guidance.

    Inversion carries what the clip shows through the noise. A model that is shown the clip itself does not need that,
    and must not be inverted: told what the clip is, it finds no noise in it, and the "inverted" latents are the clip's
    own, which no noise level of its training looks like. Such a model starts from the clip under fresh noise.

    Args:
        backbone: the diffusion model.
        latents: clean latents of the render ``[B, T, C, h, w]``.
        reference: from :meth:`VideoBackbone.prepare_reference`.
        control: from :meth:`VideoBackbone.prepare_control`, for the same clip in both directions.
        steps: steps over the whole noise range.
        strength: share of the range to go up and down (1 = to pure noise, as in the paper; 0 changes nothing).
        guidance: classifier-free guidance when denoising.
        inversion_guidance: guidance during inversion; the round trip holds only at 1.
        guidance_rescale: rescaling of guidance other than 1, in both directions, see
            :func:`zero1toa.diffusion.guidance.guide`.
        fixed_point_iterations: extra evaluations per inversion step.
        noise: from :func:`seeded_noise`, put on the latents instead of inverting them.

    Returns:
        Refined clean latents ``[B, T, C, h, w]`` float32.

    Raises:
        ConfigError: for impossible ``steps``, ``strength`` or ``guidance_rescale``, or a clip longer than the backbone
            takes, at once or in windows.
    """
    frames = latents.shape[1]
    check_length(backbone.spec, frames)
    check_rescale(guidance_rescale)
    schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
    timesteps = schedule.timesteps(steps, strength)
    if noise is None:
        up = windowed(backbone, reference, control, inversion_guidance, frames, timesteps, guidance_rescale)
        start = invert(up, schedule, latents, timesteps, fixed_point_iterations)
    elif timesteps:
        alpha, sigma = schedule.level(timesteps[0])
        start = alpha * latents.float() + sigma * noise
    else:
        start = latents.float()
    down = windowed(backbone, reference, control, guidance, frames, timesteps, guidance_rescale)
    return denoise(down, schedule, start, timesteps)
