"""Blocks of the compact denoising UNet: residual, spatial attention with reference tokens, temporal attention.

The layout and the names are the family's (Stable Diffusion's UNet with AnimateDiff's motion modules and
AnimateAnyone's mutual self-attention), leaner where a small network does not need more: one temporal attention instead
of two with a feed-forward, and no cross-attention, since there is no prompt. ``diffusers.UNetMotionModel`` at the same
widths has 2.5 times the parameters and takes over twice the time on a CPU.

Frames are folded into the batch, ``[B * T, C, h, w]`` or, as tokens, ``[B * T, h * w, C]``.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ReferenceTokens: TypeAlias = tuple[Tensor, Tensor]  # keys and values of one attention layer, [B, h * w, C] each


def sinusoid(values: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding ``[..., dim]`` of scalars ``[...]``: cosines, then sines."""
    half = dim // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angles = values.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def zeroed(module: nn.Module) -> nn.Module:
    """The module with its parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResnetBlock(nn.Module):
    """Two convolutions with a residual; the time embedding scales and shifts in between."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int = 16) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        zeroed(self.conv2)
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``x`` ``[B * T, C, h, w]``, ``time`` ``[B, E]``."""
        hidden = self.norm2(self.conv1(F.silu(self.norm1(x))))
        scale, shift = self.time_emb_proj(time)[:, None, :, None, None].chunk(2, 2)
        frames = hidden.unflatten(0, (time.shape[0], -1))
        hidden = self.conv2(F.silu((frames * (1 + scale) + shift).flatten(0, 1)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpatialTransformer(nn.Module):
    """Self-attention within a frame, whose keys and values are joined by those of the reference, then feed-forward."""

    def __init__(self, channels: int, head_dim: int, expansion: int = 3) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.norm1 = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        zeroed(self.to_out)
        self.norm2 = nn.LayerNorm(channels)
        self.ff_in = nn.Linear(channels, expansion * channels)
        self.ff_out = nn.Linear(expansion * channels, channels)
        zeroed(self.ff_out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(
        self, x: Tensor, frames: int, reference: ReferenceTokens | None, with_reference: int
    ) -> tuple[Tensor, ReferenceTokens]:
        """Attend and return the layer's own keys and values too, which is what a reference hands over.

        Args:
            x: tokens ``[B * T, n, C]``.
            frames: T.
            reference: keys and values ``[B', m, C]`` of at least ``with_reference`` clips.
            with_reference: number of leading clips that see their reference; the others attend to themselves only
                (no mask, so that fused attention kernels apply).
        """
        q, k, v = self.to_qkv(self.norm1(x)).chunk(3, -1)
        split = with_reference * frames
        if reference is None or split == 0:
            attended = self._attend(q, k, v)
        else:
            keys, values = (t[:with_reference] for t in reference)
            attended = self._attend(q[:split], _join(k[:split], keys, frames), _join(v[:split], values, frames))
            if split < len(x):
                attended = torch.cat([attended, self._attend(q[split:], k[split:], v[split:])])
        x = x + self.to_out(attended)
        return x + self.ff_out(F.gelu(self.ff_in(self.norm2(x)))), (k, v)


def _join(own: Tensor, other: Tensor, frames: int) -> Tensor:
    """Tokens ``[B * T, n, C]`` followed by their clip's reference tokens ``[B, m, C]``."""
    repeated = other[:, None].expand(-1, frames, -1, -1)
    return torch.cat([own.unflatten(0, (len(other), frames)), repeated], 2).flatten(0, 1)


class MotionModule(nn.Module):
    """Self-attention over the frames of a clip, separately at each pixel."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.norm = nn.LayerNorm(channels)  # per frame and pixel, so that frames do not leak into each other's norm
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        zeroed(self.to_out)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` ``[B * T, n, C]``, ``positions`` of the frames in time ``[T]``."""
        normed = self.norm(x).unflatten(0, (-1, len(positions)))
        normed = normed + sinusoid(positions, x.shape[-1], longest=100.0).to(normed.dtype)[:, None]
        # [B, T, n, 3 C] -> three of [B, n, heads, T, d]. The sequences are so short that plain batched products beat
        # the fused kernels, which work on tiles of at least 64 tokens.
        q, k, v = self.to_qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        attended = scores.softmax(-1).to(v.dtype) @ v
        return x + self.to_out(attended.permute(0, 3, 1, 2, 4).flatten(-2).flatten(0, 1))


class Stage(nn.Module):
    """One resolution's work: residual block, spatial transformer, motion module."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, head_dim: int) -> None:
        super().__init__()
        self.resnet = ResnetBlock(in_channels, out_channels, time_channels)
        self.attention = SpatialTransformer(out_channels, head_dim)
        self.motion_module = MotionModule(out_channels, head_dim)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        positions: Tensor | None,
        reference: ReferenceTokens | None,
        with_reference: int,
    ) -> tuple[Tensor, ReferenceTokens]:
        """As :meth:`SpatialTransformer.forward`; without ``positions`` (a reference picture) there is no motion."""
        x = self.resnet(x, time)
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens, own = self.attention(tokens, len(x) // len(time), reference, with_reference)
        if positions is not None:
            tokens = self.motion_module(tokens, positions)
        return tokens.transpose(1, 2).unflatten(2, (height, width)), own
