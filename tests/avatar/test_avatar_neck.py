"""A neck fades as its portrait's matte does, whatever the profile."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import SIZE, portrait

from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.neck import ENDS
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.config import AvatarConfig
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project

CONFIG = AvatarConfig(gaussians_per_triangle=3, by_region=True, landmark_offset=False)


def _profiles(start: float, end: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Alpha of a new avatar down the middle of its neck, the matte's there, and heights over the chin's.

    Args:
        start: height at which the matte begins, over the chin's above the neck's base.
        end: height from which it is whole.
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
    matte = covered * np.clip((height - start) / (end - start), 0, 1)[:, None]
    drawn = dataclasses.replace(
        portrait(head, matte, skin=np.ones((SIZE, SIZE), bool)), viewmat=viewmat.numpy(), K=K.numpy()
    )
    made = create_avatar(head, drawn, CONFIG)
    with torch.no_grad():
        _, alpha, _ = made.avatar.render(head.vertices(made.params)[None], viewmat[None, None], K[None, None], SIZE)
    middle = slice(SIZE // 2 - 3, SIZE // 2 + 3)
    neck_rows = (height > 0.05) & (height < 0.9)
    return alpha[0, 0, :, middle, 0].mean(1).numpy()[neck_rows], matte[neck_rows, middle].mean(1), height[neck_rows]


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.6), (0.15, 0.35), (0.3, 0.75)])
def test_a_neck_fades_as_the_matte_does(start: float, end: float) -> None:
    alpha, matte, _ = _profiles(start, end)
    assert np.abs(alpha - matte).mean() < 0.05
    assert np.abs(alpha - matte).max() < 0.2


def test_a_photo_that_ends_at_the_chin_leaves_a_neck() -> None:
    alpha, _, height = _profiles(0.97, 1.0)
    assert alpha[height > ENDS[1] + 0.05].min() > 0.9
    assert alpha[height < ENDS[0] - 0.1].max() < 0.1
