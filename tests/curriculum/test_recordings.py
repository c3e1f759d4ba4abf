"""TalkSHOW clips as temporal samples: their numbers, their rate, the wide jaw, and only on FLAME 2020."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_head import PlainHead

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.recordings import check_recordings
from zero1toa.curriculum.schedule import build_clips
from zero1toa.errors import HeadModelError, MotionError


class PlainFlame(PlainHead):
    """A head with FLAME's name and sizes whose mouth opens by its jaw joint."""

    name = "flame-2020"
    n_expression = 100

    def neutral(self, *batch):
        return super().neutral(*batch).replace(expression=torch.zeros(*batch, 100), model=self.name)

    def arkit(self, coefficients, identity):
        opened = super().arkit(coefficients, identity)
        return opened.replace(expression=torch.zeros(*coefficients.shape[:-1], 100))


def _record(path: Path, number: int, frames: int = 90) -> None:
    """Expression says which clip (0) and which second (1) it is; the jaw stays at 0.1 radians, the head turns."""
    expression = np.zeros((frames, 100), np.float32)
    expression[:, 0], expression[:, 1] = number, np.arange(frames) / 30
    body = np.zeros((frames, 21, 3), np.float32)
    body[:, 11, 1] = 0.05
    entries = {
        "expression": expression,
        "jaw_pose": np.tile(np.float32([0.1, 0, 0]), (frames, 1)),
        "leye_pose": np.zeros((frames, 3), np.float32),
        "reye_pose": np.full((frames, 3), 0.1, np.float32),
        "body_pose_axis": body.reshape(frames, 63),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(entries))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        _record(tmp_path / f"speaker{number}" / "clip.pkl", number)
    return tmp_path


def _clips(config: CurriculumConfig, seed: int = 3) -> dict:
    head = PlainFlame()
    clips = build_clips(config, head, head.neutral(), 64, seed)
    return {
        stage: [c for c in clips.values() if c.key.stage == stage] for stage in ("temporal_synthetic", "temporal_real")
    }


def test_recorded_talk_takes_the_place_of_procedural_talk(folder: Path) -> None:
    config = CurriculumConfig(real_talk=str(folder), wide_jaw=False, real_clips=6, frames=12)
    clips = _clips(config)["temporal_real"]
    assert sorted(float(c.expression[0, 0]) for c in clips) == [1, 1, 2, 2, 3, 3]  # every recording in turn
    for clip in clips:
        np.testing.assert_allclose(np.diff(clip.expression[:, 1]), 1 / 12.5, atol=1e-5)  # in real time at 12.5 fps
        np.testing.assert_allclose(clip.jaw, np.tile([0.1, 0, 0], (12, 1)), atol=1e-6)
        np.testing.assert_allclose(clip.neck, np.tile([0, 0.05, 0], (12, 1)), atol=1e-6)
        np.testing.assert_allclose(clip.eyes[:, 1], 0.1, atol=1e-6)
        assert not clip.lids.any()
        assert (clip.viewmats == clip.viewmats[0]).all()
    assert len({float(c.expression[0, 1]) for c in clips}) > 1  # not always from the beginning


def test_the_other_stage_stays_as_it_was(folder: Path) -> None:
    recorded, plain = _clips(CurriculumConfig(real_talk=str(folder))), _clips(CurriculumConfig())
    for a, b in zip(recorded["temporal_synthetic"], plain["temporal_synthetic"], strict=True):
        np.testing.assert_array_equal(a.jaw, b.jaw)
    synthetic = _clips(CurriculumConfig(synthetic_talk=str(folder)))["temporal_synthetic"]
    assert {float(c.expression[0, 0]) for c in synthetic} == {1, 2, 3}


def test_every_other_real_clip_opens_wide(folder: Path) -> None:
    clips = _clips(CurriculumConfig(real_talk=str(folder)))["temporal_real"]
    widest = [float(c.jaw[:, 0].max()) for c in clips]
    assert all(0.85 * 0.35 <= angle <= 0.35 for angle in widest[::2])
    assert all(angle == pytest.approx(0.1) for angle in widest[1::2])
    for clip in clips[::2]:
        assert clip.jaw[:, 0].min() == pytest.approx(0.1, abs=1e-6)  # elsewhere it is the recording
        top = int(clip.jaw[:, 0].argmax())
        assert not clip.expression[top].any()


def test_one_seed_takes_the_same_stretches(folder: Path) -> None:
    config = CurriculumConfig(real_talk=str(folder))
    first, again, other = (_clips(config, seed)["temporal_real"] for seed in (3, 3, 4))
    assert all((a.expression == b.expression).all() for a, b in zip(first, again, strict=True))
    assert any((a.expression != b.expression).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["canonical-1", "flame-2023"])
def test_other_heads_are_refused_before_any_work(folder: Path, name: str) -> None:
    head = PlainHead()
    head.name = name
    with pytest.raises(HeadModelError, match=f"FLAME 2020.*{name}.*head=flame2020"):
        check_recordings(CurriculumConfig(real_talk=str(folder)), head)
    with pytest.raises(HeadModelError, match="head=flame2020"):
        build_clips(CurriculumConfig(synthetic_talk=str(folder)), head, head.neutral(), 64, 0)
    check_recordings(CurriculumConfig(), head)


def test_a_recording_that_is_too_short_is_named(tmp_path: Path) -> None:
    _record(tmp_path / "a" / "short.pkl", 1, frames=30)
    with pytest.raises(MotionError, match=r"short\.pkl lasts 1\.0 s; a clip of 16 frames needs 1\.3 s"):
        _clips(CurriculumConfig(real_talk=str(tmp_path)))
    with pytest.raises(MotionError, match="no file or folder"):
        check_recordings(CurriculumConfig(real_talk=str(tmp_path / "b")), PlainFlame())
