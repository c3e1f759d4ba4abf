"""What a portrait video diffusion model offers, whatever its architecture.

Frames are ``[B, T, H, W, 3]`` float in [0, 1]; latents are ``[B, T, C, h, w]``. Nothing here mentions UNets, banks or
CLIP, so that a transformer-based animator fits as well. What is common to all of them (inversion, guidance, windows,
strength) is written once outside, in :mod:`zero1toa.diffusion.inversion` and :mod:`zero1toa.diffusion.sampling`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.types import LandmarkTrack

ReferenceState = Any  # opaque: reference features and prompt tokens of B identities, computed once per identity
ControlState = Any  # opaque: landmark features of B clips


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """Facts about a backbone that the loop needs.

    Attributes:
        name: registry name.
        size: native frame side in pixels.
        max_frames: longest clip the temporal layers take at once.
        latent_channels: C.
        latent_stride: pixels per latent cell.
        scheduler: keyword arguments of ``diffusers.DDIMScheduler``.
        steps: default number of inference steps.
        guidance: default classifier-free guidance.
        uses_source: whether :meth:`VideoBackbone.prepare_control` reads the latents of the clip being refined.
        window_overlap: frames that windows share where a clip is longer, see :mod:`zero1toa.diffusion.windows`; None
            for a model that takes no longer clips.
        window_shift: frames by which the windows move with every denoising step.
    """

    name: str
    size: int
    max_frames: int
    latent_channels: int
    latent_stride: int
    scheduler: Mapping[str, Any]
    steps: int
    guidance: float
    uses_source: bool = False
    window_overlap: int | None = None
    window_shift: int = 0


@runtime_checkable
class VideoBackbone(Protocol):
    """A landmark-guided, reference-conditioned video diffusion model."""

    spec: BackboneSpec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def draw_control(self, landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
        """Landmark maps ``[T, size, size, 3]`` uint8: the only place that knows lines and colours."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames to scaled latents; frames that require gradients get them, for score distillation."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to frames, clamped to [0, 1]."""
        ...

    def prepare_reference(self, image: Tensor, control: Tensor) -> ReferenceState:
        """Features of reference portraits ``[B, H, W, 3]`` and their own landmark maps, same shape, in [0, 1]."""
        ...

    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> ControlState:
        """Landmark features of maps ``[B, T, H, W, 3]`` in [0, 1]; ``source`` are latents of the clip being refined."""
        ...

    def window(self, control: ControlState, frames: Sequence[int]) -> ControlState:
        """Landmark features of some frames of the clips, in the order given."""
        ...

    def predict(
        self, latents: Tensor, timestep: int, reference: ReferenceState, control: ControlState, *, conditional: bool
    ) -> Tensor:
        """Model output (epsilon or v, as the scheduler's ``prediction_type`` says), shaped as ``latents``."""
        ...

    def predict_guided(
        self,
        latents: Tensor,
        timestep: int,
        reference: ReferenceState,
        control: ControlState,
        guidance: float,
        rescale: float = 0.0,
    ) -> Tensor:
        """Both predictions, in one call if that pays, mixed by :func:`zero1toa.diffusion.guidance.guide`."""
        ...
