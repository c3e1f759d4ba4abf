from __future__ import annotations

import math

import pytest
import torch

from zero1toa.render.cameras import Cameras, distance_for_fill, intrinsics, orbit, project, resize_intrinsics
from zero1toa.render.rasterize import rasterize

D = torch.float64


def test_front_camera_by_hand():
    # In front at 2 m: the camera sits at (0, 0, 2), looks along -z, its right is +x and its down is -y.
    expected = torch.tensor([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]], dtype=torch.float32)
    torch.testing.assert_close(orbit(0.0, 0.0, 2.0), expected)


def test_pixels_by_hand():
    # fovy 90 degrees and 100 pixels: the focal length is 50. A point 0.5 m to the subject's left and 0.25 m up, 2 m
    # away, lands 12.5 pixels right of and 6.25 above the centre (50, 50).
    K = intrinsics(90.0, 100)
    torch.testing.assert_close(K, torch.tensor([[50.0, 0, 50], [0, 50, 50], [0, 0, 1]]))
    pixels, depth = project(torch.tensor([[0.5, 0.25, 0.0]]), orbit(0.0, 0.0, 2.0), K)
    torch.testing.assert_close(pixels, torch.tensor([[62.5, 43.75]]))
    torch.testing.assert_close(depth, torch.tensor([2.0]))


def test_camera_on_the_subjects_left_sees_the_nose_on_the_left():
    # Azimuth 90: the camera sits at +x and its right is -z. The nose, 0.1 m in front, is to the left of the centre.
    viewmat = orbit(90.0, 0.0, 1.0)
    torch.testing.assert_close(torch.linalg.inv(viewmat)[:3, 3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    pixels, _ = project(torch.tensor([[0.0, 0.0, 0.1]]), viewmat, intrinsics(90.0, 100))
    torch.testing.assert_close(pixels, torch.tensor([[45.0, 50.0]]))


def test_elevated_camera_sees_the_chin_nearer_to_the_bottom():
    # From 90 degrees above, the front of the head points down in the picture.
    pixels, depth = project(torch.tensor([[0.0, 0.0, 0.1]]), orbit(0.0, 90.0, 1.0), intrinsics(90.0, 100))
    torch.testing.assert_close(pixels, torch.tensor([[50.0, 55.0]]))
    torch.testing.assert_close(depth, torch.tensor([1.0]))


@pytest.mark.parametrize("mirror", [1, -1])
def test_subjects_left_is_drawn_on_the_right(mirror):
    means = torch.tensor([[0.05 * mirror, 0.02, 0.0]])
    arguments = torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.01), torch.ones(1), torch.ones(1, 3)
    picture, _, _ = rasterize(means, *arguments, orbit(0.0, 0.0, 0.5)[None], intrinsics(40.0, 64)[None], 64, 64)
    ys, xs = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    weight = picture[0, ..., 0]
    focal = 32 / math.tan(math.radians(20))
    assert float((weight * xs).sum() / weight.sum()) == pytest.approx(32 + mirror * focal * 0.1, abs=0.02)
    assert float((weight * ys).sum() / weight.sum()) == pytest.approx(32 - focal * 0.04, abs=0.02)


def test_orbits_are_proper_rotations_that_look_at_the_target(generator):
    azimuth = 360 * torch.rand(5, 4, generator=generator, dtype=D) - 180
    elevation = 180 * torch.rand(5, 1, generator=generator, dtype=D) - 90
    distance = 0.3 + torch.rand(4, generator=generator, dtype=D)
    target = torch.randn(5, 1, 3, generator=generator, dtype=D)
    viewmats = orbit(azimuth, elevation, distance, target)
    assert viewmats.shape == (5, 4, 4, 4)
    R = viewmats[..., :3, :3]
    torch.testing.assert_close(R @ R.transpose(-1, -2), torch.eye(3, dtype=D).expand(5, 4, 3, 3))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(5, 4, dtype=D))
    pixels, depth = project(target.expand(5, 4, 3)[..., None, :], viewmats, intrinsics(torch.tensor(50.0, dtype=D), 64))
    torch.testing.assert_close(pixels[..., 0, :], torch.full((5, 4, 2), 32.0, dtype=D))
    torch.testing.assert_close(depth[..., 0], distance.expand(5, 4))
    # Upright: the camera's down never points up.
    assert bool((R[..., 1, 1] <= 1e-12).all())


def test_fill_gives_the_wanted_height():
    fovy, fill, height = torch.tensor([40.0, 70.0], dtype=D), 0.7, 0.3
    viewmats = orbit(torch.zeros(2, dtype=D), 0.0, distance_for_fill(height, fill, fovy))
    ends = torch.tensor([[0.0, 0.15, 0.0], [0.0, -0.15, 0.0]], dtype=D)
    pixels, _ = project(ends, viewmats, intrinsics(fovy, 200))
    torch.testing.assert_close(pixels[:, 1, 1] - pixels[:, 0, 1], torch.full((2,), 140.0, dtype=D))


def test_resized_intrinsics_move_pixels_in_proportion(generator):
    points = torch.rand(6, 3, generator=generator)
    viewmat, K = orbit(10.0, 5.0, 3.0), intrinsics(40.0, (96, 64))
    before, _ = project(points, viewmat, K)
    after, _ = project(points, viewmat, resize_intrinsics(K, (96, 64), (48, 128)))
    torch.testing.assert_close(after, before * torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(resize_intrinsics(intrinsics(40.0, 64), 64, 512), intrinsics(40.0, 512))


def test_cameras_record():
    cameras = Cameras(orbit(torch.zeros(3), 0.0, 1.0), intrinsics(40.0, 64).expand(3, 3, 3), 64, 64)
    larger = cameras.resized(128, 128)
    assert (larger.width, larger.height) == (128, 128)
    torch.testing.assert_close(larger.Ks[0], intrinsics(40.0, 128))
    with pytest.raises(ValueError, match=r"Ks must be \[3, 3, 3\]"):
        Cameras(cameras.viewmats, cameras.Ks[:2], 64, 64)
