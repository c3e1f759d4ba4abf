"""Drawing on CUDA with the same launches for every picture, so that a CUDA graph can hold them.

gsplat counts the pairs of splat and tile on the device, waits for that number and allocates as much: a graph cannot do
that, and for a single small picture the waiting and launching takes longer than the drawing. Here the pairs have a
fixed number of places. Pairs are numbered by a running sum over the splats, and each place looks up which splat and
tile it is for. Places that are left over lie in a row of tiles under the picture, which the kernel skips.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 16
"""Side of a tile in pixels, gsplat's."""


class Touched(NamedTuple):
    """Tiles that the boxes of splats touch.

    Attributes:
        left: first column ``[I, N]`` int64.
        top: first row.
        across: number of columns.
        down: number of rows.
        ends: running sum over the I x N splats of the tiles that they touch, none for splats that are not drawn.
    """

    left: Tensor
    top: Tensor
    across: Tensor
    down: Tensor
    ends: Tensor

    @property
    def pairs(self) -> Tensor:
        """Pairs of splat and tile, ``[]`` int64."""
        return self.ends[-1]


class Bins(NamedTuple):
    """Splats by tile, nearest first.

    Attributes:
        splats: indices into the I x N splats ``[places]`` int32, those of a tile one after the other.
        starts: where each tile's begin ``[I, rows + 1, columns]`` int32; the last row lies under the picture.
    """

    splats: Tensor
    starts: Tensor


def touch_tiles(means2d: Tensor, radii: Tensor, width: int, height: int) -> Touched:
    """Which tiles splats touch.

    Args:
        means2d: centres ``[I, N, 2]`` in pixels.
        radii: half sides of their boxes ``[I, N, 2]`` int32, not positive for splats that are not drawn.
        width: picture width in pixels.
        height: picture height in pixels.
    """
    # Per axis, since a tensor of both limits would be copied from the host.
    (left, across), (top, down) = (
        _span(means2d[..., axis], radii[..., axis], -(-side // TILE)) for axis, side in enumerate((width, height))
    )
    tiles = torch.where((radii > 0).all(-1), across * down, 0)
    return Touched(left, top, across, down, tiles.flatten().cumsum(0))


def bin_splats(touched: Touched, depths: Tensor, width: int, height: int, places: int) -> Bins:
    """Sort splats into the tiles that they touch, without any shape that depends on them.

    Args:
        touched: by :func:`touch_tiles`; with more pairs than places, some are left out.
        depths: ``[I, N]`` in metres, positive where drawn.
        width: picture width in pixels.
        height: picture height in pixels.
        places: number of pairs of splat and tile that there is room for.
    """
    images, count = depths.shape
    columns, rows = -(-width // TILE), -(-height // TILE)
    place = torch.arange(places, device=depths.device)
    splat = torch.searchsorted(touched.ends, place, right=True).clamp(max=images * count - 1)
    left, top, wide, high = (
        values.flatten()[splat] for values in (touched.left, touched.top, touched.across.clamp(min=1), touched.down)
    )
    # The pairs of a splat end at its sum, and there are as many as it touches tiles.
    inside = place - touched.ends[splat] + wide * high
    tile = (splat // count * (rows + 1) + top + inside // wide) * columns + left + inside % wide
    total = images * (rows + 1) * columns
    # Positive floats have the order of their bits; the depths of splats that are not drawn may be anything.
    bits = depths.flatten().contiguous().view(torch.int32)[splat].long()
    used = place < touched.pairs
    tile, bits = torch.where(used, tile, total - 1), torch.where(used, bits, 0)
    keys, order = torch.sort((tile << 32) | bits)
    starts = torch.searchsorted(keys, torch.arange(total, device=depths.device) << 32)
    return Bins(splat[order].int(), starts.int().view(images, rows + 1, columns))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its small kernels fused."""
    return torch.compile(function, dynamic=False)


def _span(centre: Tensor, radius: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """First tile and number of tiles, ``[I, N]`` int64, that boxes touch along an axis of ``limit`` tiles."""
    low = ((centre - radius) / TILE).floor().long().clamp(0, limit)
    high = ((centre + radius) / TILE).ceil().long().clamp(0, limit)
    return low, high - low


def rasterize_recordable(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor,
    places: int,
    counted: Callable[[Tensor], None],
) -> tuple[Tensor, Tensor]:
    """Draw sets of Gaussians, each into a camera of its own: pictures as :func:`~zero1toa.render.rasterize.rasterize`.

    Without gradients, checks or waiting for the device.

    Args:
        means: centres ``[I, N, 3]`` in metres.
        quats: rotations ``[I, N, 4]`` wxyz.
        scales: standard deviations ``[I, N, 3]`` in metres.
        opacities: ``[N]`` in [0, 1].
        colors: ``[N, 3]``.
        viewmats: world-to-camera ``[I, 4, 4]``.
        Ks: intrinsics ``[I, 3, 3]`` in pixels.
        width: picture width in pixels.
        height: picture height in pixels.
        background: ``[3]``.
        places: room for pairs of splat and tile.
        counted: is given the pairs of splat and tile that there are, ``[]`` int64, before they are sorted and drawn:
            with more than ``places``, splats will be missing in the pictures.

    Returns:
        Pictures ``[I, H, W, 3]`` and alphas ``[I, H, W, 1]``.
    """
    from gsplat import fully_fused_projection, rasterize_to_pixels

    images = len(means)
    seen = opacities.expand(images, -1).contiguous()
    radii, means2d, depths, conics, _ = fully_fused_projection(
        means, None, quats, scales, viewmats[:, None], Ks[:, None], width, height, packed=False, opacities=seen
    )
    touched: Touched = _compiled(touch_tiles)(means2d[:, 0], radii[:, 0], width, height)
    counted(touched.pairs)
    bins: Bins = _compiled(bin_splats)(touched, depths[:, 0], width, height, places)
    pictures, alphas = rasterize_to_pixels(
        means2d,
        conics,
        colors.expand(images, 1, -1, -1).contiguous(),
        seen[:, None],
        width,
        height,
        TILE,
        bins.starts[:, None],
        bins.splats,
        backgrounds=background.expand(images, 1, 3).contiguous(),
    )
    return pictures[:, 0], alphas[:, 0]
