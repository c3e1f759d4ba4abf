"""The diffusion loss of the compact backbone: to denoise clips, and to repair degraded ones.

A plain diffusion model undoes exactly what inversion did, so refining with it changes little: guidance is all that
moves the clip. Here most of the clips are noised from their *degraded* latents and the clean ones are asked for, at
every noise level that a refinement can pass through. The clean latents are compared (and not v) because v would have to
diverge as the noise vanishes while the degradation remains. The error is taken relative to the degradation's own: what
counts is the gain in decibels, and clips that are nearly right already must not pay for those that are far off.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.diffusion.compact_unet import CompactDenoiser, source_velocity
from zero1toa.diffusion.training.settings import TrainingSettings

_USUAL_ERROR = 0.2  # squared latent error of a usual degraded clip (about 20 dB): keeps the weights near 1


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips of a step: latents ``[B, T, C, h, w]``, maps uint8 ``[B, T, H, W, 3]``, and the references' own.

    Attributes:
        truth: clean latents.
        degraded: latents of the degraded render.
        maps: landmark maps of the truth.
        reference: latents of the reference pictures ``[B, C, h, w]``.
        reference_map: their landmark maps ``[B, H, W, 3]``.
        positions: positions of the frames in time ``[T]``.
    """

    truth: Tensor
    degraded: Tensor
    maps: Tensor
    reference: Tensor
    reference_map: Tensor
    positions: Tensor


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of a step, per clip ``[B]`` unless said otherwise.

    Attributes:
        timesteps: training timesteps, int64.
        repair: whether the clip is noised from its degraded latents, bool.
        share: how much of the degraded latents is mixed in (0 for plain clips).
        landmarks: 1 where landmarks are given, else 0.
        source: 1 where the latents of the clip to refine are given, else 0; only repaired clips have one.
        noise: ``[B, T, C, h, w]``.
    """

    timesteps: Tensor
    repair: Tensor
    share: Tensor
    landmarks: Tensor
    source: Tensor
    noise: Tensor


def draw(latents: Tensor, settings: TrainingSettings, levels: int, generator: torch.Generator) -> Draws:
    """Draw a step's random numbers on the device of ``latents`` ``[B, T, C, h, w]``; ``levels`` is N."""
    batch, device = len(latents), latents.device

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=device)

    repair = uniform() < settings.repair_share
    first, last = settings.repair_timesteps
    anywhere = (uniform() * levels).long().clamp(max=levels - 1)
    # The square puts half of them into the first quarter, where refinement at the usual strengths starts.
    within = first + (uniform().square() * (last - first + 1)).long().clamp(max=last - first)
    mixed = torch.where(uniform() < settings.pure_share, torch.ones(batch, device=device), uniform())
    return Draws(
        timesteps=torch.where(repair, within, anywhere),
        repair=repair,
        share=torch.where(repair, mixed, torch.zeros_like(mixed)),
        landmarks=(uniform() >= settings.landmark_drop).float(),
        source=(repair & (uniform() >= settings.source_drop)).float(),
        noise=torch.randn(latents.shape, generator=generator, device=device),
    )


def losses(
    unet: CompactDenoiser,
    batch: Batch,
    draws: Draws,
    tables: tuple[Tensor, Tensor],
    repair_weight: float,
    repair_floor: float,
    with_reference: int,
    dtype: torch.dtype,
) -> Tensor:
    """Loss of every clip ``[B]`` float32.

    Args:
        unet: the network, in ``dtype``.
        batch: the clips.
        draws: their random numbers.
        tables: ``alphas`` and ``sigmas`` of the schedule ``[N]``.
        repair_weight: weight of the repair loss against the plain one.
        repair_floor: added to a clip's own squared latent error, by which its repair loss is divided.
        with_reference: number of leading clips that see their reference.
        dtype: type in which the network computes.
    """
    alpha, sigma = (table[draws.timesteps][:, None, None, None, None] for table in tables)
    share = draws.share[:, None, None, None, None]
    start = batch.truth + share * (batch.degraded - batch.truth)
    noisy = alpha * start + sigma * draws.noise

    given = draws.source[:, None, None, None, None].expand_as(batch.truth[:, :, :1])
    source = torch.cat([batch.degraded * given, given], 2).to(dtype)
    guided = unet.guide(_unit(batch.maps, dtype), source, draws.landmarks[:, None, None, None, None].to(dtype))
    contexts = unet.reference(batch.reference.to(dtype), _unit(batch.reference_map, dtype))
    output = unet(
        noisy.to(dtype), draws.timesteps, batch.positions, guided, contexts, with_reference, draws.source
    ).float()

    shortcut = source_velocity(noisy, batch.degraded, alpha, sigma)
    output = torch.where(given > 0, output + shortcut, output)
    clean = alpha * noisy - sigma * output
    velocity = alpha * draws.noise - sigma * batch.truth
    plain = (output - velocity).square().mean((1, 2, 3, 4))
    own = (batch.degraded - batch.truth).square().mean((1, 2, 3, 4))
    repaired = (clean - batch.truth).square().mean((1, 2, 3, 4)) * _USUAL_ERROR / (own + repair_floor)
    return torch.where(draws.repair, repair_weight * repaired, plain)


def _unit(maps: Tensor, dtype: torch.dtype) -> Tensor:
    return maps.movedim(-1, -3).to(dtype) / 255
