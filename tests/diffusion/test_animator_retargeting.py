"""Retargeted landmarks against positions recorded from the three projects."""

from __future__ import annotations

import numpy as np
import pytest

from tests.diffusion import golden
from zero1toa.diffusion.animator.retargeting import (
    FaceTrack,
    place_irises,
    project,
    synchronise_motion,
    transfer_expression,
)

TOLERANCE = 0.05  # pixels


def _tracks(name: str) -> tuple[FaceTrack, FaceTrack]:
    data = golden.landmarks(name)

    def track(who: str) -> FaceTrack:
        fields = [data[f"input/{who}/{key}"] for key in ("lmks", "lmks3d", "trans_mat", "bs")]
        return FaceTrack(*(field if who == "template" else field[None] for field in fields))

    return track("template"), track("ref")


@golden.needs_golden
def test_follow_your_emoji() -> None:
    driver, portrait = _tracks("follow_your_emoji")
    vertices = place_irises(transfer_expression(driver, portrait, 512, 512), driver)
    assert np.abs(vertices - golden.landmarks("follow_your_emoji")["retarget/vertices"]).max() < TOLERANCE


@golden.needs_golden
def test_aniportrait() -> None:
    driver, portrait = _tracks("aniportrait")
    recorded = golden.landmarks("aniportrait")["retarget/vertices"]
    assert np.abs(transfer_expression(driver, portrait, 512, 512, smoothing=3) - recorded).max() < TOLERANCE
    unsmoothed = transfer_expression(driver, portrait, 512, 512)
    assert np.abs(unsmoothed - recorded).max() > TOLERANCE


@golden.needs_golden
def test_echomimic() -> None:
    driver, portrait = _tracks("echomimic")
    before = driver.mesh.copy()
    vertices = synchronise_motion(driver, portrait)
    assert np.abs(vertices - golden.landmarks("echomimic")["retarget/vertices"]).max() < TOLERANCE
    assert np.array_equal(driver.mesh, before)


def test_projection_is_a_pinhole_camera() -> None:
    """Half a field of view away from the axis lies the upper border; right of the axis is right in the picture."""
    distance = 40.0
    edge = distance * np.tan(np.radians(31.5))
    points = np.array([[[0, 0, 0], [0, edge, 0], [edge, 0, 0]]], float)
    pose = np.eye(4)[None].copy()
    pose[0, 2, 3] = -distance
    expected = [[320, 240], [320, 0], [560, 240]]
    np.testing.assert_allclose(project(points, pose, 640, 480)[0], expected, atol=1e-9)


@pytest.mark.parametrize("smoothing", [1, 3])
def test_a_face_drives_itself(smoothing: int) -> None:
    """Retargeting a still face to itself changes nothing."""
    generator = np.random.default_rng(0)
    mesh = generator.normal(size=(1, 468, 3)) * 5
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = (1, 2, -40)
    landmarks = np.concatenate([project(mesh, pose, 512, 512) / 512, mesh[..., 2:] / 512], -1)
    irises = generator.uniform(0.4, 0.6, (1, 10, 3))
    still = FaceTrack(np.concatenate([landmarks, irises], 1), mesh, pose, np.zeros((1, 51)))
    driver = FaceTrack(
        *(np.repeat(getattr(still, name), 4, 0) for name in ("landmarks", "mesh", "poses", "blendshapes"))
    )
    vertices = transfer_expression(driver, still, 512, 512, smoothing)
    np.testing.assert_allclose(vertices, driver.landmarks[:, :468, :2] * 512, atol=1e-6)
    np.testing.assert_allclose(place_irises(vertices, driver)[:, 468:], driver.landmarks[:, 468:, :2] * 512, atol=1e-6)
    np.testing.assert_allclose(synchronise_motion(driver, still)[:, :468], vertices, atol=1e-6)
