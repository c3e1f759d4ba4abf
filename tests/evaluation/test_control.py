"""The measures against faces whose opening, width and yaw are known."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from skimage import data

from zero1toa.evaluation import control
from zero1toa.evaluation.control import (
    ControlReport,
    eye_opening,
    find_landmarks,
    lip_opening,
    measure_control,
    measure_yaw,
    mouth_width,
    rigid_landmarks,
)
from zero1toa.head.arkit import ARKIT_INDEX
from zero1toa.head.registry import load_head
from zero1toa.types import LandmarkTrack


def _cloud() -> np.ndarray:
    """A face-like cloud ``[478, 3]`` in metres: points on the front of an ellipsoid."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-0.6, 0.6, (2, 478))
    return np.stack([0.08 * x, 0.1 * y, 0.09 * np.sqrt(1 - x * x - y * y)], -1)


def _seen(points: np.ndarray, yaw: float, pitch: float = 0.0) -> np.ndarray:
    """Pixels ``[N, 2]`` of a 512 picture from 1 m: the head turns to the subject's left (+x) by ``yaw`` degrees."""
    a, b = math.radians(yaw), math.radians(pitch)
    turn = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    x, y, z = (points @ turn.T @ nod.T).T
    return np.stack([256 + 1500 * x / (1 - z), 256 - 1500 * y / (1 - z)], -1)


@pytest.mark.parametrize("yaw", [-60.0, -30.0, -5.0, 0.0, 15.0, 45.0])
@pytest.mark.parametrize("pitch", [-10.0, 8.0])
def test_yaw_of_a_known_view(yaw: float, pitch: float) -> None:
    cloud = _cloud()
    noisy = _seen(cloud, yaw, pitch) + np.random.default_rng(0).normal(0, 0.7, (478, 2))
    assert measure_yaw(noisy, cloud[list(control._RIGID)]) == pytest.approx(yaw, abs=2.5)


def test_yaw_without_a_face_is_nan() -> None:
    assert math.isnan(measure_yaw(np.full((478, 2), np.nan), _cloud()[list(control._RIGID)]))


def test_sides_and_openings_on_a_photo() -> None:
    photo = data.astronaut()[20:276, 100:356]
    points = find_landmarks(photo)
    # Measured by hand: teeth show over about 8 pixels, the mouth is 45 wide; her eyes are about 7 high.
    assert lip_opening(points) == pytest.approx(8, abs=2.5)
    assert mouth_width(points) == pytest.approx(45, abs=3)
    for side in ("left", "right"):
        assert eye_opening(points, side) == pytest.approx(7, abs=2.5)
    # Close the eye that is on the picture's right, hers on the left, by painting skin over it.
    winking = photo.copy()
    winking[76:93, 135:160] = [222, 180, 160]
    closed = find_landmarks(winking)
    change = {side: eye_opening(closed, side) / eye_opening(points, side) for side in ("left", "right")}
    assert change["left"] < change["right"]


@pytest.mark.parametrize("roll", [0.0, 25.0, -40.0])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_eye_opens_across_and_not_along_its_lids(side: Literal["left", "right"], roll: float) -> None:
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    points = np.zeros((478, 2))
    first, last = control._CORNERS[side]
    points[first], points[last] = [100, 50], [140, 50]
    for x, opening, expected in ((0, 9, 9), (3, 9, 9), (3, 0, 0), (-4, -1, 0)):
        for number, (upper, lower) in enumerate(control._LIDS[side]):
            points[upper] = [110 + 5 * number, 50 - opening / 2]
            points[lower] = [110 + 5 * number + x, 50 + opening / 2]
        assert eye_opening(points @ np.array([[c, s], [-s, c]]), side) == pytest.approx(expected, abs=1e-9)


def test_nothing_found_is_nan() -> None:
    assert np.isnan(find_landmarks(np.full((64, 64, 3), 255, np.uint8))).all()


