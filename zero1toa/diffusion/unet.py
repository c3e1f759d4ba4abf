"""The compact landmark-guided, reference-conditioned denoising UNet over the frames of a clip."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.blocks import ReferenceTokens, ResnetBlock, Stage, sinusoid, zeroed

ReferenceBank: TypeAlias = list[ReferenceTokens]  # one entry per attention layer, in order of execution


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network.

    Attributes:
        latent_channels: channels of the autoencoder's latents.
        widths: channels at each resolution, finest first; each further one halves the resolution.
        head_dim: channels of an attention head; divides every width.
        time_channels: width of the time embedding.
        guider_channels: width of the landmark guider.
    """

    latent_channels: int = 4
    widths: tuple[int, ...] = (64, 160, 192)
    head_dim: int = 32
    time_channels: int = 256
    guider_channels: int = 48


class LandmarkGuider(nn.Module):
    """Landmark maps to features at the latents' resolution (a quarter), zero before training."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels // 2, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            [nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        )
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)
        zeroed(self.conv_out)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``[N, 3, H, W]`` in [0, 1] to features ``[N, C, H/4, W/4]``."""
        hidden = F.silu(self.conv_in(maps))
        for block in self.blocks:
            hidden = F.silu(block(hidden))
        return self.conv_out(hidden)


def source_velocity(noisy: Tensor, source: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The v that says "the clip being refined is already right", ``(alpha * noisy - source) / sigma``.

    Where a source is given, the network predicts what to add to this, so that ``x0 = source - sigma * output``. A
    network of this size cannot copy latents through its layers; without the shortcut it blurs good clips.

    Args:
        noisy: latents at a noise level, float32.
        source: clean latents of the clip being refined, same shape.
        alpha: signal amplitude; broadcasts.
        sigma: noise amplitude, positive; broadcasts.
    """
    return (alpha * noisy - source) / sigma


class CompactUNet(nn.Module):
    """Predicts v for the latents of clips, under a reference picture and landmark maps (paper sec. 4.1).

    The reference picture runs through the same weights, at timestep 0 with a learned embedding, together with its own
    landmark map, so that the network can tell which part of the face a reference token shows.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, widths, time = config.latent_channels, config.widths, config.time_channels
        self.guider = LandmarkGuider(config.guider_channels, widths[0])
        self.time_embedding = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time))
        self.reference_embedding = nn.Parameter(torch.zeros(time))
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        # The clip being refined, and a flag that says whether it is given.
        self.source_in = nn.Conv2d(channels + 1, widths[0], 3, padding=1, bias=False)
        zeroed(self.source_in)

        self.down_blocks = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        previous = widths[0]
        for width in widths:
            self.down_blocks.append(Stage(previous, width, time, config.head_dim))
            previous = width
        for width in widths[:-1]:
            self.downsamplers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.mid_block = ResnetBlock(widths[-1], widths[-1], time)
        self.up_blocks = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for level in reversed(range(len(widths))):
            self.up_blocks.append(Stage(previous + widths[level], widths[level], time, config.head_dim))
            if level > 0:
                self.upsamplers.append(nn.Conv2d(widths[level], widths[level - 1], 3, padding=1))
                previous = widths[level - 1]
        self.conv_norm_out = nn.GroupNorm(16, widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        zeroed(self.conv_out)
        self.residual_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        zeroed(self.residual_out)

    def guide(self, maps: Tensor) -> Tensor:
        """Landmark features ``[B, T, C, h, w]`` of maps ``[B, T, 3, H, W]`` in [0, 1]."""
        return self.guider(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])

    def reference(self, latents: Tensor, maps: Tensor) -> ReferenceBank:
        """Keys and values of reference pictures at every attention layer.

        Args:
            latents: ``[B, C, h, w]``.
            maps: their landmark maps ``[B, 3, H, W]`` in [0, 1].
        """
        time = self.time_embedding(self._time_features(torch.zeros(len(latents), device=latents.device), latents.dtype))
        x = self.conv_in(latents) + self.guider(maps)
        return self._run(x, F.silu(time + self.reference_embedding), None, None, 0)[1]

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        positions: Tensor,
        features: Tensor,
        bank: ReferenceBank | None,
        with_reference: int,
        source: Tensor | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            latents: noisy latents ``[B, T, C, h, w]``.
            timesteps: training timestep of each clip ``[B]``.
            positions: positions of the frames in time ``[T]``; only their differences should matter.
            features: landmark features from :meth:`guide`.
            bank: from :meth:`reference`, or None.
            with_reference: number of leading clips that see their reference.
            source: latents of the clips being refined and a flag channel (1 = given) ``[B, T, C + 1, h, w]``.

        Returns:
            v, shaped as ``latents``; for clips with a source, what to add to :func:`source_velocity`.
        """
        batch = latents.shape[0]
        x = self.conv_in(latents.flatten(0, 1)) + features.flatten(0, 1)
        if source is not None:
            x = x + self.source_in(source.flatten(0, 1))
        time = F.silu(self.time_embedding(self._time_features(timesteps, latents.dtype)))
        x, _ = self._run(x, time, positions, bank, with_reference)
        hidden = F.silu(self.conv_norm_out(x))
        output = self.conv_out(hidden).unflatten(0, (batch, -1))
        if source is None:
            return output
        return torch.where(source[:, :, -1:] > 0, self.residual_out(hidden).unflatten(0, (batch, -1)), output)

    def _time_features(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        return sinusoid(timesteps, self.config.widths[0]).to(dtype)

    def _run(
        self, x: Tensor, time: Tensor, positions: Tensor | None, bank: ReferenceBank | None, with_reference: int
    ) -> tuple[Tensor, ReferenceBank]:
        own: ReferenceBank = []
        skips: list[Tensor] = []

        def stage(block: nn.Module, value: Tensor) -> Tensor:
            value, tokens = block(value, time, positions, bank[len(own)] if bank else None, with_reference)
            own.append(tokens)
            return value

        for level, block in enumerate(self.down_blocks):
            x = stage(block, x)
            skips.append(x)
            if level < len(self.downsamplers):
                x = self.downsamplers[level](x)
        x = self.mid_block(x, time)
        for level, block in enumerate(self.up_blocks):
            x = stage(block, torch.cat([x, skips.pop()], 1))
            if level < len(self.upsamplers):
                x = self.upsamplers[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x, own
