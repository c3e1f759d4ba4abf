"""Hair volume on an ellipsoid head against mattes drawn by formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import DISTANCE, FOCAL, SIZE, plane, portrait, skull
from scipy.spatial import ConvexHull
from skimage.draw import polygon2mask
from sphere_head import SphereHead

from zero1toa.avatar.hair import RIM, fit_hair
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.protocol import HeadParams
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project


def _silhouette(head: SphereHead, params: HeadParams, viewmat: np.ndarray) -> np.ndarray:
    """Convex hull of the projected vertices: exact for a convex head, and nothing of the code's own."""
    v = head.vertices(params).double().numpy()
    camera = v @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = camera[:, :2] / camera[:, 2:] * FOCAL + SIZE / 2
    hull = pixels[ConvexHull(pixels).vertices]
    return polygon2mask((SIZE, SIZE), hull[:, ::-1] - 0.5)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def head() -> SphereHead:
    return SphereHead(rows=28, columns=40)


def test_a_bald_head_keeps_its_skull(head: SphereHead) -> None:
    found = fit_hair(head, portrait(head, skull()))
    assert found.params.offset is not None
    # It lies as far inside the outline as Gaussians reach beyond it.
    assert found.params.offset.norm(dim=-1).max() < RIM * DISTANCE / FOCAL + 0.001
    assert -RIM * DISTANCE / FOCAL < found.thickness < 0.001
    assert found.covered == (False, False)


def test_hair_reaches_the_outline_and_leaves_the_face_alone(head: SphereHead) -> None:
    x, y = plane()
    grown = (x / 0.100) ** 2 + (y / 0.135) ** 2 <= 1
    mask = skull() | (grown & (y > -0.03))
    drawn = portrait(head, mask)
    before = _overlap(_silhouette(head, drawn.params, drawn.viewmat), mask)
    found = fit_hair(head, drawn)
    offset = found.params.offset
    assert offset is not None
    after = _overlap(_silhouette(head, found.params, drawn.viewmat), mask)
    assert before < 0.80
    assert after > 0.93
    assert found.mismatch < 0.08

    rest, lift = head.rest, offset.norm(dim=-1)
    front = (rest[:, 2] > 0.06) & (rest[:, 1].abs() < 0.04)
    assert lift[front].max() < 0.004
    eyes = torch.unique(head.faces[head.regions["eye_left"] | head.regions["eye_right"]])
    assert torch.equal(offset[eyes], torch.zeros(len(eyes), 3))
    # The portrait says nothing about the back: it is lifted like the sides, outwards, on both sides alike.
    back = (rest[:, 2] < -0.06) & (rest[:, 1] > 0)
    assert 0.008 < lift[back].mean() < 0.035
    assert (offset[back] * rest[back]).sum(-1).min() > 0
    index = (head.rest * torch.tensor([-1.0, 1.0, 1.0])).unsqueeze(1).sub(head.rest).norm(dim=-1).argmin(1)
    assert (lift - lift[index])[back].abs().max() < 0.002


def test_an_outline_on_one_side_lifts_that_side(head: SphereHead) -> None:
    x, y = plane()
    mask = skull() | (((x / 0.100) ** 2 + (y / 0.115) ** 2 <= 1) & (x > 0) & (y > -0.03))
    offset = fit_hair(head, portrait(head, mask)).params.offset
    assert offset is not None
    rest, lift = head.rest, offset.norm(dim=-1)
    side = (rest[:, 2].abs() < 0.015) & (rest[:, 1].abs() < 0.03)
    # The picture's right is the subject's left. The mesh ends where its Gaussians, which reach further, fill the matte.
    reach = RIM * DISTANCE / FOCAL
    assert lift[side & (rest[:, 0] > 0.05)].mean() > 0.012 - reach
    assert lift[side & (rest[:, 0] < -0.05)].mean() < 0.006


def test_wisps_do_not_pull_the_scalp(head: SphereHead) -> None:
    """Thin strands stand out of a closed mass: the mass is followed, the strands are left to loose hair."""
    x, y = plane()
    closed = skull() | (((x / 0.090) ** 2 + (y / 0.125) ** 2 <= 1) & (y > -0.03))
    angle = np.arctan2(y, x)
    strands = ((x / 0.105) ** 2 + (y / 0.140) ** 2 <= 1) & (y > 0) & (np.abs(np.sin(12 * angle)) < 0.12)
    plain, wild = (fit_hair(head, portrait(head, mask)) for mask in (closed, closed | strands))
    assert plain.thickness > 0.006
    assert abs(wild.thickness - plain.thickness) < 0.0015


def test_a_bald_canonical_head_with_shoulders_keeps_its_shape() -> None:
    """Ears make the outline, and clothes begin at the neck: neither is hair."""
    head = load_head("canonical")
    viewmat = orbit(0.0, 0.0, DISTANCE, head.center)
    v = head.vertices(head.neutral())
    K = intrinsics(20.0, SIZE)
    mask = torch.isfinite(depth_map(v[None], head.faces, viewmat[None], K[None], (SIZE, SIZE)))[0].numpy()
    neck = torch.unique(head.faces[head.regions["neck"]])
    base = project(v[None, neck], viewmat[None], K[None])[0][0, :, 1].max().item()
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    mask |= (y > base - 25 + 0.2 * np.abs(x - SIZE / 2)) & (np.abs(x - SIZE / 2) < 100)
    drawn = portrait(head, mask, hair=(220, 180, 160))
    drawn = dataclasses.replace(drawn, viewmat=viewmat.numpy(), K=K.numpy())
    found = fit_hair(head, drawn)
    assert found.params.offset is not None
    assert found.covered == (False, False)
    assert -RIM * DISTANCE / float(K[0, 0]) < found.thickness < 0.001
    assert found.params.offset.norm(dim=-1).quantile(0.98) < 0.004
    assert found.params.offset.norm(dim=-1).max() < 0.02


def test_a_hat_does_not_push_ears_that_show_aside() -> None:
    """A brim wider than the head, right above the ears: the ears stay where landmarks have put them."""
    head = load_head("canonical")
    params = head.neutral()
    viewmat, K = orbit(0.0, 0.0, 1.0, head.center), intrinsics(20.0, SIZE)
    vertices = head.vertices(params)
    pixels = project(vertices, viewmat, K)[0].numpy()
    matte = np.isfinite(depth_map(vertices[None], head.faces, viewmat[None], K[None], (SIZE, SIZE))[0].numpy())
    ears = torch.unique(head.faces[head.regions["ears"]])
    top = int(pixels[ears, 1].min())
    across = np.flatnonzero(matte[top])
    wider = round(0.02 * float(K[0, 0]))  # 2 cm at a metre
    matte[top - wider : top, across.min() - wider : across.max() + wider] = True
    below = np.arange(SIZE)[:, None].repeat(SIZE, 1) >= top
    drawn = dataclasses.replace(portrait(head, matte, skin=below), viewmat=viewmat.numpy(), K=K.numpy())
    found = fit_hair(head, drawn)
    assert found.covered == (False, False)
    assert found.params.offset is not None
    scalp = torch.unique(head.faces[head.regions["scalp"]])
    assert found.params.offset[scalp].norm(dim=-1).max() > 0.006  # there is a brim
    assert found.params.offset[ears].norm(dim=-1).max() < 0.003


def test_an_empty_or_full_matte_gives_a_finite_answer(head: SphereHead) -> None:
    for mask in (np.zeros((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)):
        found = fit_hair(head, portrait(head, mask))
        assert found.params.offset is not None
        assert found.params.offset.isfinite().all()
        assert found.params.offset.norm(dim=-1).max() < 0.15