class _PuppetHead:
    """The landmark cloud as a head model, as far as the measurement needs one."""

    faces = torch.arange(478 * 3).reshape(478, 3)

    class _Landmarks:
        def positions(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
            return vertices

    landmarks = _Landmarks()

    def neutral(self) -> None:
        return None

    def arkit(self, arkit: torch.Tensor, identity: None) -> torch.Tensor:
        return arkit

    def vertices(self, params: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(_puppet({"left": 0.01, "right": 0.01}, 0.001, 0.045))


def _puppet(lids: dict[str, float], jaw: float, smile: float) -> np.ndarray:
    """The cloud with authored lids (opening in metres), lips and mouth corners, and a face height of 0.1 m."""
    points = _cloud()
    points[10], points[152] = [0, 0.05, 0.08], [0, -0.05, 0.08]
    for side, sign in (("left", 1), ("right", -1)):
        for corner, x in zip(control._CORNERS[side], (-0.015, 0.015), strict=True):
            points[corner] = [sign * 0.031 + x, 0.02, 0.08]
        for i, (up, down) in enumerate(control._LIDS[side]):
            points[up] = [sign * (0.025 + 0.004 * i), 0.02 + lids[side] / 2, 0.08]
            points[down] = [sign * (0.025 + 0.004 * i), 0.02 - lids[side] / 2, 0.08]
    for i, (up, down) in enumerate(control._LIPS):
        points[up], points[down] = [0.005 * (i - 1), -0.02 + jaw / 2, 0.08], [0.005 * (i - 1), -0.02 - jaw / 2, 0.08]
    points[61], points[291] = [-smile / 2, -0.02, 0.08], [smile / 2, -0.02, 0.08]
    return points


def _report(monkeypatch: pytest.MonkeyPatch, *, swapped: bool = False, blind: bool = False) -> ControlReport:
    """Measure a puppet whose lids close by 80 %, lips open to 1.2 cm, and mouth widens from 4.5 to 5.4 cm."""
    shown: dict[int, np.ndarray] = {}

    def render(arkit: torch.Tensor, yaw: float) -> np.ndarray:
        on = {name: float(arkit[i]) for name, i in ARKIT_INDEX.items()}
        left, right = ("eyeBlinkRight", "eyeBlinkLeft") if swapped else ("eyeBlinkLeft", "eyeBlinkRight")
        lids = {"left": 0.01 * (1 - 0.8 * on[left]), "right": 0.01 * (1 - 0.8 * on[right])}
        points = _puppet(lids, 0.001 + 0.012 * on["jawOpen"], 0.045 + 0.009 * on["mouthSmileLeft"])
        number = len(shown) + 1
        shown[number] = np.full((478, 2), np.nan) if blind and abs(yaw) > 40 else _seen(points, yaw)
        return np.full((512, 512, 3), number, np.uint8)

    def detect(frames: np.ndarray) -> LandmarkTrack:
        points = shown[int(frames[0, 0, 0, 0])]
        found = np.isfinite(points).all()
        return LandmarkTrack((points / 512)[None].astype(np.float32), np.array([found]), np.zeros(1, bool))

    monkeypatch.setattr(control, "detect_landmarks", detect)
    return measure_control(render, _PuppetHead())  # type: ignore[arg-type]


def test_an_obedient_avatar_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    report = _report(monkeypatch)
    assert report.jaw_open == pytest.approx(0.12, rel=0.02)
    for cut in (report.blink_left, report.blink_right, report.wink_left, report.wink_right):
        assert cut == pytest.approx(0.8, abs=0.01)
    assert report.wink_left_other == pytest.approx(0, abs=0.01)
    assert report.smile == pytest.approx(5.4 / 4.5, rel=0.01)
    assert report.yaw[30.0] == pytest.approx(30, abs=3)
    assert report.yaw[-30.0] == pytest.approx(-30, abs=3)
    assert report.passed, report.checks()
    assert report.to_dict()["passed"] is True


def test_a_mirrored_avatar_fails_the_winks(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [name for name, ok in _report(monkeypatch, swapped=True).checks().items() if not ok]
    assert len(failed) == 2
    assert all("only" in name for name in failed)


def test_a_face_that_is_not_found_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    report = _report(monkeypatch, blind=True)
    assert report.found == {-45.0: False, 45.0: False}
    assert not report.passed


def test_hair_that_lifts_a_forehead_does_not_turn_the_head() -> None:
    """The yaw is measured against the face, which a detector sees, not against the hair over it."""
    head = load_head("canonical")
    lifted = torch.zeros(head.n_vertices, 3)
    lifted[:, 2] = 0.02 * (head.vertices(head.neutral())[:, 1] > head.center[1])
    bare = rigid_landmarks(head, head.neutral())
    assert np.array_equal(rigid_landmarks(head, head.neutral().replace(offset=lifted)), bare)
    assert np.array_equal(rigid_landmarks(head), bare)
