"""What stands for a negative prompt in a model that is driven by a picture: the portrait, spoiled (paper sec. 9.1)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image, ImageFilter

from zero1toa.symgen.refine import composite
from zero1toa.symgen.store import Reference

# The paper names blur, brightness and Gaussian noise, and no amounts.
BLUR = 1 / 16
"""Standard deviation of the blur, as a share of the portrait's side: only colours are left."""
BRIGHTNESS = 0.7
"""Factor on the colours."""
NOISE = 0.1
"""Standard deviation of the noise on colours in [0, 1]."""


def spoiled(reference: Reference, background: tuple[float, float, float], seed: int) -> Reference:
    """The portrait on its background, blurred, darkened and noised, with its own landmarks.

    Args:
        reference: the portrait ``[S, S, 4]`` uint8, straight alpha.
        background: sRGB colour in [0, 1].
        seed: of the noise.

    Returns:
        The same with an opaque picture.
    """
    side = reference.image.shape[0]
    picture, _ = composite(reference.image, background, side)
    image = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(BLUR * side))) / 255
    noise = np.random.default_rng([seed, 0xBAD]).normal(scale=NOISE, size=blurred.shape)
    colours = (np.clip(BRIGHTNESS * blurred + noise, 0, 1) * 255).round().astype(np.uint8)
    opaque = np.full((side, side, 1), 255, np.uint8)
    return dataclasses.replace(reference, image=np.concatenate([colours, opaque], -1))
