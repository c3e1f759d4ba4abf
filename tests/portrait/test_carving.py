"""Carving of drawn people: what hangs is hair, what is shaded is neck, what stands beside it is a collar."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.registry import load_head
from zero1toa.portrait.carving import NeckGuide, carve, neck_guide
from zero1toa.portrait.fitting import HeadFit
from zero1toa.render.cameras import intrinsics, orbit

SIZE = 256
SKIN, HAIR, CLOTH = (0.85, 0.65, 0.55), (0.15, 0.1, 0.08), (0.2, 0.3, 0.7)
ALL = np.ones((SIZE, SIZE), bool)


def _seen_from(elevation: float) -> tuple[CanonicalHead, HeadFit]:
    head = load_head("canonical")
    assert isinstance(head, CanonicalHead)
    fit = HeadFit(
        params=head.neutral(),
        neutral=head.neutral(),
        arkit=torch.zeros(52),
        viewmat=orbit(0.0, elevation, 1.0, head.center),
        K=intrinsics(22.0, SIZE),
        projected=torch.zeros(478, 2),
        residuals=torch.zeros(478),
        yaw=0.0,
    )
    return head, fit


@pytest.fixture(scope="module")
def guide() -> NeckGuide:
    return neck_guide(*_seen_from(0.0), SIZE)


@pytest.mark.parametrize("elevation", [-10.0, 0.0, 10.0, 20.0])
def test_levels_run_around_the_neck(elevation: float) -> None:
    """Against the height of the mesh under each pixel, from its depth."""
    head, fit = _seen_from(elevation)
    guide = neck_guide(head, fit, SIZE)
    vertices = head.vertices(fit.params)
    tube = head.faces[head.regions["neck"]]
    depth = depth_map(vertices[None], tube, fit.viewmat[None], fit.K[None], (SIZE, SIZE))[0].numpy()
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    (fx, _, cx), (_, fy, cy), _ = fit.K.numpy()
    camera = np.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth, np.ones_like(depth)])
    world = np.einsum("ij,jhw->ihw", np.linalg.inv(fit.viewmat.numpy()), camera)
    seen = guide.tube & ~guide.outline & np.isfinite(depth) & (world[2] > float(vertices[tube, 2].mean()))
    true = (world[1] - float(vertices[tube, 1].min()))[seen]
    slope, start = np.polyfit(guide.level[seen], true, 1)  # the picture's scale changes a little along the neck
    assert 0.8 < slope < 1.3
    around = np.abs(slope * guide.level[seen] + start - true).mean()
    straight = np.abs(np.polyval(np.polyfit(guide.height[seen], true, 1), guide.height[seen]) - true).mean()
    assert around < 0.002
    if elevation > 5:
        assert straight > 2 * around


def _person(guide: NeckGuide) -> tuple[np.ndarray, np.ndarray]:
    """Matte and colours of a person in a blouse that leaves the neck bare."""
    columns = np.mgrid[0:SIZE, 0:SIZE][1]
    shoulders = (guide.height < 0.02) & (np.abs(columns - SIZE / 2) < 0.15 * guide.metre)
    colors = np.zeros((SIZE, SIZE, 3), np.float32)
    colors[guide.outline | guide.tube] = SKIN
    colors[guide.scalp] = HAIR
    colors[shoulders & (guide.height < 0.0)] = CLOTH
    colors[shoulders & ~guide.tube] = CLOTH
    return (guide.outline | guide.tube | shoulders).astype(np.float32), colors


def test_a_collar_of_the_hairs_colour_is_cut_away_and_hair_that_hangs_is_kept(guide: NeckGuide) -> None:
    alpha, colors = _person(guide)
    left, right = guide.left, guide.right
    beside = (np.minimum(left, right) < -0.01) & (np.minimum(left, right) > -0.035) & ~guide.outline
    collar = beside & (left < right) & (guide.height > 0.02) & (guide.height < guide.jaw - 0.005)
    hanging = beside & (right < left) & (guide.height > 0.02) & (guide.height < guide.ear + 0.05)
    alpha[collar | hanging], colors[collar | hanging] = 1.0, HAIR
    carved, covered = carve(alpha, colors, guide, ALL)
    assert not covered
    upper = guide.height > 0.6 * guide.chin
    assert carved[collar & upper].mean() < 0.1
    assert carved[hanging & upper & (guide.height < guide.jaw)].mean() > 0.7


def test_skin_ends_in_a_line_and_hair_keeps_its_soft_rim(guide: NeckGuide) -> None:
    """A matte that is as soft along cheeks as along hair."""
    alpha, colors = _person(guide)
    head = guide.outline | guide.tube
    inside = ndimage.distance_transform_edt(head) - ndimage.distance_transform_edt(~head)
    soft = np.clip(0.5 + inside / 12, 0, 1).astype(np.float32)
    nearest = ndimage.distance_transform_edt(~head, return_distances=False, return_indices=True)
    carved, _ = carve(np.where(guide.height > guide.chin, soft, alpha), colors[tuple(nearest)], guide, ALL)
    faint = (soft > 0.05) & (soft < 0.95)
    hairy = colors[tuple(nearest)][..., 0] < 0.5
    cheeks = faint & ~hairy & (guide.height > guide.jaw) & ~ndimage.binary_dilation(hairy, iterations=6)
    crown = faint & hairy & (guide.height > guide.ear + 0.08)
    assert np.abs(carved[crown] - soft[crown]).mean() < 0.01
    assert cheeks.sum() > 50
    assert np.abs(carved[cheeks] - (soft[cheeks] > 0.5)).mean() < 0.6 * np.abs(soft - (soft > 0.5))[cheeks].mean()


def test_shadow_on_a_throat_is_no_gap_above_skin_that_shows(guide: NeckGuide) -> None:
    """Deep shadow has the colour of the clothes; below it the throat is lit again."""
    alpha, colors = _person(guide)
    throat = guide.tube & ~guide.outline & (np.minimum(guide.left, guide.right) > 0.01)
    shaded = throat & (guide.height > 0.65 * guide.chin) & (guide.height < 0.95 * guide.chin)
    colors[shaded] = CLOTH
    carved, covered = carve(alpha, colors, guide, ALL)
    assert not covered
    assert carved[shaded].mean() > 0.9


def test_clothes_below_a_throat_end_it(guide: NeckGuide) -> None:
    alpha, colors = _person(guide)
    throat = guide.tube & ~guide.outline & (np.minimum(guide.left, guide.right) > 0.01)
    pullover = throat & (guide.height < 0.55 * guide.chin)
    colors[pullover] = CLOTH
    carved, covered = carve(alpha, colors, guide, ALL)
    assert not covered
    assert carved[pullover].mean() < 0.1
    assert carved[throat & (guide.height > 0.7 * guide.chin)].mean() > 0.9
