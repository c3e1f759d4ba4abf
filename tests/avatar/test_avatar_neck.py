"""A neck fades as its portrait's matte does, whatever the profile."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import SIZE, portrait
from scipy import ndimage

from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.neck import ENDS
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.config import AvatarConfig
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project

CONFIG = AvatarConfig(gaussians_per_triangle=3, by_region=True, landmark_offset=False)


def _neck(start: float, end: float, wider: int = 0, azimuth: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Alpha of a new avatar ``[H, W]``, its portrait's matte ``[H, W]``, and heights over the chin's ``[H]``.

    Args:
        start: height at which the matte begins, over the chin's above the neck's base.
        end: height from which it is whole.
        azimuth: degrees from which the avatar is seen.
        wider: pixels by which the matte is wider than the head on each side.
    """
    head = load_head("canonical")
    params = head.neutral()
    viewmat, K = orbit(0.0, 0.0, 1.0, head.center), intrinsics(20.0, SIZE)
    vertices = head.vertices(params)
    covered = torch.isfinite(depth_map(vertices[None], head.faces, viewmat[None], K[None], (SIZE, SIZE)))[0].numpy()
    chin = head.landmarks.positions(vertices, head.faces)[152]
    neck = torch.unique(head.faces[head.regions["neck"]])
    front = neck[(vertices[neck, 0].abs() < 0.01) & (vertices[neck, 2] > vertices[neck, 2].mean())]
    low = vertices[front[vertices[front, 1].argmin()]].clone()
    low[1] = vertices[neck, 1].min()
    (_, bottom), (_, top) = (project(p[None], viewmat, K)[0][0].tolist() for p in (low, chin))
    rows = np.arange(SIZE) + 0.5
    height = (bottom - rows) / (bottom - top)
    covered = ndimage.binary_dilation(covered, np.ones((1, 3)), iterations=wider) if wider else covered
    matte = covered * np.clip((height - start) / (end - start), 0, 1)[:, None]
    drawn = dataclasses.replace(
        portrait(head, matte, skin=np.ones((SIZE, SIZE), bool)), viewmat=viewmat.numpy(), K=K.numpy()
    )
    made = create_avatar(head, drawn, CONFIG)
    with torch.no_grad():
        camera = orbit(azimuth, 0.0, 1.0, head.center)[None, None]
        _, alpha, _ = made.avatar.render(head.vertices(made.params)[None], camera, K[None, None], SIZE)
    return alpha[0, 0, ..., 0].numpy(), matte, height


def _profiles(start: float, end: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same down the middle of the neck."""
    alpha, matte, height = _neck(start, end)
    middle = slice(SIZE // 2 - 3, SIZE // 2 + 3)
    rows = (height > 0.05) & (height < 0.9)
    return alpha[rows, middle].mean(1), matte[rows, middle].mean(1), height[rows]


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.6), (0.15, 0.35), (0.3, 0.75)])
def test_a_neck_fades_as_the_matte_does(start: float, end: float) -> None:
    alpha, matte, _ = _profiles(start, end)
    assert np.abs(alpha - matte).mean() < 0.05
    assert np.abs(alpha - matte).max() < 0.2


def test_a_photo_that_ends_at_the_chin_leaves_a_neck() -> None:
    alpha, _, height = _profiles(0.97, 1.0)
    assert alpha[height > ENDS[1] + 0.05].min() > 0.9
    assert alpha[height < ENDS[0] - 0.1].max() < 0.1


def test_the_sides_of_a_neck_fade_with_its_front() -> None:
    alpha, matte, height = _neck(0.0, 0.6)
    fading = ndimage.binary_erosion(matte > 0.02, iterations=4) & ((height > 0.05) & (height < 0.7))[:, None]
    assert fading.sum() > 500
    assert np.abs(alpha - matte)[fading].mean() < 0.012
    assert np.abs(alpha - matte)[fading].max() < 0.06


@pytest.mark.parametrize("azimuth", [-60.0, 60.0])
def test_a_fading_neck_has_no_notches_from_the_side(azimuth: float) -> None:
    alpha, _, height = _neck(0.0, 0.6, azimuth=azimuth)
    for row in alpha[(height > 0.2) & (height < 0.45)]:
        across = row[np.flatnonzero(row > 0.02)][4:-4]
        assert across.min() > 0.6 * np.median(across)


@pytest.mark.parametrize("wider", [0, 4])
def test_a_neck_is_as_wide_as_its_portraits(wider: int) -> None:
    alpha, matte, height = _neck(-1.0, -0.9, wider)
    rows = (height > 0.35) & (height < 0.7)  # above, the jaw; below, clothes would begin
    widths = [(picture[rows] > 0.5).sum(1).mean() for picture in (alpha, matte)]
    assert widths[0] == pytest.approx(widths[1], abs=1.5)  # 0.75 pixels on each side
