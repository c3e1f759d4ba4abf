"""Head rotations against plain matrices, and the procedural motions."""

import numpy as np
from scipy.spatial.transform import Rotation

from zero1toa.head.arkit import ARKIT_INDEX
from zero1toa.motion.procedural import expressions, talk, to_csv
from zero1toa.motion.reader import load_motion
from zero1toa.motion.sequence import Motion


def _turn(yaw: float, pitch: float, roll: float) -> np.ndarray:
    head = np.array([[yaw, pitch, roll]], np.float32)
    return Rotation.from_rotvec(Motion(np.zeros((1, 52), np.float32), head, 25, "test").neck()[0]).as_matrix()


def test_head_angles_turn_as_documented():
    forward, up = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    sine, cosine = np.sin(np.radians(30)), np.cos(np.radians(30))
    np.testing.assert_allclose(_turn(30, 0, 0) @ forward, [sine, 0, cosine], atol=1e-6)  # to the subject's left, +x
    np.testing.assert_allclose(_turn(0, 30, 0) @ forward, [0, sine, cosine], atol=1e-6)  # up, +y
    np.testing.assert_allclose(_turn(0, 0, 30) @ up, [sine, cosine, 0], atol=1e-6)  # crown to the subject's left


def test_yaw_is_applied_last():
    turned = _turn(90, 20, 10) @ np.array([0, 0, 1.0])
    np.testing.assert_allclose(turned, [np.cos(np.radians(20)), np.sin(np.radians(20)), 0], atol=1e-6)


def test_talk_is_decided_by_its_generator():
    first, second = talk(np.random.default_rng(3)), talk(np.random.default_rng(3))
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert (first.coefficients != talk(np.random.default_rng(4)).coefficients).any()


def test_talk_opens_and_closes_the_mouth_like_speech():
    jaw = talk(np.random.default_rng(7), seconds=10).coefficients[:, ARKIT_INDEX["jawOpen"]]
    peaks = ((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > 0.08)).sum()
    assert 1.5 < peaks / 10 < 7
    assert 0.3 < jaw.max() <= 1


def test_csv_is_what_ships():
    for motion in (talk(np.random.default_rng(7)), expressions()):
        read = load_motion(motion.name)
        assert (len(read), read.fps) == (len(motion), motion.fps)
        np.testing.assert_allclose(read.coefficients, motion.coefficients, atol=1e-3)
        np.testing.assert_allclose(read.head, motion.head, atol=1e-3)
        assert to_csv(read) == to_csv(motion)
