"""``zero1toa animate`` with a video: what was read off it is what the avatar does."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from zero1toa.avatar.bundle import Bundle, fingerprint, write_bundle
from zero1toa.avatar.initialisation import initialise
from zero1toa.commands.render import animate_video
from zero1toa.config import AvatarConfig
from zero1toa.errors import BundleError, OutputError
from zero1toa.head.registry import load_head
from zero1toa.motion import drivers
from zero1toa.motion.sequence import Motion

SIZE = 48


def _animate(bundle: Path, source: Path, output: Path) -> None:
    animate_video(bundle, str(source), output, azimuth=0, elevation=0, size=SIZE, fps=20, device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "actor.mp4"
    path.touch()
    return path


def test_the_avatar_turns_as_the_actor(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = load_head("canonical")
    rest = head.neutral()
    vertices = head.vertices(rest)
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=1, opacity=0.95))
    left = vertices[head.faces].mean(1)[avatar.binding][:, 0] > 0
    colors = torch.where(left[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    with torch.no_grad():
        avatar.sh0.copy_((colors - 0.5) / 0.28209479177387814)
    write_bundle(tmp_path / "avatar", Bundle(avatar, rest, head.name, fingerprint(head), np.eye(4), np.eye(3), 64))
    turns = np.zeros((4, 3), np.float32)
    turns[2:, 0] = 50  # degrees to the subject's left
    read = Motion(np.zeros((4, 52), np.float32), turns, 10, "actor.mp4: face in 4 of 4 frames")
    monkeypatch.setattr(drivers, "read_video_motion", lambda path, head: read)
    _animate(tmp_path / "avatar", source, tmp_path / "me.mp4")
    assert "face in 4 of 4 frames" in capsys.readouterr().out
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "me.mp4"))
    assert next(reader)["fps"] == 20
    frames = np.stack([np.frombuffer(raw, np.uint8).reshape(SIZE, SIZE, 3) for raw in reader]).astype(int)
    difference = frames[..., 0] - frames[..., 2]
    red, blue = (difference > 80).sum((1, 2)), (difference < -80).sum((1, 2))
    assert len(frames) == 7
    assert blue[0] < 1.3 * red[0]
    assert blue[-1] > 2 * red[-1]


def test_what_is_wrong_is_said_before_the_video_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, head: object) -> Motion:
        raise AssertionError("the video was read")

    monkeypatch.setattr(drivers, "read_video_motion", read)
    with pytest.raises(OutputError, match=r"must end in \.mp4"):
        _animate(tmp_path / "absent", source, tmp_path / "me.gif")
    with pytest.raises(BundleError):
        _animate(tmp_path / "absent", source, tmp_path / "me.mp4")
