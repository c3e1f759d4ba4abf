"""Motion module: attention over the frames of a clip, separately at each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import FeedForward, to_map, to_tokens
from zero1toa.diffusion.animator.config import MOTION_HEADS, MOTION_LENGTH


class FrameAttention(nn.Module):
    """Self-attention along the frames, with positions added to its input (to queries, keys and values alike)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def attend(self, x: Tensor, places: Tensor) -> Tensor:
        """``x`` ``[B * T, n, C]``, ``places`` what is added to each frame ``[T, C]``."""
        qkv = self.to_qkv(x.unflatten(0, (-1, len(places))) + places[:, None])
        # [B, T, n, 3 C] -> three of [B, n, heads, T, d]. The sequences are so short that plain batched products beat
        # torch's fused kernels, which work on tiles of at least 64 tokens.
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        attended = scores.softmax(-1) @ v
        return self.to_out(attended.permute(0, 3, 1, 2, 4).flatten(-2).flatten(0, 1))


class TemporalAttention(FrameAttention):
    """Attention along the frames with a table of positions, which a checkpoint brings."""

    pe: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, MOTION_HEADS)
        self.register_buffer("pe", torch.zeros(1, MOTION_LENGTH, channels))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``x`` ``[B * T, n, C]``, ``frames`` T."""
        return self.attend(x, self.pe[0, :frames])


class MotionModule(nn.Module):
    """Two temporal attentions and a feed-forward layer.

    The group normalisation is per frame, as the animators were trained; diffusers' own motion modules normalise all
    frames of a clip together and give visibly other results with the same weights.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = TemporalAttention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TemporalAttention(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``x`` ``[B * T, C, h, w]``, ``frames`` T."""
        tokens = self.proj_in(to_tokens(self.norm(x)))
        tokens = tokens + self.attn1(self.norm1(tokens), frames)
        tokens = tokens + self.attn2(self.norm2(tokens), frames)
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + to_map(self.proj_out(tokens), x.shape[-2], x.shape[-1])
