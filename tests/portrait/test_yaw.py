"""The quick estimate of a head's yaw against what is known of it."""

import numpy as np
import pytest
import torch

from zero1toa.evaluation.synthetic import SyntheticSubject, held_out_subject
from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.landmarks import detect_faces
from zero1toa.portrait.yaw import estimate_yaw
from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.types import Portrait


@pytest.fixture(scope="module")
def subject(head: HeadModel) -> SyntheticSubject:
    return held_out_subject(0, head, detail=0)


@pytest.mark.parametrize("azimuth", [-60.0, -35.0, 20.0, 50.0])
def test_heads_rendered_from_the_side(subject: SyntheticSubject, azimuth: float) -> None:
    """Seen from the subject's left (positive azimuth), the head is turned to its right as the picture shows it."""
    viewmat, K = orbit(azimuth, 0.0, 0.9, (0.0, 0.0, 0.0)), intrinsics(24.0, 256)
    picture, _ = subject.render(subject.arkit[None], viewmat[None], K[None], 256)
    (face, *_) = detect_faces((picture[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    assert estimate_yaw(face) == pytest.approx(-azimuth, abs=7.0)


def test_a_photo(portrait: Portrait) -> None:
    from skimage import data

    photo = data.astronaut()
    seen, mirrored = estimate_yaw(detect_faces(photo)[0]), estimate_yaw(detect_faces(photo[:, ::-1])[0])
    assert seen == pytest.approx(portrait.yaw, abs=3.0)
    assert mirrored == pytest.approx(-seen, abs=2.0)


def test_size_place_and_tilt_do_not_matter(head: HeadModel) -> None:
    """The embedded head's own landmarks, turned exactly, in pixels: y down, z away from the camera."""
    neutral = head.landmarks.positions(head.vertices(head.neutral()), head.faces).double().numpy()
    for degrees in (-50.0, -10.0, 0.0, 30.0):
        angle, roll = np.radians(degrees), np.radians(12.0)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        points = (neutral @ turn.T) * [1, -1, -1]
        tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        level = estimate_yaw(points * 1000 + [300, 200, 0])
        assert level / 1.09 == pytest.approx(degrees, abs=1e-6)
        assert estimate_yaw(points * 37) == pytest.approx(level)
        assert np.sign(estimate_yaw(points @ tilt.T)) == np.sign(level) or degrees == 0
