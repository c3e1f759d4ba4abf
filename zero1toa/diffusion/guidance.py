"""Classifier-free guidance, and its rescaling."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.errors import ConfigError


def guide(conditional: Tensor, null: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """Mix a conditional and an unconditional prediction.

    Strong guidance widens a prediction's spread beyond that of anything the model was trained on. A model with zero
    terminal SNR takes the brightness of its first steps from nothing else, and its pictures are overexposed. Rescaling
    brings each clip's spread back towards the conditional prediction's (Lin et al. 2023, "Common Diffusion Noise
    Schedules and Sample Steps Are Flawed", sec. 3.4; there over an image, here over all frames of a clip at once, since
    a factor of each frame would flicker).

    Args:
        conditional: model output with reference and landmarks ``[B, T, C, h, w]``, epsilon or v.
        null: unconditional output, of the same shape.
        guidance: w of ``null + w (conditional - null)``.
        rescale: phi in [0, 1]: 0 leaves the mixture, 1 gives it the standard deviation of ``conditional``.

    Returns:
        ``phi * mixed * std(conditional) / std(mixed) + (1 - phi) * mixed``, with one standard deviation for each clip.
    """
    mixed = null + guidance * (conditional - null)
    if rescale == 0.0:
        return mixed
    over = tuple(range(1, mixed.ndim))
    wanted, found = (values.float().std(over, keepdim=True) for values in (conditional, mixed))
    ratio = torch.where(found > 0, wanted / found, 1.0)  # a constant prediction has no spread to bring back
    return mixed * (rescale * ratio + (1.0 - rescale)).to(mixed.dtype)


def check_rescale(rescale: float) -> None:
    """Refuse a rescaling that is no share.

    Raises:
        ConfigError: naming the value.
    """
    if not 0.0 <= rescale <= 1.0:
        raise ConfigError(f"diffusion.guidance_rescale must be between 0 (off) and 1, not {rescale}")
