"""The jaw's edge against pictures whose edge is drawn by formula."""

from __future__ import annotations

import numpy as np
import pytest

from zero1toa.avatar.jaw_line import FOREHEAD, JAW, RIM, TIP, JawLine

SIZE = 512
MIDDLE, WIDE, HIGH = (256.0, 220.0), 110.0, 140.0
FACE = 2 * HIGH


def _landmarks() -> np.ndarray:
    """All 478 at the middle, but the jaw on the lower half of an ellipse, and the forehead above it."""
    points = np.tile(np.array(MIDDLE, np.float32), (478, 1))
    angle = np.linspace(np.pi, 0, len(JAW))
    points[list(JAW)] = np.stack([MIDDLE[0] + WIDE * np.cos(angle), MIDDLE[1] + HIGH * np.sin(angle)], 1)
    points[FOREHEAD] = MIDDLE[0], MIDDLE[1] - HIGH
    assert np.linalg.norm(points[FOREHEAD] - points[TIP]) == pytest.approx(FACE)
    return points


def _picture(beyond: float, below: tuple[int, int, int]) -> np.ndarray:
    """Skin on the face, which reaches ``beyond`` pixels further than the landmarks, and another colour around it."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    face = ((x - MIDDLE[0]) / (WIDE + beyond)) ** 2 + ((y - MIDDLE[1]) / (HIGH + beyond)) ** 2 <= 1
    image = np.full((SIZE, SIZE, 4), 255, np.uint8)
    image[..., :3] = np.where(face[..., None], (220, 180, 160), below)
    return image


@pytest.mark.parametrize("beyond", [0.0, 4.0, 9.0, 14.0])
def test_the_edge_is_found_where_the_colours_change(beyond: float) -> None:
    line = JawLine(_landmarks(), _picture(beyond, (60, 50, 50)))
    assert line.edge == pytest.approx(beyond - RIM * FACE, abs=1.5)


def test_a_picture_without_an_edge_moves_nothing() -> None:
    line = JawLine(_landmarks(), _picture(5.0, (214, 176, 158)))
    assert line.edge is None
    assert not line.beyond(np.array([[256.0, 400.0]])).any()


def test_points_beyond_the_edge_are_measured_and_others_are_not() -> None:
    line = JawLine(_landmarks(), _picture(0.0, (60, 50, 50)))
    assert line.edge is not None
    below, inside, beside = [256.0, MIDDLE[1] + HIGH + 10], [256.0, MIDDLE[1] + HIGH - 20], [20.0, MIDDLE[1] - 60]
    found = line.beyond(np.array([below, inside, beside]))
    np.testing.assert_allclose(found[0], [0, 10 - line.edge], atol=1.5)
    assert not found[1:].any()
