"""The reference network: what it knows of a portrait is the normed input of each of its self-attentions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext, to_tokens
from zero1toa.diffusion.animator.config import UNetConfig
from zero1toa.diffusion.animator.unet import UNet


class LastTransformer(nn.Module):
    """As much of the last spatial transformer as is needed for the normed input of its self-attention."""

    attn2 = None

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """The map as it is, and the normed tokens ``[B, h * w, C]``."""
        return x, self.norm1(self.proj_in(to_tokens(self.norm(x))))


class ReferenceNet(UNet):
    """Runs once per identity, without noise and at timestep 0; nothing behind the last attention is computed."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.stages()[-1].attentions[-1] = LastTransformer(config.channels[0], config.groups)

    def forward(self, latents: Tensor, prompt: Tensor | None) -> tuple[Tensor, ...]:
        """Features of portraits.

        Args:
            latents: ``[B, 4, h, w]``.
            prompt: prompt tokens ``[B, n, D]``, or None for a network without cross-attention.

        Returns:
            For each spatial transformer, down, middle, up, the normed tokens ``[B, h' * w', C]``.
        """
        contexts = tuple(
            LayerContext(prompt=None if attention.attn2 is None or prompt is None else attention.attn2.project(prompt))
            for attention in self.transformers()
        )
        clean = self.time_embedding(torch.zeros(1, device=latents.device))
        _, features = self.traverse(latents, clean, None, (), contexts, len(latents), collect=True)
        return tuple(features)
