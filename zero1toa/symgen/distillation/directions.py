"""Directions in which score distillation moves the latents of a render, from their published formulas.

All are gradients with respect to the clean latents ``z_0``, to be descended, and weighted by DreamFusion's
``w(t) = sigma_t^2``, so that the methods differ in direction alone. A network that predicts v tells its noise by
:meth:`~zero1toa.diffusion.schedule.NoiseSchedule.split`. The timesteps ``t`` are the training timesteps of the model.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zero1toa.diffusion.schedule import NoiseSchedule

Output = Callable[[Tensor, int], Tensor]  # (noisy latents, timestep) -> model output

EARLY = 0.2
"""Share of the noise range (t < 200 of 1000) under which NFSD takes the unconditional noise for the direction into the
domain."""


def noise_of(output: Output, schedule: NoiseSchedule, latents: Tensor, timestep: int) -> Tensor:
    """The noise ``epsilon(z_t; t)`` that a model finds, float32."""
    return schedule.split(latents, output(latents, timestep).float(), schedule.level(timestep))[1]


def noised(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """``z_t = alpha_t z_0 + sigma_t epsilon``."""
    alpha, sigma = schedule.level(timestep)
    return alpha * clean + sigma * noise


def sds_direction(
    conditional: Output,
    null: Output,
    schedule: NoiseSchedule,
    clean: Tensor,
    noise: Tensor,
    timestep: int,
    guidance: float,
) -> Tensor:
    """Score distillation sampling, ``w(t) (epsilon_guided(z_t; y, t) - epsilon)`` (DreamFusion, ICLR 2023, eq. 3).

    Args:
        conditional: model output under reference and landmarks.
        null: unconditional model output.
        schedule: noise levels of the model.
        clean: latents of the render ``z_0`` ``[B, T, C, h, w]``.
        noise: ``epsilon``, standard normal, of the same shape.
        timestep: t.
        guidance: classifier-free guidance s of ``epsilon_guided = epsilon_null + s (epsilon_y - epsilon_null)``.
    """
    latents = noised(schedule, clean, noise, timestep)
    unguided = noise_of(null, schedule, latents, timestep)
    guided = unguided + guidance * (noise_of(conditional, schedule, latents, timestep) - unguided)
    return schedule.level(timestep).sigma ** 2 * (guided - noise)


def ism_direction(
    conditional: Output,
    null: Output,
    schedule: NoiseSchedule,
    clean: Tensor,
    timestep: int,
    interval: int,
    step: int,
    guidance: float,
) -> Tensor:
    """Interval score matching, ``w(t) (epsilon_guided(z_t; y, t) - epsilon(z_s; null, s))`` (LucidDreamer, CVPR 2024,
    sec. 3.2).

    ``z_s`` is the DDIM inversion of ``z_0`` without condition, from timestep 0 in steps of ``step`` timesteps of which
    the last is what is left, and ``z_t`` one more step of it, over the interval from ``s = t - interval``. Inversion
    asks the model at the level it moves from, as published. The released code first puts the little noise of
    timestep 0 on ``z_0``; here none is drawn.

    Args:
        conditional: model output under reference and landmarks.
        null: unconditional model output.
        schedule: noise levels of the model.
        clean: latents of the render ``z_0`` ``[B, T, C, h, w]``.
        timestep: t.
        interval: ``t - s`` in training timesteps; a longer one than t starts at timestep 0.
        step: of the inversion, in training timesteps.
        guidance: classifier-free guidance at t.
    """
    start = max(timestep - interval, 0)
    ladder = [*range(step, start, step), *([start] if start else []), timestep]
    current, source = clean.float(), 0
    for target in ladder:
        output = null(current, source).float()
        unconditional = schedule.split(current, output, schedule.level(source))[1]
        current = schedule.move(current, output, schedule.level(source), schedule.level(target))
        source = target
    unguided = noise_of(null, schedule, current, timestep)
    guided = unguided + guidance * (noise_of(conditional, schedule, current, timestep) - unguided)
    return schedule.level(timestep).sigma ** 2 * (guided - unconditional)


def nfsd_direction(
    conditional: Output,
    null: Output,
    negative: Output,
    schedule: NoiseSchedule,
    clean: Tensor,
    noise: Tensor,
    timestep: int,
    guidance: float,
) -> Tensor:
    """Noise-free score distillation, ``w(t) (delta_D + s delta_C)`` (Katzir et al., ICLR 2024,
    eq. 6).

    ``delta_C = epsilon(z_t; y) - epsilon(z_t; null)`` leads to the condition. ``delta_D`` leads into the domain of
    clean clips: at little noise, under a fifth of the range, it is ``epsilon(z_t; null)`` itself; above, where that is
    mostly the added noise, ``epsilon(z_t; null) - epsilon(z_t; negative)``.

    Args:
        conditional: model output under reference and landmarks.
        null: unconditional model output.
        negative: model output under a condition that stands for bad pictures.
        schedule: noise levels of the model.
        clean: latents of the render ``z_0`` ``[B, T, C, h, w]``.
        noise: standard normal of the same shape.
        timestep: t.
        guidance: s.
    """
    latents = noised(schedule, clean, noise, timestep)
    unconditional = noise_of(null, schedule, latents, timestep)
    condition = noise_of(conditional, schedule, latents, timestep) - unconditional
    domain = unconditional
    if timestep >= EARLY * len(schedule):
        domain = unconditional - noise_of(negative, schedule, latents, timestep)
    return schedule.level(timestep).sigma ** 2 * (domain + guidance * condition)
