"""Faces are found wherever they are in the frame, in its own pixels; what is no face is not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from zero1toa.errors import AssetError
from zero1toa.portrait import graphs, landmarks
from zero1toa.portrait.landmarks import cut, detect_faces, detect_landmarks, face_height


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return data.astronaut()


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> np.ndarray:
    return detect_faces(astronaut)[0]


def _error(points: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance as a share of the face height."""
    return float(np.linalg.norm((points - reference)[:, :2], axis=1).mean() / face_height(reference))


def test_astronaut(face: np.ndarray) -> None:
    assert face.shape == (478, 3)
    assert face.dtype == np.float32
    # Measured by hand in the picture: pupils, nose tip, mouth corners, chin (the subject's right eye is at the left).
    hand = {468: (203.5, 101), 473: (246, 103.5), 4: (224, 128), 61: (202.5, 139.5), 291: (247, 139), 152: (224, 178)}
    for index, place in hand.items():
        assert np.linalg.norm(face[index, :2] - place) < 4, index


def test_two_detections_agree(astronaut: np.ndarray, face: np.ndarray) -> None:
    again = detect_faces(astronaut)[0]
    np.testing.assert_array_equal(again, face)
    moved = np.pad(astronaut, ((31, 0), (17, 0), (0, 0)), mode="edge")
    assert _error(detect_faces(moved)[0] - np.array([17, 31, 0]), face) < 0.005


def test_close_up_small_and_off_centre(astronaut: np.ndarray, face: np.ndarray) -> None:
    close = detect_faces(astronaut[70:180, 170:280])[0]
    assert _error(close + np.array([170, 70, 0]), face) < 0.012
    canvas = np.full((2000, 3000, 3), 190, np.uint8)
    canvas[1700:1956, 2600:2856] = np.asarray(Image.fromarray(astronaut).resize((256, 256), Image.Resampling.LANCZOS))
    small = detect_faces(canvas)[0]
    assert _error((small - np.array([2600, 1700, 0])) * 2, face) < 0.02


def test_several_faces_come_by_size(astronaut: np.ndarray, face: np.ndarray) -> None:
    half = np.asarray(Image.fromarray(astronaut).resize((320, 320), Image.Resampling.LANCZOS))
    both = np.full((512, 832, 3), 255, np.uint8)
    both[:320, :320], both[:, 320:] = half, astronaut
    found = detect_faces(both)
    assert len(found) == 2
    assert _error(found[0] - np.array([320, 0, 0]), face) < 0.01
    assert _error(found[1] * 1.6, face) < 0.02


@pytest.mark.parametrize("picture", ["rocket", "chelsea", "coffee"])
def test_no_face(picture: str) -> None:
    assert detect_faces(getattr(data, picture)()) == []


def test_track_of_frames(astronaut: np.ndarray, face: np.ndarray) -> None:
    frame = astronaut[20:276, 100:356]
    frames = np.stack([frame, np.full_like(frame, 255), frame[:, ::-1]])
    track = detect_landmarks(frames)
    assert track.points.shape == (3, 478, 2)
    assert track.points.dtype == np.float32
    np.testing.assert_array_equal(track.valid, [True, False, True])
    assert not track.projected.any()
    assert not track.points[1].any()
    assert _error(track.points[0] * 256 + np.array([100, 20]), face[:, :2]) < 0.015
    # A frame's landmarks do not depend on its neighbours.
    np.testing.assert_array_equal(detect_landmarks(frames[2:]).points[0], track.points[2])
    # In the mirrored frame the subject's left eye is where the right one was.
    mirrored = (1 - track.points[2, 473, 0]) * 256 + 100
    assert abs(mirrored - face[468, 0]) < 3


def test_frames_are_looked_at_side_by_side(astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame's landmarks are what one thread finds in it alone, and in their places, however many there are."""
    frames = np.stack([np.roll(astronaut, (7 * i, -11 * i), (0, 1))[:360] for i in range(12)])
    frames[5] = 255
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = [detect_landmarks(frame[None]) for frame in frames]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    together = detect_landmarks(frames)
    assert together.valid.tolist() == [track.valid[0] for track in alone]
    assert not together.valid[5]
    assert together.valid.sum() >= 10
    np.testing.assert_array_equal(together.points, np.concatenate([track.points for track in alone]))


def test_track_of_oblong_frames(astronaut: np.ndarray, face: np.ndarray) -> None:
    track = detect_landmarks(astronaut[None, 20:220, 60:400])
    assert _error(track.points[0] * [340, 200] + [60, 20], face[:, :2]) < 0.015


def test_cut_is_exact_on_a_ramp() -> None:
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    out = cut(ramp, (10.0, 10.0, 50.0, 50.0), 20)  # pixel i of the cut covers x = 10 + 2i .. 12 + 2i, centre 11 + 2i
    np.testing.assert_allclose(out[10, 2:-2, 0], [2 * (11 + 2 * i - 0.5) for i in range(2, 18)], atol=1)
    border = cut(ramp, (-20.0, 0.0, 20.0, 40.0), 40)
    np.testing.assert_array_equal(border[:, 2:18], 0)


def test_no_log_lines() -> None:
    script = (
        "from skimage import data\n"
        "from zero1toa.portrait.landmarks import detect_faces\n"
        "from zero1toa.portrait.matting import segment_person\n"
        "assert len(detect_faces(data.astronaut())) == 1\n"
        "segment_person(data.astronaut())\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert ran.stdout == ""


def test_other_lines_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with graphs.quiet():
        os.write(2, b"disk is full\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
    assert capfd.readouterr().err == "disk is full\n"


def test_mediapipe_without_models(monkeypatch: pytest.MonkeyPatch, tmp_path, astronaut: np.ndarray) -> None:
    monkeypatch.setattr(graphs, "has_solutions", lambda: False)
    monkeypatch.delenv(landmarks.TASK_VARIABLE, raising=False)
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    with pytest.raises(AssetError, match=r"face_landmarker\.task"):
        detect_landmarks(astronaut[None])
    wrong = tmp_path / "wrong.task"
    wrong.write_bytes(b"nothing")
    monkeypatch.setenv(landmarks.TASK_VARIABLE, str(wrong))
    with pytest.raises(AssetError, match="not a MediaPipe face landmarker"):
        detect_faces(astronaut)
