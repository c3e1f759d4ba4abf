"""Landmark guiders: from landmark maps to the features that the denoiser adds."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext, SpatialTransformer
from zero1toa.diffusion.animator.config import PoseGuiderConfig


class LandmarkGuider(nn.Module):
    """Convolutions down to the latents' resolution (Follow-Your-Emoji's landmark guider, EchoMimic's face locator).

    Args:
        channels: channels of the denoiser's first feature map.
    """

    def __init__(self, channels: int = 320) -> None:
        super().__init__()
        widths = (16, 32, 96, 256)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, following in itertools.pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, following, 3, stride=2, padding=1))
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Maps ``[N, 3, H, W]`` in [0, 1] to one feature map ``[N, C, H / 8, W / 8]``."""
        x = F.silu(self.conv_in(maps))
        for convolution in self.blocks:
            x = F.silu(convolution(x))
        return (self.conv_out(x),)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can use the statistics of the batch at inference, and never changes its own.

    Attributes:
        use_batch: normalise by the batch at hand instead of by the stored averages.
    """

    use_batch: bool = True

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to the same shape."""
        mean, variance = self.running_mean, self.running_var
        if self.use_batch:
            # Channels that are almost constant divide by almost nothing; torch's own statistics of tensors laid out
            # channels last are too coarse for that, by 0.01 in the guider's features.
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


def _convolutions(*layers: tuple[int, int, int, int]) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU for each (in, out, kernel, stride)."""
    modules: list[nn.Module] = []
    for inputs, outputs, kernel, stride in layers:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1)
        modules += [convolution, BatchNorm(outputs), nn.ReLU()]
    return nn.Sequential(*modules)


class PoseGuider(nn.Module):
    """AniPortrait's pose guider: a pyramid of convolutions with a transformer behind each scale but the first.

    The transformers were meant to attend to the reference's pose too, but are built without cross-attention in the
    original, so the reference's pose has no influence and is not asked for.

    """

    def __init__(self, config: PoseGuiderConfig) -> None:
        super().__init__()
        fine = config.channels
        self.scale = nn.Parameter(torch.ones(1))
        self.conv_layers = _convolutions(
            (3, 3, 3, 1),
            (3, 16, 4, 2),
            (16, 16, 3, 1),
            (16, 32, 4, 2),
            (32, 32, 3, 1),
            (32, 64, 4, 2),
            (64, 64, 3, 1),
            (64, 128, 3, 1),
        )
        self.final_proj = nn.Conv2d(128, fine, 1)
        self.conv_layers_1 = _convolutions((fine, fine, 3, 1), (fine, fine, 3, 2))
        self.conv_layers_2 = _convolutions((fine, fine, 3, 1), (fine, 2 * fine, 3, 2))
        self.conv_layers_3 = _convolutions((2 * fine, 2 * fine, 3, 1), (2 * fine, 4 * fine, 3, 2))
        self.conv_layers_4 = _convolutions((4 * fine, 4 * fine, 3, 1))
        inner = config.heads * config.head_channels

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(channels, config.heads, config.groups, inner=inner)

        self.cross_attn1 = transformer(fine)
        self.cross_attn2 = transformer(2 * fine)
        self.cross_attn3 = transformer(4 * fine)
        self.cross_attn4 = transformer(4 * fine)

    def use_statistics_of(self, what: Literal["batch", "training"]) -> None:
        """Choose what batch normalisation divides by.

        With the batch at hand, as the released scripts have it by never leaving training mode and as it is from the
        start, the features of a frame depend on the other frames of its window, so a call must hold one window.
        """
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.use_batch = what == "batch"

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Maps of one window ``[T, 3, H, W]`` to five feature maps at 1/8, 1/16, 1/32, 1/64 and 1/64 of the size."""
        x = self.final_proj(self.conv_layers(maps)) * self.scale
        features = [x]
        for convolutions, transformer in (
            (self.conv_layers_1, self.cross_attn1),
            (self.conv_layers_2, self.cross_attn2),
            (self.conv_layers_3, self.cross_attn3),
            (self.conv_layers_4, self.cross_attn4),
        ):
            x, _ = transformer(convolutions(x), LayerContext(), 0)
            features.append(x)
        return tuple(features)
