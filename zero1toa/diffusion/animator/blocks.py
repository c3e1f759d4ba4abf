"""Convolutional parts of the UNet, and the layers of one resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext, SpatialTransformer
from zero1toa.diffusion.animator.config import UNetConfig
from zero1toa.diffusion.animator.embeddings import sinusoid
from zero1toa.diffusion.animator.lean import LeanMotionModule, LeanTransformer
from zero1toa.diffusion.animator.motion import MotionModule


class TimeEmbedding(nn.Module):
    """Timesteps to the vectors that every residual block reads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, timestep: Tensor, added: Tensor | None = None) -> Tensor:
        """Noise levels ``[N]``, and what is added to their vectors ``[4 C]``, to ``[N, 4 C]``, already activated."""
        waves = sinusoid(timestep, self.linear_1.in_features).to(self.linear_1.weight.dtype)
        vectors = self.linear_2(F.silu(self.linear_1(waves)))
        return F.silu(vectors if added is None else vectors + added)


class ResnetBlock(nn.Module):
    """Two convolutions with a residual; the time embedding is added in between, or scales and shifts (``scales``)."""

    def __init__(
        self, in_channels: int, out_channels: int, time_channels: int, groups: int, scales: bool = False
    ) -> None:
        super().__init__()
        self.scales = scales
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, (1 + scales) * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor, skip: Tensor | None = None) -> Tensor:
        """``x`` ``[N, C, h, w]``, ``skip`` the channels behind its own, ``time`` ``[1, E]``: one noise level.

        Where ``time`` scales, it may be one of each clip ``[B, E]``.
        """
        if skip is not None:
            x = torch.cat([x, skip], 1)
        hidden, time = self.conv1(F.silu(self.norm1(x))), self.time_emb_proj(time)[..., None, None]
        if self.scales:
            scale, shift = time.repeat_interleave(len(x) // len(time), 0).chunk(2, 1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + time)
        hidden = self.conv2(F.silu(hidden))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to ``[N, C, h / 2, w / 2]``."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to ``[N, C', 2 h, 2 w]``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """Layers of one resolution: residual block, then, where it has them, spatial transformer and motion module.

    Args:
        config: sizes of the network.
        inputs: channels that come into each layer.
        channels: channels that leave it.
        attention: number of leading layers with a spatial transformer.
        motion: number of leading layers with a motion module.
        resample: what follows the layers.
    """

    def __init__(
        self,
        config: UNetConfig,
        inputs: tuple[int, ...],
        channels: int,
        attention: int,
        motion: int,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        time = 4 * config.channels[0]
        self.resnets = nn.ModuleList(ResnetBlock(width, channels, time, config.groups, config.lean) for width in inputs)
        self.attentions = nn.ModuleList(_transformer(config, channels) for _ in range(attention))
        self.motion_modules = nn.ModuleList(_motion_module(config, channels) for _ in range(motion))
        self.resample = resample

    def layer(
        self,
        index: int,
        x: Tensor,
        skip: Tensor | None,
        time: Tensor,
        frames: int | Tensor | None,
        contexts: tuple[LayerContext, ...],
        split: int,
        twice: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Run one layer.

        Args:
            index: which.
            x: ``[N, C, h, w]``.
            skip: feature map from the way down whose channels follow those of ``x``, on the way up.
            time: ``[1, E]``.
            frames: of each clip, see :meth:`UNet.traverse`.
            contexts: what this stage's spatial transformers read.
            split: leading entries that see the reference.
            twice: the attention takes the feature map for two, see :class:`SpatialTransformer`.

        Returns:
            The feature map, and the normed tokens of the layer's self-attention, None if it has no attention.
        """
        x, normed = self.resnets[index](x, time, skip), None
        if index < len(self.attentions):
            x, normed = self.attentions[index](x, contexts[index], split, twice)
        if index < len(self.motion_modules) and frames is not None:
            x = self.motion_modules[index](x, frames)
        return x, normed


def _transformer(config: UNetConfig, channels: int) -> nn.Module:
    if config.lean:
        return LeanTransformer(channels, channels // config.head_width)
    return SpatialTransformer(channels, config.heads, config.groups, config.prompt_channels, config.prompt_scale)


def _motion_module(config: UNetConfig, channels: int) -> nn.Module:
    if config.lean:
        return LeanMotionModule(channels, channels // config.head_width)
    return MotionModule(channels, config.groups)
