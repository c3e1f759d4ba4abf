"""The kernels of this folder, as functions of tensors.

All work on CUDA in half precision. Maps are ``[N, C, h, w]``, laid out channels last, tokens ``[N, n, C]``; both are
the same rows of channels in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.kernels.loader import Kernel, kernel

_VECTOR = 8  # values that a thread moves at once
_THREADS = 256  # of a block, about
_PIECES = 5  # vectors of a row that a thread of the layer normalisation holds
_WIDTHS = {_VECTOR * _PIECES * lanes: lanes for lanes in (8, 16, 32)}  # threads that share a row

TOKEN_WIDTHS = tuple(_WIDTHS)
"""Widths of tokens that :func:`add_norm` takes."""


def _layers(name: str, x: Tensor, shared: int = 0) -> Kernel:
    return kernel("layers.cu", name, x.dtype, x.device.index, shared)


def _lines(vectors: int) -> int:
    """Rows that a block works on at once."""
    return max(1, _THREADS // vectors)


def group_norm(
    x: Tensor, norm: nn.GroupNorm, more: Tensor | None = None, shift: Tensor | None = None, activate: bool = False
) -> Tensor:
    """Group normalisation.

    Args:
        x: a map.
        norm: gains, offsets and groups; its channels are those of ``x`` and ``more`` together, divisible by 8.
        more: a map whose channels follow those of ``x``.
        shift: added to each channel before ``[C]``.
        activate: apply SiLU after.

    Returns:
        The normed map, joined.
    """
    samples, own, height, width = x.shape
    channels, groups, rows = norm.num_channels, norm.num_groups, height * width
    vectors = channels // _VECTOR
    lines, sums = _lines(vectors), group_sums(x, norm, more, shift)
    out = torch.empty_like(x) if more is None else _map(x, channels)
    share = max(lines, math.ceil(rows / 64))
    _layers("group_normalise", x, 8 * groups)(
        (math.ceil(rows / share), samples), (vectors, lines), x, more, shift, sums, norm.weight, norm.bias, out, rows,
        own // _VECTOR, vectors, groups, sums.shape[1], share, norm.eps, int(activate),
    )  # fmt: skip
    return out


def group_sums(x: Tensor, norm: nn.GroupNorm, more: Tensor | None, shift: Tensor | None) -> Tensor:
    """What :func:`group_norm` needs to know of all of its input first; see there.

    Returns:
        Sums and sums of squares of each group over parts of the pixels, float32 ``[N, parts, 2, groups]``.
    """
    samples, own, height, width = x.shape
    channels, groups, rows = norm.num_channels, norm.num_groups, height * width
    vectors = channels // _VECTOR
    lines = _lines(vectors)
    parts = min(32, math.ceil(rows / lines))
    share = math.ceil(rows / parts)
    sums = x.new_empty(samples, parts, 2, groups, dtype=torch.float32)
    _layers("group_sums", x, 8 * lines * channels)(
        (parts, samples), (vectors, lines), x, more, shift, sums, rows, own // _VECTOR, vectors, groups, share
    )
    return sums


def _map(x: Tensor, channels: int) -> Tensor:
    """Room for a map like another, with other channels."""
    samples, _, height, width = x.shape
    return x.new_empty(samples, height, width, channels).permute(0, 3, 1, 2)


def add_norm(
    tokens: Tensor,
    norm: nn.LayerNorm,
    change: Tensor | None = None,
    constant: Tensor | None = None,
    factor: float = 1.0,
    places: Tensor | None = None,
    out: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """Add to tokens, and normalise each.

    Args:
        tokens: changed in place where there is anything to add and no ``sums``; width one of :data:`TOKEN_WIDTHS`.
        norm: gains and offsets.
        change: added to the tokens, times ``factor``.
        constant: ``[B, 1, C]``, each added to all tokens of N / B entries.
        factor: of ``change``.
        places: positions of frames ``[T, C]``, added to what is normed.
        out: where to put it.
        sums: where to put the sums, rows ``[N, n, C + 8 or more]``: a one and seven zeros follow them.

    Returns:
        The normed tokens.
    """
    entries, pixels, channels = tokens.shape
    out = torch.empty_like(tokens) if out is None else out
    if sums is None and not (change is None and constant is None):
        sums = tokens
    lanes, rows = _WIDTHS[channels], entries * pixels
    period = rows if constant is None else rows // len(constant)
    _layers(f"add_and_normalise_{lanes}", tokens)(
        (math.ceil(rows * lanes / _THREADS), 1), (_THREADS, 1), tokens, change, constant,
        sums, 0 if sums is None else sums.stride(1) // _VECTOR, out, norm.weight, norm.bias, places, rows, period,
        factor, pixels, 1 if places is None else len(places), norm.eps,
    )  # fmt: skip
    return out


def gate(x: Tensor, out: Tensor) -> None:
    """Values times GELU of gates.

    Args:
        x: values and gates side by side ``[N, n, 2 D]``.
        out: where to put it ``[N, n, D]``, perhaps a part of wider rows.
    """
    width = x.shape[-1] // 2
    rows, share = out.numel() // width, 4
    _layers("gate", x)(
        (math.ceil(rows / share), 1), (width // _VECTOR, 1), x, out, out.stride(1) // _VECTOR, rows, width // _VECTOR,
        share,
    )  # fmt: skip


_PRODUCT_WIDTH, _PRODUCT_ROWS, _PRODUCT_OUTPUTS = 320, 64, 128
_PRODUCT_THREADS, _PRODUCT_NORM_THREADS = 512, 384

PRODUCT = {"WIDTH": _PRODUCT_WIDTH, "SHARED": 231_040}
"""Constants of ``gated_product.cu``: the width of the tokens, and bytes of shared memory that a block uses."""


def takes_gated_product(x: Tensor, layer: nn.Linear) -> bool:
    """Whether :func:`gated_product` computes this: a width and a number of tokens that it is made for, on Hopper."""
    return (
        x.shape[-1] == _PRODUCT_WIDTH
        and x.shape[0] * x.shape[1] % _PRODUCT_ROWS == 0
        and layer.out_features % (2 * _PRODUCT_OUTPUTS) == 0
        and torch.cuda.get_device_capability(x.device)[0] == 9
    )


def gated_product(x: Tensor, layer: nn.Linear, out: Tensor) -> None:
    """:func:`gate` of a layer's output, which is not written to memory.

    Args:
        x: tokens ``[N, n, 320]``.
        layer: gives values and gates ``[N, n, 2 D]``.
        out: where to put it ``[N, n, D]``, perhaps a part of wider rows.
    """
    outputs, rows = out.shape[-1], out.shape[0] * out.shape[1]
    columns = outputs // _PRODUCT_OUTPUTS
    blocks = torch.cuda.get_device_properties(x.device).multi_processor_count // columns * columns
    multiply = kernel("gated_product.cu", "gated_product", x.dtype, x.device.index, PRODUCT["SHARED"], **PRODUCT)
    multiply((blocks, 1), (_PRODUCT_THREADS, 1), x, layer.weight, layer.bias, out, rows, outputs, out.stride(1))


PRODUCT_NORM = {"WIDTH": _PRODUCT_WIDTH, "SHARED": 231_344}
"""Constants of ``product_norm.cu``."""


def takes_product_norm(x: Tensor, layer: nn.Linear) -> bool:
    """Whether :func:`product_norm` computes this: a width and a number of tokens that it is made for, on Hopper."""
    return (
        x.shape[-1] == layer.out_features == _PRODUCT_WIDTH
        and x.shape[1] % _PRODUCT_ROWS == 0
        and torch.cuda.get_device_capability(x.device)[0] == 9
    )


def product_norm(
    x: Tensor,
    layer: nn.Linear,
    norm: nn.LayerNorm,
    tokens: Tensor | None = None,
    constant: Tensor | None = None,
    places: Tensor | None = None,
    out: Tensor | None = None,
    sums: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`add_norm` of a layer's output, which is not written to memory.

    Args:
        x: what the layer takes ``[N, n, 320]``.
        layer: its output is added to the tokens.
        norm: gains and offsets.
        tokens: changed in place where there are no ``sums``; zero where there are none.
        constant: ``[B, 1, C]``, each added to all tokens of N / B entries.
        places: positions of frames ``[T, C]``, added to what is normed.
        out: where to put it.
        sums: where to put the sums, rows ``[N, n, C + 8 or more]``: a one and seven zeros follow them.

    Returns:
        The sums, and the normed tokens.
    """
    entries, pixels, _ = x.shape
    out = torch.empty_like(x) if out is None else out
    if sums is None:
        sums = torch.empty_like(x) if tokens is None else tokens
    rows = entries * pixels
    period = rows if constant is None else rows // len(constant)
    blocks = min(rows // _PRODUCT_ROWS, torch.cuda.get_device_properties(x.device).multi_processor_count)
    kernel("product_norm.cu", "product_norm", x.dtype, x.device.index, PRODUCT_NORM["SHARED"], **PRODUCT_NORM)(
        (blocks, 1), (_PRODUCT_NORM_THREADS, 1), x, layer.weight, layer.bias, tokens, constant, norm.weight, norm.bias,
        places, sums, sums.stride(1) // _VECTOR, out, rows, period, pixels, 1 if places is None else len(places),
        norm.eps,
    )  # fmt: skip
    return sums, out


def add(*maps: Tensor, shift: Tensor | None = None) -> Tensor:
    """Sum of up to four maps or tokens of the same rows, shaped as the first, and of ``shift`` ``[C]``."""
    first = maps[0]
    channels = first.shape[1] if first.ndim == 4 else first.shape[-1]
    out, rows, vectors = torch.empty_like(first), first.numel() // channels, channels // _VECTOR
    lines = _lines(vectors)
    share = 4 * lines
    given = [*maps, None, None, None][:4]
    _layers("add", first)((math.ceil(rows / share), 1), (vectors, lines), *given, shift, out, rows, vectors, share)
    return out


_TEMPORAL_WIDTH = 320  # of the heads of a block, with 16 frames: 31 KB of shared memory, six blocks a multiprocessor


def temporal_attention(qkv: Tensor, frames: int, heads: int) -> Tensor:
    """Attention over the frames of a clip, separately at each pixel.

    Args:
        qkv: queries, keys and values side by side ``[B * T, n, 3 * heads * d]``, d divisible by 8.
        frames: T, at most 32.
        heads: number of heads.

    Returns:
        ``[B * T, n, heads * d]``.
    """
    entries, pixels, channels = qkv.shape
    width = channels // 3 // heads
    out = qkv.new_empty(entries, pixels, heads * width)
    tiles = math.ceil(frames / 16)
    most = _TEMPORAL_WIDTH // (tiles * max(width, 40))  # 8 warps at the utmost, or 4 with two tiles, for registers
    share = max(part for part in range(1, max(most, 1) + 1) if heads % part == 0)
    vectors = 3 * share * width // _VECTOR
    attend = kernel(
        "temporal_attention.cu", "attend", qkv.dtype, qkv.device.index,
        shared=256 * tiles * (vectors + 1 + vectors % 2), WIDTH=width, TILES=tiles, HEADS=heads, SHARE=share,
    )  # fmt: skip
    factor = math.log2(math.e) / math.sqrt(width)
    attend((pixels * heads // share, entries // frames), (32 * share, 1), qkv, out, frames, pixels, factor)
    return out


def interleave(x: Tensor, shift: Tensor) -> Tensor:
    """Four maps of half the resolution to one.

    Args:
        x: ``[N, 4 C, h + 1, w + 1]``: of each 2 x 2 pixels the upper left, upper right, lower left, lower right one;
            the right ones lie a column, the lower ones a row further on.
        shift: added to each channel ``[C]``.

    Returns:
        ``[N, C, 2 h, 2 w]``.
    """
    samples, channels, height, width = x.shape
    height, width, channels = height - 1, width - 1, channels // 4
    out = x.new_empty(samples, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    vectors = channels // _VECTOR
    _layers("interleave", x)(
        (2 * height, samples), (vectors, _lines(vectors)), x, shift, out, height, width, vectors
    )  # fmt: skip
    return out


def join(qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of pictures, followed by those of their clip's reference.

    Args:
        qkv: queries, keys and values of B clips' pictures side by side ``[N, n, 3 C]``.
        keys: of the references ``[B, m, C]``, perhaps a part of wider rows.
        values: likewise, in rows as wide.

    Returns:
        Keys and values ``[N, n + m, C]``, each a half of the same rows.
    """
    pictures, tokens, width = qkv.shape
    (clips, more, channels), vectors = keys.shape, width // 3 // _VECTOR
    joined = qkv.new_empty(pictures, tokens + more, 2 * channels)
    lines = _lines(2 * vectors)
    share = 8 * lines
    _layers("join", qkv)(
        (math.ceil((tokens + more) / share), pictures), (2 * vectors, lines), qkv, keys, values, joined, tokens, more,
        vectors, keys.stride(1) // _VECTOR, pictures // clips, share,
    )  # fmt: skip
    return joined[..., :channels], joined[..., channels:]


_SPATIAL_WIDTH, _SPATIAL_TILE, _SPATIAL_ROWS = 40, 64, 256
_SPATIAL_THREADS, _ARRANGING_THREADS = 640, 640

SPATIAL_SHARED = 196_864
"""Bytes of shared memory that a block of :func:`spatial_attention` uses."""


def takes_attention(qkv: Tensor, others: Tensor | None, heads: int) -> bool:
    """Whether :func:`spatial_attention` computes this: a width and numbers of tokens that it is made for, on Hopper."""
    counts = [tokens.shape[1] for tokens in (qkv, others) if tokens is not None]
    return (
        qkv.shape[-1] == 3 * heads * _SPATIAL_WIDTH
        and all(count % _SPATIAL_TILE == 0 for count in counts)
        and torch.cuda.get_device_capability(qkv.device)[0] == 9
    )


def spatial_attention(
    qkv: Tensor, keys: Tensor | None, values: Tensor | None, split: int, heads: int, twice: bool = False
) -> Tensor:
    """Self-attention, joined by a reference's keys and values where there are any.

    Args:
        qkv: queries, keys and values side by side ``[N, n, 3 * heads * 40]``.
        keys: of the reference ``[B, m, heads * 40]``.
        values: likewise.
        split: leading entries of ``qkv`` that read them, of B clips.
        heads: number of heads.
        twice: all read them; what they read without them, which comes first anyway, follows.

    Returns:
        ``[N, n, heads * 40]``; ``twice``: 2 N.
    """
    pictures, tokens, channels = qkv.shape
    out = qkv.new_empty(2 * pictures if twice else pictures, tokens, channels // 3)
    _, own_keys, own_values = qkv.chunk(3, -1)
    own, others, more, clips = _arrange(own_keys, own_values, heads), None, 0, 1
    if keys is not None and values is not None:
        others, (clips, more) = _arrange(keys.contiguous(), values.contiguous(), heads), keys.shape[:2]
    factor = math.log2(math.e) / math.sqrt(_SPATIAL_WIDTH)
    _spatial("attend", qkv, SPATIAL_SHARED)(
        (math.ceil(tokens / _SPATIAL_ROWS), pictures * heads), (_SPATIAL_THREADS, 1), qkv, own, others, out, tokens,
        more, heads, 0 if others is None else split, max(1, split // clips), pictures if twice else 0, factor,
    )  # fmt: skip
    return out


def _arrange(keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Keys and values ``[N, m, heads * 40]``, each perhaps a part of wider rows, as the tiles that attention reads."""
    pictures, tokens, channels = keys.shape
    tiles = keys.new_empty(pictures, tokens, 2 * channels)
    _spatial("arrange", keys)(
        (tokens // _SPATIAL_TILE, pictures), (_ARRANGING_THREADS, 1), keys, values, tiles, tokens, heads,
        keys.stride(1) // _VECTOR,
    )  # fmt: skip
    return tiles


def _spatial(name: str, like: Tensor, shared: int = 0) -> Kernel:
    return kernel("spatial_attention.cu", name, like.dtype, like.device.index, shared, SHARED=SPATIAL_SHARED)


_SCORES = 1 << 27  # held at once, half a gigabyte


def wide_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of a single head that is wider than torch's kernels for Hopper take.

    Two products and a softmax are several times faster than the kernel that torch has for any width. Scores are
    float32, as they are in there.

    Args:
        queries: ``[N, n, C]``, times what scores are to be multiplied by.
        keys: ``[N, n, C]``.
        values: ``[N, n, C]``.

    Returns:
        ``[N, n, C]``.
    """
    at_once = max(1, _SCORES // queries.shape[1] ** 2)
    parts = []
    for q, k, v in zip(queries.split(at_once), keys.split(at_once), values.split(at_once), strict=True):
        scores = torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32)
        parts.append(torch.bmm(scores.softmax(-1).to(v.dtype), v))
    return torch.cat(parts)
