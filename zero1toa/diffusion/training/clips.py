"""From a clip source's tensors to what the networks are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.diffusion.autoencoder import Autoencoder
from zero1toa.diffusion.landmark_map import draw_landmarks
from zero1toa.diffusion.training.data import ClipSource, to_bytes, to_unit
from zero1toa.diffusion.training.settings import TrainingSettings


def make_clips(
    source: ClipSource, generator: torch.Generator, count: int, settings: TrainingSettings
) -> dict[str, Tensor]:
    """New clips as uint8: ``truth``, ``degraded``, ``maps`` ``[B, T, H, W, 3]``, ``reference``, ``reference_map``."""
    size = settings.size
    drawn = source.sample(generator, count, settings.frames, size)
    landmarks = jitter(drawn["landmarks"], settings.landmark_jitter, generator)
    maps = draw_landmarks(landmarks.flatten(0, 1), size).unflatten(0, (count, settings.frames))
    return {
        "truth": to_bytes(drawn["truth"]),
        "degraded": to_bytes(drawn["degraded"]),
        "maps": maps,
        "reference": to_bytes(drawn["reference"]),
        "reference_map": draw_landmarks(drawn["reference_landmarks"], size),
    }


def jitter(landmarks: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Landmarks ``[B, T, P, 2]`` as a detector would find them: off by a shift of the clip and by noise of every point.

    The standard deviation of a clip's shift is uniform up to ``largest`` (a fraction of the frame), that of its points
    half as much.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device).to(landmarks)

    amount = largest * torch.rand(len(landmarks), 1, 1, 1, generator=generator, device=generator.device).to(landmarks)
    return landmarks + amount * (normal(len(landmarks), 1, 1, 2) + 0.5 * normal(*landmarks.shape))


@torch.no_grad()
def encode_clips(autoencoder: Autoencoder, clips: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same clips with pictures replaced by latents ``[B, T, C, h, w]`` float32; ``autoencoder`` is in ``dtype``."""

    def encode(frames: Tensor) -> Tensor:
        return autoencoder.encode(to_unit(frames, dtype)).float()

    count = clips["truth"].shape[:2]
    return {
        "truth": encode(clips["truth"].flatten(0, 1)).unflatten(0, count),
        "degraded": encode(clips["degraded"].flatten(0, 1)).unflatten(0, count),
        "maps": clips["maps"],
        "reference": encode(clips["reference"]),
        "reference_map": clips["reference_map"],
    }
