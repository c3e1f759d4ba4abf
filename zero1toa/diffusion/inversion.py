"""DDIM inversion: from a clip's clean latents to the noise that denoises back to them (paper sec. 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from zero1toa.diffusion.schedule import CLEAN, NoiseSchedule

Predict = Callable[[Tensor, int], Tensor]  # (latents, timestep) -> model output


def invert(
    predict: Predict,
    schedule: NoiseSchedule,
    latents: Tensor,
    timesteps: Sequence[int],
    fixed_point_iterations: int = 0,
) -> Tensor:
    """Walk the denoising timesteps backwards, from the clean latents to the noisiest of them.

    Each step asks the model at the level it moves *to*, on the latents it moves *from*: asking at the source level
    would be 10-25 % less accurate, because the denoising step that it has to undo asks at that same level. Fixed-point
    iterations replace the latents in that question by the answer, which converges to the exact inverse of the
    denoising step. The arithmetic is float32 whatever the model's own type, since signal amplitudes near the end of
    the range lie below half precision.

    Args:
        predict: model output for latents and a timestep, conditioned as the later denoising is (paper: guidance 1).
        schedule: noise levels of the model.
        latents: clean latents ``[B, T, C, h, w]``.
        timesteps: as given by :meth:`NoiseSchedule.timesteps`, noisiest first.
        fixed_point_iterations: extra model evaluations per step.

    Returns:
        Latents at ``timesteps[0]``, float32; the clean latents if there are no timesteps.
    """
    current = latents.float()
    source = CLEAN
    for target in reversed(timesteps):
        low, high = schedule.level(source), schedule.level(target)
        moved = schedule.move(current, predict(current, target).float(), low, high)
        for _ in range(fixed_point_iterations):
            moved = schedule.unmove(current, predict(moved, target).float(), high, low)
        current, source = moved, target
    return current
