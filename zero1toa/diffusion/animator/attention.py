"""Spatial transformer of Stable Diffusion, whose self-attention may also read a reference picture.

Tokens are ``[N, n, C]`` with N = clips x frames and n = h x w. Keys and values that do not change while a clip is
denoised, those of the reference and of the prompt, come in ready-made (:class:`LayerContext`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """Keys and values of an attention layer, ``[B, m, C]`` each."""

    keys: Tensor
    values: Tensor


class LayerContext(NamedTuple):
    """What a spatial transformer reads besides its own tokens.

    Attributes:
        reference: of the reference picture, joined to self-attention; None without one.
        prompt: of the cross-attention; leading dimension clips, or clips x frames. None for a layer without it.
        null_prompt: the same for the clips that do not see the reference, leading dimension 1 or those clips.
    """

    reference: KeyValue | None = None
    prompt: KeyValue | None = None
    null_prompt: KeyValue | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention of ``[N, n, C]`` over ``[N, m, C]``."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _join(own: Tensor, reference: Tensor) -> Tensor:
    """Tokens ``[B * T, n, C]`` followed by their clip's reference tokens ``[B, m, C]``."""
    frames = len(own) // len(reference)
    repeated = reference[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    return torch.cat([own, repeated], 1)


class SelfAttention(nn.Module):
    """Self-attention whose keys and values may be joined by those of a reference (mutual self-attention)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def project(self, features: Tensor) -> KeyValue:
        """Keys and values of a reference's features ``[B, m, C]``."""
        weight = self.to_qkv.weight[features.shape[-1] :]
        return KeyValue(*F.linear(features, weight).chunk(2, -1))

    def forward(self, x: Tensor, reference: KeyValue | None, split: int) -> Tensor:
        """Attend; the first ``split`` of ``x`` see the reference."""
        return self.to_out(self.attend(self.to_qkv(x), reference, split))

    def attend(self, qkv: Tensor, reference: KeyValue | None, split: int) -> Tensor:
        """Queries, keys and values ``[N, n, 3 C]`` to ``[N, n, C]``. No mask, so that torch's fused kernels apply."""
        q, k, v = qkv.chunk(3, -1)
        if reference is None or split == 0:
            return attend(q, k, v, self.heads)
        joined = _join(k[:split], reference.keys), _join(v[:split], reference.values)
        attended = attend(q[:split], *joined, self.heads)
        if split < len(qkv):
            attended = torch.cat([attended, attend(q[split:], k[split:], v[split:], self.heads)])
        return attended


class PromptAttention(nn.Module):
    """Cross-attention with prompt tokens (image embedding or audio)."""

    def __init__(self, channels: int, heads: int, prompt_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(prompt_channels, 2 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def project(self, tokens: Tensor) -> KeyValue:
        """Keys and values of tokens ``[B, m, D]``."""
        return KeyValue(*self.to_kv(tokens).chunk(2, -1))

    def _read(self, x: Tensor, prompt: KeyValue) -> Tensor:
        if prompt.keys.shape[1] == 1:
            # Attention over a single token is that token, whatever the query.
            values = self.to_out(prompt.values)
            return values.expand(len(values), len(x) // len(values), -1).reshape(-1, 1, x.shape[-1])
        return self.to_out(self.attend(x, prompt))

    def attend(self, x: Tensor, prompt: KeyValue) -> Tensor:
        """What tokens ``[N, n, C]`` read, before the last projection."""
        # Frames of a clip share its prompt: their tokens become one long query instead of repeating the keys.
        queries = self.to_q(x).reshape(len(prompt.keys), -1, x.shape[-1])
        return attend(queries, prompt.keys, prompt.values, self.heads).view_as(x)

    def forward(self, x: Tensor, prompt: KeyValue | None, null_prompt: KeyValue | None, split: int) -> Tensor:
        """Attend; the first ``split`` of ``x`` read ``prompt``, the others ``null_prompt``. Broadcasts to ``x``."""
        parts = []
        if split > 0:
            assert prompt is not None
            parts.append(self._read(x[:split], prompt))
        if split < len(x):
            assert null_prompt is not None
            parts.append(self._read(x[split:], null_prompt))
        if len(parts) == 1:
            return parts[0]
        tokens = max(part.shape[1] for part in parts)
        return torch.cat([part.expand(-1, tokens, -1) for part in parts])


class FeedForward(nn.Module):
    """Feed-forward layer gated by GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)
        self.out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same shape."""
        value, gate = self.proj(x).chunk(2, -1)
        return self.out(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """Normalise, attend within a frame, cross-attend, feed forward, add to the input.

    Args:
        channels: channels of the feature map.
        heads: attention heads.
        groups: groups of the normalisation.
        prompt_channels: width of the prompt tokens; None leaves the cross-attention out.
        prompt_scale: factor on the cross-attention's output.
        inner: width of the tokens; ``channels`` if not given.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        prompt_channels: int | None = None,
        prompt_scale: float = 1.0,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        width = inner or channels
        self.prompt_scale = prompt_scale
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, width)
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width, heads)
        self.norm2 = None if prompt_channels is None else nn.LayerNorm(width)
        self.attn2 = None if prompt_channels is None else PromptAttention(width, heads, prompt_channels)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.proj_out = nn.Linear(width, channels)

    def forward(self, x: Tensor, context: LayerContext, split: int, twice: bool = False) -> tuple[Tensor, Tensor]:
        """Transform a feature map.

        Args:
            x: ``[N, C, h, w]``.
            context: keys and values of reference and prompt.
            split: leading entries of N that see the reference and read ``context.prompt``.
            twice: take the feature map for two, of which the second sees no reference; ``split`` is N.

        Returns:
            The new feature map (``twice``: of 2 N), and the normed input of self-attention ``[N, h * w, width]``, which
            is what a reference network hands over.
        """
        if twice:
            x = torch.cat([x, x])
        tokens = self.proj_in(to_tokens(self.norm(x)))
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, context.reference, split)
        if self.attn2 is not None and self.norm2 is not None:
            read = self.attn2(self.norm2(tokens), context.prompt, context.null_prompt, split)
            tokens = tokens + self.prompt_scale * read
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + to_map(self.proj_out(tokens), x.shape[-2], x.shape[-1]), normed


def to_tokens(x: Tensor) -> Tensor:
    """``[N, C, h, w]`` to ``[N, h * w, C]``; free of copies where ``x`` is laid out channels last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """``[N, h * w, C]`` to ``[N, C, h, w]``, laid out channels last."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
