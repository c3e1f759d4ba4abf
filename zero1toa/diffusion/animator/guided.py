"""What the backbones over a UNet of Stable Diffusion's family do alike: both predictions of guidance, and pictures."""

from __future__ import annotations

import abc
from typing import Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from zero1toa.diffusion.animator.config import UNetConfig
from zero1toa.diffusion.guidance import guide
from zero1toa.diffusion.protocol import BackboneSpec

Halves: TypeAlias = Literal["conditional", "null", "both"]
"""Predictions of classifier-free guidance: of the clips as conditioned, unconditional, or first those, then these."""

Reference = TypeVar("Reference")
Control = TypeVar("Control")


class GuidedBackbone(abc.ABC, Generic[Reference, Control]):
    """Part of a :class:`zero1toa.diffusion.protocol.VideoBackbone`.

    Args:
        spec: facts about the model.
        config: sizes of its denoiser.
        device: where to compute.
        dtype: type in which the networks compute; latents and their arithmetic stay float32.
    """

    def __init__(self, spec: BackboneSpec, config: UNetConfig, device: torch.device | str, dtype: torch.dtype) -> None:
        self.spec = spec
        self._device = torch.device(device)
        self._dtype = dtype
        self._multiple = spec.latent_stride * 2 ** (len(config.channels) - 1)  # every resolution halves the sides

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the networks compute."""
        return self._dtype

    @abc.abstractmethod
    def run(self, latents: Tensor, timestep: int, reference: Reference, control: Control, halves: Halves) -> Tensor:
        """The network's v ``[B, T, C, h, w]`` float32, or of ``both`` ``[2 B, T, C, h, w]``."""

    def predict(
        self, latents: Tensor, timestep: int, reference: Reference, control: Control, *, conditional: bool
    ) -> Tensor:
        """The network's v, float32; without ``conditional`` that which guidance leads away from."""
        return self.run(latents, timestep, reference, control, "conditional" if conditional else "null")

    def predict_guided(
        self,
        latents: Tensor,
        timestep: int,
        reference: Reference,
        control: Control,
        guidance: float,
        rescale: float = 0.0,
    ) -> Tensor:
        """:func:`~zero1toa.diffusion.guidance.guide` over one pass."""
        conditional, null = self.run(latents, timestep, reference, control, "both").chunk(2)
        return guide(conditional, null, guidance, rescale)

    def images(self, frames: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``[B, T, H, W, 3]`` to ``[B * T, 3, H, W]``, laid out channels last; in the networks' type by default.

        Raises:
            ValueError: for sides that the coarsest resolution does not divide.
        """
        height, width = frames.shape[-3:-1]
        if height % self._multiple or width % self._multiple:
            raise ValueError(f"frame sides must be divisible by {self._multiple}, not {height} x {width}")
        return frames.flatten(0, 1).to(self._device, dtype or self._dtype).permute(0, 3, 1, 2)
