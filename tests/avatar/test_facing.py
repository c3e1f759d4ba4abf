from __future__ import annotations

import math

import torch

from zero1toa.avatar.facing import facing, facing_weight
from zero1toa.render.cameras import orbit


def _tent(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two triangles at the origin: one towards +z, one turned by ``angle`` degrees about y."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    flat = torch.tensor([[-0.01, -0.01, 0.0], [0.01, -0.01, 0.0], [0.0, 0.01, 0.0]])
    turned = torch.stack([c * flat[:, 0], flat[:, 1], -s * flat[:, 0]], -1)
    return torch.cat([flat, turned])[None], torch.tensor([[0, 1, 2], [3, 4, 5]])


def test_facing_falls_from_63_to_83_degrees_and_back_faces_count_nothing() -> None:
    view = orbit(0.0, 0.0, 5.0, torch.zeros(3))[None]
    for angle, expected in ((0, 1.0), (60, 1.0), (90, 0.0), (150, 0.0), (180, 0.0)):
        vertices, faces = _tent(angle)
        weights = facing(faces, vertices, view)
        assert weights.shape == (1, 2)
        assert abs(float(weights[0, 0]) - 1) < 1e-6
        assert abs(float(weights[0, 1]) - expected) < 1e-4, angle
    for angle in (66, 70, 75, 80):
        vertices, faces = _tent(angle)
        t = (math.cos(math.radians(angle)) - 0.12) / 0.33
        assert abs(float(facing(faces, vertices, view)[0, 1]) - t * t * (3 - 2 * t)) < 0.01, angle


def test_the_camera_decides_what_is_faced() -> None:
    vertices, faces = _tent(70.0)
    towards = torch.stack([orbit(azimuth, 0.0, 5.0, torch.zeros(3)) for azimuth in (0.0, 70.0, -70.0)])
    weights = facing(faces, vertices.expand(3, -1, -1), towards)
    assert weights[1, 1] > 0.999 > weights[0, 1]
    assert weights[1, 0] == weights[2, 0]  # the flat one, seen from 70 degrees on either side
    assert weights[2, 1] == 0


def test_weights_stay_in_range() -> None:
    weights = facing_weight(torch.linspace(-1, 1, 50))
    assert float(weights.min()) == 0
    assert float(weights.max()) == 1
    assert (weights.diff() >= 0).all()
