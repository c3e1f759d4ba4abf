"""Texture of hair that is not seen, on a ball of points whose front half is."""

from __future__ import annotations

import math

import numpy as np
import torch

from zero1toa.avatar.hair_ends import ENDS, HairEnds
from zero1toa.avatar.hair_texture import HairTexture

RADIUS = 0.1
LIMIT = math.radians(80)  # what is seen reaches this far to both sides


def _ball(count: int = 40_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Even points ``[N, 3]`` on a ball, and their azimuth from the front and angle from straight up, radians."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    down = torch.arccos(1 - 2 * index / count)
    around = (math.pi * (1 + 5**0.5) * index + math.pi) % (2 * math.pi) - math.pi
    points = RADIUS * torch.stack([around.sin() * down.sin(), down.cos(), around.cos() * down.sin()], -1)
    return points.float(), around, down


def _stripes(around: torch.Tensor) -> torch.Tensor:
    """Brightness of irregular stripes, six degrees wide."""
    knots = np.random.default_rng(5).normal(0, 0.3, 64)
    where = np.linspace(-math.pi, math.pi, len(knots))
    return 0.4 * torch.exp(torch.from_numpy(np.interp(around.numpy(), where, knots)))


def _factors(brightness: torch.Tensor, around: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    on_scalp = torch.ones(len(points), dtype=torch.bool)
    colors = brightness.float()[None, :, None].expand(1, -1, 3)
    return HairTexture(points, on_scalp)(colors, (around.abs() < LIMIT).float()[None])[0].double()


def test_detail_is_reflected_at_the_limit_and_gives_way_to_strands() -> None:
    points, around, down = _ball()
    factors = _factors(_stripes(around), around, points)
    assert torch.isfinite(factors).all()
    row = (down - math.pi / 2).abs() < 0.3
    for side in (1, -1):
        near = row & (side * around > LIMIT) & (side * around < LIMIT + 0.3)
        # The map knows the limit to a cell, of 2.25 degrees.
        found = [
            np.corrcoef(factors[near].log().numpy(), _stripes(side * 2 * limit - around[near]).log().numpy())[0, 1]
            for limit in np.arange(LIMIT - 0.05, LIMIT + 0.05, 0.01)
        ]
        assert max(found) > 0.65
        further = np.corrcoef(factors[near].log().numpy(), _stripes(around[near]).log().numpy())[0, 1]
        assert further < max(found) - 0.2
    back = row & (around.abs() > math.pi - 0.5)
    assert abs(np.corrcoef(factors[back].log().numpy(), _stripes(2 * LIMIT - around[back].abs()).numpy())[0, 1]) < 0.4
    # Strands have half the contrast of the stripes.
    shown = _stripes(around[row & (around.abs() < LIMIT)]).log().std()
    assert 0.25 < float(factors[back].log().std() / shown) < 0.75


def test_even_hair_stays_even_and_other_skin_as_it_is() -> None:
    points, around, down = _ball(8000)
    assert (_factors(torch.full_like(around, 0.3), around, points) - 1).abs().max() < 1e-3
    on_scalp = down < 1.2
    colors = _stripes(around).float()[None, :, None].expand(1, -1, 3)
    factors = HairTexture(points, on_scalp)(colors, (around.abs() < LIMIT).float()[None])
    assert (factors[0, ~on_scalp] == 1).all()
    bald = HairTexture(points, torch.zeros_like(on_scalp))
    assert (bald(colors, torch.ones(1, len(points))) == 1).all()


def test_hair_ends_hang_over_the_nape_by_many_lengths() -> None:
    points, around, down = _ball()
    on_scalp, below = down < 1.9, down >= 1.9
    ends = HairEnds(points, on_scalp, below)
    assert on_scalp[ends.hair].all()
    assert below[ends.covered].all()
    assert float(ends.share.max()) <= 1
    # Arcs below the rim, and none of it on the face.
    length = RADIUS * (down[ends.covered] - 1.9)
    assert float(length.max()) < ENDS[1] + 0.002
    assert points[ends.covered][:, 2].max() < points[on_scalp][:, 2].mean()
    longest = []
    for start in np.arange(-0.6, 0.6, 0.04):
        here = ((around[ends.covered].abs() - math.pi + start).abs() < 0.02) & (ends.share > 0.5)
        longest.append(float(length[here].max()) if here.any() else 0.0)
    assert np.ptp(longest) > 0.004
    # Each takes the colour of hair beside it.
    assert (points[ends.hair] - points[ends.covered]).norm(dim=-1).max() < ENDS[1] + 0.004
    nothing = HairEnds(points, torch.zeros_like(on_scalp), below)
    assert len(nothing.covered) == len(nothing.hair) == len(nothing.share) == 0
