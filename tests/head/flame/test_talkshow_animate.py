"""``zero1toa animate`` with TalkSHOW's files: a video on FLAME 2020, one line on any other head."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from talkshow_files import write_show

from zero1toa.avatar.bundle import Bundle, fingerprint, write_bundle
from zero1toa.avatar.initialisation import initialise
from zero1toa.commands.render import animate_video
from zero1toa.config import AvatarConfig
from zero1toa.errors import HeadModelError
from zero1toa.head.protocol import HeadModel
from zero1toa.head.registry import load_head


def _bundle(path: Path, head: HeadModel) -> Path:
    """An avatar whose left half is red and right half blue."""
    rest = head.neutral().replace(model=head.name)
    vertices = head.vertices(rest)
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=1, opacity=0.95))
    left = vertices[head.faces].mean(1)[avatar.binding][:, 0] > 0
    colors = torch.where(left[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    with torch.no_grad():
        avatar.sh0.copy_((colors - 0.5) / 0.28209479177387814)
    write_bundle(path, Bundle(avatar, rest, head.name, fingerprint(head), np.eye(4), np.eye(3), 64))
    return path


def _animate(bundle: Path, motion: Path, output: Path, fps: float | None = None) -> None:
    animate_video(bundle, str(motion), output, azimuth=0, elevation=0, size=48, fps=fps, device="cpu")


def test_talk_becomes_a_video(flame_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(flame_home))
    bundle = _bundle(tmp_path / "avatar", load_head("flame2020"))
    body = np.zeros((8, 21, 3), np.float32)
    body[4:, 11, 1] = 0.9  # to the subject's left, so that the blue half shows
    write_show(tmp_path / "clip.pkl", 8, body_pose_axis=body.reshape(8, 63))
    _animate(bundle, tmp_path / "clip.pkl", tmp_path / "talk.mp4")
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "talk.mp4"))
    meta = next(reader)
    frames = np.stack([np.frombuffer(raw, np.uint8).reshape(48, 48, 3) for raw in reader]).astype(int)
    assert (meta["fps"], len(frames)) == (30, 8)
    difference = frames[..., 0] - frames[..., 2]
    red, blue = (difference > 80).sum((1, 2)), (difference < -80).sum((1, 2))
    assert (red[:4] > 0.8 * blue[:4]).all()
    assert (blue[4:] > 2 * red[4:]).all()


def test_the_canonical_head_says_what_it_needs(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "avatar", load_head("canonical"))
    write_show(tmp_path / "clip.pkl", 8)
    with pytest.raises(
        HeadModelError, match=r"clip\.pkl holds coefficients of FLAME 2020.*canonical-1.*head=flame2020"
    ):
        _animate(bundle, tmp_path / "clip.pkl", tmp_path / "talk.mp4")
    assert not (tmp_path / "talk.mp4").exists()
