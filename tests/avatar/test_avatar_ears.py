"""Ears are found where a drawn portrait shows them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import SIZE, portrait
from scipy import ndimage

from zero1toa.avatar.ears import place_ear
from zero1toa.avatar.hair import fit_hair
from zero1toa.avatar.portrait_ears import HAIR
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project

METRE = 650.0


def _ellipse(x: float, y: float, wide: float, high: float) -> np.ndarray:
    rows, columns = np.mgrid[0:128, 0:128]
    return ((columns - x) / wide) ** 2 + ((rows - y) / high) ** 2 <= 1


HEAD = _ellipse(50, 64, 30, 45)


EAR = _ellipse(80, 62, 8, 14)


def _moved(wide: float, high: float, tilt: float, x: int, y: int) -> np.ndarray:
    """The ear with other radii, turned clockwise in the picture by ``tilt`` degrees and shifted."""
    rows, columns = np.mgrid[0:128, 0:128]
    across, down = columns - 80 - x, rows - 62 - y
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    return ((cos * across + sin * down) / (8 * wide)) ** 2 + ((cos * down - sin * across) / (14 * high)) ** 2 <= 1


@pytest.mark.parametrize(
    ("wide", "high", "tilt", "x", "y"),
    [(1, 1, 0, 0, 0), (1, 1, 0, 4, 7), (1, 1.2, 0, 2, -6), (1, 0.8, 0, 3, 5), (1.25, 1, 20, 2, 2), (1, 1, -20, 4, 0)],
)
def test_an_ear_goes_where_skin_shows_beside_the_head(wide: float, high: float, tilt: float, x: int, y: int) -> None:
    shown = HEAD | _moved(wide, high, tilt, x, y)
    found = place_ear(EAR, HEAD, shown, shown, METRE)
    assert found is not None
    inverse = np.linalg.inv(found.linear)
    rows, columns = np.mgrid[0:128, 0:128]
    away = np.stack([columns - 80 - found.shift[0], rows - 62 - found.shift[1]], -1) @ inverse.T
    placed = (away[..., 0] / 8) ** 2 + (away[..., 1] / 14) ** 2 <= 1
    # Only its outer edge is seen: a little larger and a little further in looks alike.
    wanted = shown & ~HEAD
    assert (placed & ~HEAD ^ wanted).sum() <= 0.13 * wanted.sum()
    if (wide, high, tilt) == (1, 1, 0):
        assert np.abs(np.subtract(found.shift, (x, y))).max() <= 2


def test_an_ear_that_does_not_show_stays() -> None:
    assert place_ear(EAR, HEAD, HEAD, HEAD, METRE) is None
    nothing = np.zeros_like(HEAD)
    assert place_ear(nothing, HEAD, HEAD | EAR, HEAD | EAR, METRE) is None


def test_hair_over_a_part_of_an_ear_does_not_bury_it() -> None:
    """Only a strip of skin shows: moving the ear into the head would match it, but the rest is under hair."""
    skin = HEAD | _moved(1, 1, 0, -4, 0)
    found = place_ear(EAR, HEAD, skin, skin, METRE)
    assert found is not None
    assert found.shift[0] >= -3


def test_hair_over_the_top_of_an_ear_leaves_it_where_its_lobe_shows() -> None:
    whole = HEAD | _moved(1, 1, 0, 0, 8)
    skin = whole & (np.mgrid[0:128, 0:128][0] > 68)
    found = place_ear(EAR, HEAD, skin, whole | _ellipse(50, 40, 42, 40), METRE)
    assert found is not None
    assert np.abs(found.linear - np.eye(2)).max() < 0.05
    assert np.abs(np.subtract(found.shift, (0, 8))).max() <= 1


def test_ears_of_a_head_are_moved_to_the_portraits() -> None:
    head = load_head("canonical")
    params = head.neutral()
    viewmat, K = orbit(0.0, 0.0, 1.0, head.center), intrinsics(20.0, SIZE)
    ears = torch.unique(head.faces[head.regions["ears"]])

    def mask(vertices: torch.Tensor, faces: torch.Tensor) -> np.ndarray:
        return np.isfinite(depth_map(vertices[None], faces, viewmat[None], K[None], (SIZE, SIZE))[0].numpy())

    own = head.vertices(params)
    lower = own.clone()
    lower[ears, 1] -= 0.009
    matte = mask(lower, head.faces)
    drawn = dataclasses.replace(portrait(head, matte, skin=matte), viewmat=viewmat.numpy(), K=K.numpy())
    found = fit_hair(head, drawn)
    assert found.covered == (False, False)
    moved = head.vertices(found.params)
    down = (project(moved[ears], viewmat, K)[0] - project(own[ears], viewmat, K)[0])[:, 1]
    wanted = 0.009 * float(K[0, 0]) / 1.0
    assert float(down.median()) == pytest.approx(wanted, abs=1.5)
    bare = ~mask(own, head.faces[~head.regions["ears"]])
    shown = matte & bare
    before, after = ((mask(v, head.faces) & bare ^ shown).sum() for v in (own, moved))
    assert after < 0.45 * before
    assert float((moved - own)[ears, 2].abs().max()) < 0.004  # within the picture's plane


def test_the_shade_at_a_bald_heads_rim_is_no_hair() -> None:
    """Ears are as dark as a strip of skull beyond the fitted one; taken for hair, it would take them along."""
    head = load_head("canonical")
    params = head.neutral()
    viewmat, K = orbit(0.0, 0.0, 1.0, head.center), intrinsics(20.0, SIZE)

    def mask(vertices: torch.Tensor, faces: torch.Tensor) -> np.ndarray:
        return np.isfinite(depth_map(vertices[None], faces, viewmat[None], K[None], (SIZE, SIZE))[0].numpy())

    own = head.vertices(params)
    ears = torch.unique(head.faces[head.regions["ears"]])
    lower = own.clone()
    lower[ears, 1] -= 0.009
    fitted, bare = mask(own, head.faces), mask(own, head.faces[~head.regions["ears"]])
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    crown = (rows < np.flatnonzero(fitted.any(1))[0] + 20) & (np.abs(columns - SIZE // 2) < 12)
    strip = ndimage.binary_dilation(fitted, iterations=7) & ~fitted & crown
    matte = mask(lower, head.faces) | strip
    beyond = ndimage.binary_erosion(matte, iterations=2) & ~ndimage.binary_dilation(fitted, iterations=3)
    assert 40 < beyond.sum() < HAIR
    drawn = portrait(head, matte, hair=(150, 150, 150), skin=bare)
    drawn = dataclasses.replace(drawn, viewmat=viewmat.numpy(), K=K.numpy())
    found = fit_hair(head, drawn)
    assert found.covered == (False, False)
    moved = head.vertices(found.params)
    down = (project(moved[ears], viewmat, K)[0] - project(own[ears], viewmat, K)[0])[:, 1]
    assert float(down.median()) == pytest.approx(0.009 * float(K[0, 0]), abs=1.5)
