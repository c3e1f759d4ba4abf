"""Ears are found where a drawn portrait shows them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import SIZE, portrait

from zero1toa.avatar.ears import place_ear
from zero1toa.avatar.hair import fit_hair
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project

METRE = 650.0


def _ellipse(x: float, y: float, wide: float, high: float) -> np.ndarray:
    rows, columns = np.mgrid[0:128, 0:128]
    return ((columns - x) / wide) ** 2 + ((rows - y) / high) ** 2 <= 1


HEAD = _ellipse(50, 64, 30, 45)


def _ear(scale: float) -> np.ndarray:
    return _ellipse(80, 62, 8 * scale, 14 * scale)


@pytest.mark.parametrize(("scale", "x", "y"), [(1.0, 0, 0), (1.0, 4, 7), (1.2, 2, -6), (0.8, 3, 5)])
def test_an_ear_goes_where_skin_shows_beside_the_head(scale: float, x: int, y: int) -> None:
    shown = HEAD | np.roll(_ear(scale), (y, x), (0, 1))
    found = place_ear(_ear, HEAD, shown, METRE)
    assert found is not None
    # Only its outer edge is seen: a little larger and a little further in looks alike.
    assert found[0] == pytest.approx(scale, abs=0.11)
    assert np.abs(np.subtract(found[1], (x, y))).max() <= 2
    placed = np.roll(_ear(found[0]), found[1][::-1], (0, 1)) & ~HEAD
    assert (placed ^ (shown & ~HEAD)).sum() <= 0.06 * placed.sum()


def test_an_ear_that_does_not_show_stays() -> None:
    assert place_ear(_ear, HEAD, HEAD, METRE) is None
    assert place_ear(lambda scale: np.zeros_like(HEAD), HEAD, HEAD | _ear(1), METRE) is None


def test_hair_over_a_part_of_an_ear_does_not_bury_it() -> None:
    """Only a strip of skin shows: moving the ear into the head would match it, but the rest is under hair."""
    found = place_ear(_ear, HEAD, HEAD | np.roll(_ear(1.0), (0, -6), (0, 1)), METRE)
    assert found is not None
    assert found[1][0] >= -3


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
    assert after < 0.4 * before
    assert float((moved - own)[ears, 2].abs().max()) < 0.004  # within the picture's plane
