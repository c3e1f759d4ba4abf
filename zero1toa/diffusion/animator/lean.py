"""Layers of a small network, which leave out what such a one can do without.

They have no projections in and out with a normalisation of their own, no cross-attention, since there is no prompt, no
gates in feed-forward layers, and one attention where a motion module has two and a feed-forward layer. At the same
widths ``diffusers.UNetMotionModel`` has 2.5 times the parameters and takes over twice the time on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext, SelfAttention, to_map, to_tokens
from zero1toa.diffusion.animator.embeddings import sinusoid
from zero1toa.diffusion.animator.motion import FrameAttention

_EXPANSION = 3  # of the feed-forward layers
_LONGEST = 100.0  # wave of the positions in time, for clips of a second or two


class LeanTransformer(nn.Module):
    """Attention within a frame, which may also read a reference picture, then a feed-forward layer.

    Args:
        channels: channels of the feature map and width of its tokens.
        heads: attention heads.
    """

    attn2 = None

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ff_in = nn.Linear(channels, _EXPANSION * channels)
        self.ff_out = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, x: Tensor, context: LayerContext, split: int, twice: bool = False) -> tuple[Tensor, Tensor]:
        """As :meth:`SpatialTransformer.forward`."""
        if twice:
            x = torch.cat([x, x])
        tokens = to_tokens(x)
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, context.reference, split)
        tokens = tokens + self.ff_out(F.gelu(self.ff_in(self.norm2(tokens))))
        return to_map(tokens, x.shape[-2], x.shape[-1]), normed


class LeanMotionModule(nn.Module):
    """One attention along the frames, separately at each pixel.

    The normalisation is per frame and pixel, so that frames do not leak into each other's.

    Args:
        channels: channels of the feature map.
        heads: attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attn = FrameAttention(channels, heads)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` ``[B * T, C, h, w]``, ``positions`` of the frames in time ``[T]``; only their differences matter."""
        tokens = to_tokens(x)
        places = sinusoid(positions, x.shape[1], _LONGEST).to(tokens.dtype)
        tokens = tokens + self.attn.attend(self.norm(tokens), places)
        return to_map(tokens, x.shape[-2], x.shape[-1])
