"""Attention over the frames of a clip in one CUDA kernel.

The sequences are tiny, 16 frames for each of up to 100,000 pixels and heads: library kernels for attention work on
tiles of at least 64 tokens, batched products copy queries, keys and values into an order of their own first. Here a
program reads one head of one pixel where the projection left it, so that each value moves once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    qkv, out, frames, pixels, scale, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One head of one pixel: ``qkv`` ``[B, T, n, 3, HEADS, WIDTH]`` to ``out`` ``[B, T, n, HEADS, WIDTH]``."""
    program = tl.program_id(0)
    head = program % HEADS
    pixel = (program // HEADS) % pixels
    clip = program // HEADS // pixels
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (rows < frames)[:, None] & (columns < WIDTH)[None, :]
    token = (clip.to(tl.int64) * frames + rows[:, None]) * pixels + pixel
    source = qkv + token * (3 * HEADS * WIDTH) + head * WIDTH + columns[None, :]
    q = tl.load(source, mask=inside, other=0.0)
    k = tl.load(source + HEADS * WIDTH, mask=inside, other=0.0)
    v = tl.load(source + 2 * HEADS * WIDTH, mask=inside, other=0.0)
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where((rows < frames)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    result = tl.dot(weights.to(v.dtype), v)
    target = out + token * (HEADS * WIDTH) + head * WIDTH + columns[None, :]
    tl.store(target, result.to(v.dtype), mask=inside)


@torch.library.custom_op("zero1toa::temporal_attention", mutates_args=())
def temporal_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention along T.

    Args:
        qkv: queries, keys and values side by side ``[B, T, n, 3 * heads * d]``, bfloat16 or float16, contiguous.
        heads: number of heads.

    Returns:
        ``[B, T, n, heads * d]``.
    """
    clips, frames, pixels, channels = qkv.shape
    width = channels // 3 // heads
    qkv = qkv.contiguous()
    out = qkv.new_empty(clips, frames, pixels, heads * width)
    # Matrix units work on 16 x 16 at least; a warp holds 64 columns of its three operands in registers.
    columns = max(16, triton.next_power_of_2(width))
    _attend[(clips * pixels * heads,)](
        qkv,
        out,
        frames,
        pixels,
        width**-0.5,
        HEADS=heads,
        WIDTH=width,
        ROWS=max(16, triton.next_power_of_2(frames)),
        COLUMNS=columns,
        num_warps=max(1, columns // 64),
    )
    return out


@temporal_attention.register_fake
def _(qkv: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
