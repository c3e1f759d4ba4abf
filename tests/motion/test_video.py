"""Videos as motions: known coefficients found again, and what is no video of a face named."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from zero1toa.errors import MotionError
from zero1toa.head.arkit import ARKIT_INDEX, coefficients
from zero1toa.head.registry import load_head
from zero1toa.media import write_video
from zero1toa.motion import video
from zero1toa.motion.drivers import load_driver
from zero1toa.motion.sequence import Motion
from zero1toa.render.cameras import orbit

SIZE = 256


def _acted(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients ``[T, 52]`` of a mouth that opens and shuts while a smile grows, and yaw ``[T]`` in degrees."""
    time = np.linspace(0, 1, frames)
    jaw, smile, yaw = 0.35 - 0.35 * np.cos(4 * np.pi * time), 0.8 * time, 15 * np.sin(2 * np.pi * time)
    rows = [
        coefficients({"jawOpen": j, "mouthSmileLeft": s, "mouthSmileRight": s}) for j, s in zip(jaw, smile, strict=True)
    ]
    return torch.stack(rows).numpy(), yaw


def test_known_coefficients_are_found_through_a_pinhole_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector is replaced by the exact projection of a known head, in float64; one frame has no face."""
    head, frames = load_head("canonical"), 9
    acted, yaw = _acted(frames)
    shape = torch.randn(head.n_shape, generator=torch.Generator().manual_seed(5)) * 0.5
    with torch.no_grad():
        vertices = head.vertices(head.arkit(torch.from_numpy(acted), head.neutral().replace(shape=shape)))
        points = head.landmarks.positions(vertices, head.faces).double().numpy()
    marks = []
    for i in range(frames):
        turn = np.diag([1.0, -1.0, -1.0]) @ Rotation.from_euler("y", yaw[i], degrees=True).as_matrix()
        camera = points[i] @ turn.T + [0.0, 0.02, 0.9]
        pixels = 700 * camera[:, :2] / camera[:, 2:] + SIZE / 2
        marks.append(np.concatenate([pixels, 700 * (camera[:, 2:] - 0.9) / 0.9], 1).astype(np.float32))
    seen = iter([*marks[:4], None, *marks[5:]])
    monkeypatch.setattr(video, "track_face", lambda image, previous: next(seen))
    monkeypatch.setattr(video, "_SMOOTHING", 1e-6)
    monkeypatch.setattr(video, "_IDENTITIES", 3)
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    write_video(tmp_path / "face.mp4", np.zeros((frames, SIZE, SIZE, 3), np.uint8), 10)
    motion = video.read_video_motion(tmp_path / "face.mp4", head)
    assert (len(motion), motion.fps) == (frames, 10)
    assert motion.name == "face.mp4: landmark fitting, face in 8 of 9 frames"
    known = np.arange(frames) != 4
    for name in ("jawOpen", "mouthSmileLeft", "mouthSmileRight"):
        found = motion.coefficients[:, ARKIT_INDEX[name]]
        assert np.abs(found - acted[:, ARKIT_INDEX[name]])[known].max() < 0.2, name
        assert found[4] == pytest.approx((found[3] + found[5]) / 2, abs=1e-5)  # between its neighbours
    assert np.abs(motion.head[:, 0] - yaw)[known].max() < 1.5
    assert np.abs(motion.head[:, 1:]).max() < 2


@pytest.mark.slow
def test_a_rendered_person_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A synthetic person with known coefficients, as an encoded video, through MediaPipe."""
    from zero1toa.evaluation.synthetic import held_out_subject

    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    subject, frames = held_out_subject(0, detail=0), 16
    acted, yaw = _acted(frames)
    _, K = subject.portrait_camera(SIZE)
    target = (0.0, float(subject.head.center[1]), float(subject.head.center[2]))
    viewmats = orbit(torch.tensor(-yaw, dtype=torch.float32), torch.zeros(frames), 1.1, target)
    pictures, _ = subject.render(torch.from_numpy(acted), viewmats, K.expand(frames, 3, 3), SIZE)
    write_video(tmp_path / "face.mp4", (pictures.clamp(0, 1) * 255).byte().numpy(), 12.5)
    motion = load_driver(str(tmp_path / "face.mp4"))
    assert isinstance(motion, Motion)
    assert len(motion) == frames
    jaw = motion.coefficients[:, ARKIT_INDEX["jawOpen"]]
    # The detector sees drawn lips open less than they do, so that the rhythm is asked for and not the height.
    assert np.corrcoef(jaw, acted[:, ARKIT_INDEX["jawOpen"]])[0, 1] > 0.9
    smile = motion.coefficients[:, ARKIT_INDEX["mouthSmileLeft"]]
    assert smile[-4:].mean() > smile[:4].mean() + 0.1
    assert np.abs(motion.head[:, 0] - yaw).mean() < 3


def test_head_angles_are_those_of_motions() -> None:
    angles = np.array([[30, 10, -5], [-20, -15, 8], [0, 0, 0], [70, 5, 20]], np.float32)
    neck = Motion(np.zeros((4, 52), np.float32), angles, 25, "test").neck()
    np.testing.assert_allclose(video.head_angles(Rotation.from_rotvec(neck).as_matrix()), angles, atol=1e-3)


def test_blendshapes_go_by_name_and_the_pose_loses_its_scale() -> None:
    def category(name: str, score: float) -> SimpleNamespace:
        return SimpleNamespace(category_name=name, score=score)

    pose = np.eye(4)
    pose[:3, :3] = 1.3 * Rotation.from_euler("y", 20, degrees=True).as_matrix()
    result = SimpleNamespace(
        face_blendshapes=[[category("_neutral", 0.9), category("jawOpen", 0.4), category("browDownLeft", 0.2)]],
        facial_transformation_matrixes=[pose],
    )
    frame = video.from_landmarker(result)
    assert frame is not None
    expected = coefficients({"jawOpen": 0.4, "browDownLeft": 0.2}).numpy()
    np.testing.assert_allclose(frame.coefficients, expected)
    np.testing.assert_allclose(video.head_angles(frame.rotation[None])[0], [20, 0, 0], atol=1e-6)
    assert video.from_landmarker(SimpleNamespace(face_blendshapes=[], facial_transformation_matrixes=[])) is None


def test_what_is_no_video_of_a_face_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    head = load_head("canonical")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(MotionError, match=r"a\.mp4 is not a readable video"):
        video.read_video_motion(tmp_path / "a.mp4", head)
    monkeypatch.setattr(video, "track_face", lambda image, previous: None)
    write_video(tmp_path / "b.mp4", np.full((3, 64, 64, 3), 128, np.uint8), 10)
    with pytest.raises(MotionError, match=r"b\.mp4 shows a face in 0 of 3 frames"):
        video.read_video_motion(tmp_path / "b.mp4", head)
