"""The landmark detector finds the head's landmarks on its render, where the head says they are."""

from __future__ import annotations

import numpy as np
import pytest

from zero1toa.head.appearance import Palette, paint_default
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.preview import render
from zero1toa.head.sculpt.template import detect

DARK = Palette(skin=(0.45, 0.30, 0.22), hair=(0.06, 0.05, 0.05), lips=(0.42, 0.22, 0.22))


@pytest.mark.parametrize("palette", [Palette(), DARK])
@pytest.mark.parametrize(("azimuth", "limit"), [(0, 0.015), (30, 0.03), (-30, 0.03)])
def test_detector_agrees_with_the_embedding(
    head: CanonicalHead, palette: Palette, azimuth: float, limit: float
) -> None:
    vertices = head.vertices(head.neutral())
    picture = render(vertices.numpy(), head.faces.numpy(), paint_default(head, palette).numpy(), azimuth=azimuth)
    found = detect(picture.color)
    assert found is not None
    corners = picture.points[head.faces[head.landmarks.triangles].numpy(), :2]
    expected = (corners * head.landmarks.barycentric.numpy()[..., None]).sum(1)
    error = np.linalg.norm(found[:, :2] - expected, axis=1)
    face_height = np.linalg.norm(expected[10] - expected[152])
    assert error.mean() / face_height < limit
