"""Sorting splats into tiles with a fixed number of places, and the pictures that come of it."""

import itertools

import pytest
import torch

from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.render.rasterize import rasterize
from zero1toa.render.recordable import TILE, bin_splats, rasterize_recordable, touch_tiles


def splats(images=2, count=60, seed=0):
    """Splats of all sizes inside, across the border and outside of a picture of 70 x 45 pixels."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(images, count, 2, generator=generator) * torch.tensor([110.0, 85.0]) - 20
    radii = torch.randint(0, 25, (images, count, 2), generator=generator, dtype=torch.int32)
    depths = torch.rand(images, count, generator=generator) + 0.5
    radii[-1, -1] = 0
    depths[(radii <= 0).any(-1)] = -1.0  # such splats are not drawn, and their depths mean nothing
    return means, radii, depths


def expected(means, radii, depths, width, height):
    """Splats of each tile, nearest first, by looking at every pair of a box and a tile."""
    images, count = depths.shape
    tiles = {}
    for image, row, column in itertools.product(range(images), range(-(-height // TILE)), range(-(-width // TILE))):
        found = []
        for splat in range(count):
            x, y = means[image, splat].tolist()
            rx, ry = radii[image, splat].tolist()
            if min(rx, ry) <= 0:
                continue
            across = x - rx < (column + 1) * TILE and x + rx > column * TILE
            if across and y - ry < (row + 1) * TILE and y + ry > row * TILE:
                found.append((float(depths[image, splat]), image * count + splat))
        tiles[image, row, column] = [index for _, index in sorted(found)]
    return tiles


def test_every_tile_gets_the_splats_that_touch_it_in_order():
    scene = splats()
    wanted = expected(*scene, 70, 45)
    total = sum(map(len, wanted.values()))
    assert total > 200
    assert int(touch_tiles(*scene[:2], 70, 45).pairs) == total
    for places in (total, total + 999):
        bins = bin_splats(touch_tiles(*scene[:2], 70, 45), scene[2], 70, 45, places)
        assert bins.starts.shape == (2, 4, 5)
        ends = torch.cat([bins.starts.flatten()[1:], torch.tensor([places])]).view(bins.starts.shape)
        for place, indices in wanted.items():
            assert bins.splats[bins.starts[place] : ends[place]].tolist() == indices
        # What is left over lies under the last picture, where nothing is drawn.
        assert int(bins.starts[-1, -1, -1]) == total
        assert int((ends - bins.starts)[:, -1].sum()) == places - total


@pytest.mark.gpu
def test_pictures_equal_those_of_gsplat_itself():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator().manual_seed(0)
    images, count = 3, 4000
    means = 0.12 * torch.randn(images, count, 3, generator=generator)
    quats = torch.randn(images, count, 4, generator=generator)
    scales = 0.008 * torch.exp(0.6 * torch.randn(images, count, 3, generator=generator))
    opacities, colors = torch.rand(count, generator=generator), torch.rand(count, 3, generator=generator)
    views, Ks = orbit(torch.tensor([-40.0, 0.0, 100.0]), 10.0, 0.7), intrinsics(40.0, 200).expand(images, 3, 3)
    scene = [tensor.cuda() for tensor in (means, quats, scales, opacities, colors, views, Ks)]
    grey = torch.full((3,), 0.5, device="cuda")
    counts: list[torch.Tensor] = []
    pictures, alphas = rasterize_recordable(*scene, 200, 190, grey, 200_000, counts.append)
    assert 0 < int(counts[0]) < 200_000
    m, q, s, o, c, v, K = scene
    wanted, covered, _ = rasterize(
        m, q, s, o.expand(images, -1).contiguous(), c.expand(images, -1, -1).contiguous(), v[:, None],
        K[:, None].contiguous(), 200, 190, backgrounds=grey.expand(images, 1, 3).contiguous(),
    )  # fmt: skip
    assert (pictures - wanted[:, 0]).abs().max() < 1e-5
    assert (alphas - covered[:, 0]).abs().max() < 1e-5
