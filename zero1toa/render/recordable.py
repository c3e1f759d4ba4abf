"""Drawing on CUDA with the same launches for every picture, so that a CUDA graph can hold them.

gsplat counts the pairs of splat and tile on the device, waits for that number and allocates as much: a graph cannot do
that, and for a single small picture the waiting and launching takes longer than the drawing. Here the pairs have a
fixed number of places. Pairs are numbered by a running sum over the splats, and each place looks up which splat and
tile it is for. Places that are left over lie in a row of tiles under the picture, which the kernel skips.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TILE = 16
"""Side of a tile in pixels, gsplat's."""


class Bins(NamedTuple):
    """Splats by tile, nearest first.

    Attributes:
        splats: indices into the I x N splats ``[places]`` int32, those of a tile one after the other.
        starts: where each tile's begin ``[I, rows + 1, columns]`` int32; the last row lies under the picture.
        pairs: places that were needed, ``[]`` int64; with more than there are, pairs are missing.
    """

    splats: Tensor
    starts: Tensor
    pairs: Tensor


def bin_splats(means2d: Tensor, radii: Tensor, depths: Tensor, width: int, height: int, places: int) -> Bins:
    """Sort splats into the tiles that their boxes touch, without any shape that depends on them.

    Args:
        means2d: centres ``[I, N, 2]`` in pixels.
        radii: half sides of their boxes ``[I, N, 2]`` int32, not positive for splats that are not drawn.
        depths: ``[I, N]`` in metres, positive where drawn.
        width: picture width in pixels.
        height: picture height in pixels.
        places: number of pairs of splat and tile that there is room for.
    """
    images, count = depths.shape
    columns, rows = -(-width // TILE), -(-height // TILE)
    # Per axis, since a tensor of both limits would be copied from the host.
    (x, across), (y, down) = (
        _span(means2d[..., axis], radii[..., axis], limit) for axis, limit in enumerate((columns, rows))
    )
    tiles = torch.where((radii > 0).all(-1), across * down, 0).flatten()
    ends = tiles.cumsum(0)
    place = torch.arange(places, device=radii.device)
    splat = torch.searchsorted(ends, place, right=True).clamp(max=images * count - 1)
    inside = place - (ends - tiles)[splat]
    left, top, wide = (values.flatten()[splat] for values in (x, y, across.clamp(min=1)))
    tile = (splat // count * (rows + 1) + top + inside // wide) * columns + left + inside % wide
    total = images * (rows + 1) * columns
    # Positive floats have the order of their bits; the depths of splats that are not drawn may be anything.
    bits = depths.flatten().contiguous().view(torch.int32)[splat].long()
    used = place < ends[-1]
    tile, bits = torch.where(used, tile, total - 1), torch.where(used, bits, 0)
    keys, order = torch.sort((tile << 32) | bits)
    starts = torch.searchsorted(keys, torch.arange(total, device=radii.device) << 32)
    return Bins(splat[order].int(), starts.int().view(images, rows + 1, columns), ends[-1])


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
) -> tuple[Tensor, Tensor, Tensor]:
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

    Returns:
        Pictures ``[I, H, W, 3]``, alphas ``[I, H, W, 1]``, and the pairs that there were ``[]`` int64: with more than
        ``places``, splats are missing in the pictures.
    """
    from gsplat import fully_fused_projection, rasterize_to_pixels

    images = len(means)
    seen = opacities.expand(images, -1).contiguous()
    radii, means2d, depths, conics, _ = fully_fused_projection(
        means, None, quats, scales, viewmats[:, None], Ks[:, None], width, height, packed=False, opacities=seen
    )
    bins = bin_splats(means2d[:, 0], radii[:, 0], depths[:, 0], width, height, places)
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
    return pictures[:, 0], alphas[:, 0], bins.pairs
