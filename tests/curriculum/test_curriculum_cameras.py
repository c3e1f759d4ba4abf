import math

import numpy as np
import torch

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.cameras import Lens, draw_lens, front_to_side, path

CENTER = torch.tensor([0.01, 0.05, -0.02], dtype=torch.float64)


def look_at(azimuth, elevation, distance):
    """Cross-product construction in float64, independent of the angle formulas."""
    a, e = math.radians(azimuth), math.radians(elevation)
    outward = np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    right = np.cross(-outward, [0, 1, 0])
    right /= np.linalg.norm(right)
    view = np.eye(4)
    view[:3, :3] = np.stack([right, np.cross(-outward, right), -outward])
    view[:3, 3] = -view[:3, :3] @ (CENTER.numpy() + distance * outward)
    return view


def test_path_looks_at_the_centre_from_every_side():
    rng = np.random.default_rng(0)
    azimuths, elevations = rng.uniform(-180, 180, 50), rng.uniform(-80, 80, 50)
    viewmats, _ = path(azimuths, elevations, Lens(30.0, 0.9), CENTER, 256)
    expected = [look_at(a, e, 0.9) for a, e in zip(azimuths, elevations, strict=True)]
    np.testing.assert_allclose(viewmats, expected, atol=2e-6)


def test_camera_on_the_left_sees_the_subjects_left_nearer():
    view = path(np.array([40.0]), np.array([0.0]), Lens(30.0, 1.0), torch.zeros(3), 256)[0][0]
    left, right = view @ np.array([0.07, 0, 0, 1]), view @ np.array([-0.07, 0, 0, 1])
    assert left[2] < right[2]
    assert (view[:3, :3] @ np.array([0, 1, 0]))[1] < 0  # world up is image up: y points down


def test_intrinsics_see_exactly_the_field_of_view():
    K = path(np.zeros(2), np.zeros(2), Lens(50.0, 1.0), torch.zeros(3), 256)[1][1]
    top = K @ np.array([0, -math.tan(math.radians(25)), 1])
    np.testing.assert_allclose(top[:2], [128, 0], atol=1e-4)


def test_drawn_lens_keeps_the_fill_at_every_field_of_view():
    config = CurriculumConfig()
    rng = np.random.default_rng(1)
    for _ in range(200):
        lens = draw_lens(rng, config, 0.25)
        assert config.fovy[0] <= lens.fovy <= config.fovy[1]
        fill = 0.25 / (2 * lens.distance * math.tan(math.radians(lens.fovy) / 2))
        assert config.fill[0] - 1e-6 <= fill <= config.fill[1] + 1e-6


def test_front_to_side_begins_in_front_and_ends_at_the_side():
    azimuths, elevations = front_to_side(-60.0, 10.0, 16)
    assert azimuths[0] == elevations[0] == 0
    assert azimuths[-1] == -60
    assert elevations[-1] == 10
    np.testing.assert_allclose(np.diff(azimuths), -4.0, atol=1e-5)
    assert front_to_side(60.0, 10.0, 1)[0].tolist() == [0.0]
