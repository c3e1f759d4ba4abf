"""Both ends of a convolution of 3 x 3 by Winograd's F(2 x 2, 3 x 3), which takes 4/9 of the products.

A tile of 2 x 2 pixels comes of the 4 x 4 pixels around it: 16 sums of these are multiplied by 16 of the weights, and
the products summed to the four. As for :mod:`zero1toa.diffusion.animator.kernels.layers`, maps are on CUDA, in half
precision, and laid out channels last.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from zero1toa.diffusion.animator.kernels.layers import group_sums
from zero1toa.diffusion.animator.kernels.loader import kernel

_VECTOR = 8  # values that a thread moves at once
_CHUNK = 8  # vectors of a pixel that a block of the first kernel takes
_TILES, _OVER = 32, 8  # that a block takes, and that lie side by side in it, at most
_PIXELS = 6  # that a thread of it normalises, at most
_THREADS = 128  # of a block of the last kernel


def takes_patches(x: Tensor, convolution: nn.Conv2d) -> bool:
    """Whether a convolution of 3 x 3 with a padding of one can be computed so: even sides, whole chunks."""
    return (
        all(side % 2 == 0 for side in x.shape[-2:])
        and convolution.in_channels % (_VECTOR * _CHUNK) == 0
        and convolution.out_channels % _VECTOR == 0
    )


def normalised_patches(
    x: Tensor, norm: nn.GroupNorm, more: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Group normalisation and SiLU, then the sums of each patch's pixels that are to be multiplied.

    Args:
        x: a map that :func:`takes_patches` approves of.
        norm: gains, offsets and groups; its channels are those of ``x`` and ``more`` together.
        more: a map whose channels follow those of ``x``.
        shift: added to each channel before ``[C]``.

    Returns:
        ``[16, N * h / 2 * w / 2, C]``.
    """
    samples, own, height, width = x.shape
    channels, tiles_down, tiles_across = norm.num_channels, height // 2, width // 2
    sums, out = group_sums(x, norm, more, shift), x.new_empty(16, samples * tiles_down * tiles_across, channels)
    over = min(tiles_across, _OVER)
    down = min(tiles_down, _TILES // over)
    pixels = min(width, 2 * over + 2) * min(height, 2 * down + 2)
    lines = 4 * math.ceil(max(down * over, pixels / _PIXELS) / 4)
    vectors, shared = channels // _VECTOR, 4 * _VECTOR * _CHUNK * (2 + pixels)
    kernel("winograd.cu", "normalised_patches", x.dtype, x.device.index, shared)(
        (math.ceil(tiles_down / down) * math.ceil(tiles_across / over) * (vectors // _CHUNK), samples), (_CHUNK, lines),
        x, more, shift, sums, norm.weight, norm.bias, out, height, width, own // _VECTOR, vectors, norm.num_groups,
        sums.shape[1], down, over, norm.eps,
    )  # fmt: skip
    return out


def from_products(products: Tensor, sides: tuple[int, ...], *maps: Tensor, shift: Tensor | None = None) -> Tensor:
    """The sums of products that are a convolution's output.

    Args:
        products: ``[16, N * h / 2 * w / 2, C]``.
        sides: h and w.
        maps: up to two maps or tokens of the same rows, added to the output.
        shift: added to each channel ``[C]``.

    Returns:
        A map ``[N, C, h, w]``.
    """
    (_, tiles, channels), (height, width) = products.shape, sides
    out = products.new_empty(4 * tiles // (height * width), height, width, channels).permute(0, 3, 1, 2)
    vectors, given = channels // _VECTOR, [*maps, None, None][:2]
    kernel("winograd.cu", "from_products", products.dtype, products.device.index)(
        (math.ceil(tiles * vectors / _THREADS), 1), (_THREADS, 1), products, *given, shift, out, tiles, width // 2,
        vectors,
    )  # fmt: skip
    return out
