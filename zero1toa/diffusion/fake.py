"""A weightless backbone for tests of everything around the diffusion: exact, tiny, deterministic.

It is a true diffusion model of a very simple world: a clean clip is Gaussian around a mean picture, so the best
prediction has a closed form. Under the landmarks and the reference the mean is the reference with the landmark lines
drawn into it; the null branch only knows a grey version of the reference. Inversion and denoising at guidance 1 is the
identity up to step error, and guidance above 1 pulls the clip visibly towards reference and landmarks. It makes
nothing better: no avatar should ever be trained with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.diffusion.guidance import guide
from zero1toa.diffusion.protocol import BackboneSpec, ControlState, ReferenceState
from zero1toa.diffusion.schedule import LINEAR_ZERO_SNR, NoiseSchedule
from zero1toa.types import LandmarkTrack

_STRIDE = 4
_STD = 0.5  # spread of clean clips around the mean, in latent units (pixels in [-1, 1])

FAKE_SPEC = BackboneSpec(
    name="fake",
    size=64,
    max_frames=64,
    latent_channels=3 * _STRIDE**2,
    latent_stride=_STRIDE,
    scheduler=LINEAR_ZERO_SNR,
    steps=5,
    guidance=1.5,
)


class FakeBackbone:
    """Closed-form Gaussian video diffusion; see the module's text. Satisfies :class:`VideoBackbone`."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.spec = FAKE_SPEC
        self._device = torch.device(device)
        self._schedule = NoiseSchedule.from_config(self.spec.scheduler)

    @property
    def device(self) -> torch.device:
        """Where the latents are expected."""
        return self._device

    def draw_control(self, landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
        """White pixels at the landmarks ``[T, size, size, 3]`` uint8."""
        maps = np.zeros((len(landmarks.points), size, size, 3), np.uint8)
        for frame, points in enumerate(landmarks.points):
            if landmarks.valid[frame]:
                inside = points[((points >= 0) & (points < 1)).all(-1)]
                x, y = np.floor(inside * size).astype(int).T
                maps[frame, y, x] = 255
        return maps

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``[B, T, H, W, 3]`` to lossless latents ``[B, T, 48, H/4, W/4]``."""
        batch, count = frames.shape[:2]
        pixels = frames.float().flatten(0, 1).permute(0, 3, 1, 2) * 2 - 1
        return F.pixel_unshuffle(pixels, _STRIDE).unflatten(0, (batch, count))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to frames ``[B, T, H, W, 3]`` in [0, 1]."""
        batch, count = latents.shape[:2]
        pixels = F.pixel_shuffle(latents.float().flatten(0, 1), _STRIDE)
        return (pixels.permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1).unflatten(0, (batch, count))

    def prepare_reference(self, image: Tensor, control: Tensor) -> ReferenceState:
        """Latents of the reference picture ``[B, 1, 48, h, w]``; its landmark map is not needed."""
        return self.encode(image[:, None])

    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> ControlState:
        """Latents of the landmark maps ``[B, T, 48, h, w]``."""
        return self.encode(maps) + 1

    def window(self, control: ControlState, frames: Sequence[int]) -> ControlState:
        """Latents of some frames' maps."""
        return control[:, list(frames)]

    def predict(
        self, latents: Tensor, timestep: int, reference: ReferenceState, control: ControlState, *, conditional: bool
    ) -> Tensor:
        """The exact v of the Gaussian world; shapes as :meth:`VideoBackbone.predict`."""
        alpha, sigma = self._schedule.level(timestep)
        mean = (reference + 0.25 * control if conditional else 0.5 * reference).expand_as(latents)
        variance = (alpha * _STD) ** 2 + sigma**2
        surprise = (latents.float() - alpha * mean) / variance
        return alpha * sigma * surprise - sigma * (mean + alpha * _STD**2 * surprise)

    def predict_guided(
        self,
        latents: Tensor,
        timestep: int,
        reference: ReferenceState,
        control: ControlState,
        guidance: float,
        rescale: float = 0.0,
    ) -> Tensor:
        """:func:`~zero1toa.diffusion.guidance.guide` over two calls."""
        null = self.predict(latents, timestep, reference, control, conditional=False)
        return guide(self.predict(latents, timestep, reference, control, conditional=True), null, guidance, rescale)


def load(device: torch.device, dtype: torch.dtype) -> FakeBackbone:
    """Registry loader; the arithmetic is float32 whatever ``dtype`` says."""
    return FakeBackbone(device)
