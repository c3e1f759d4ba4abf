import dataclasses

import numpy as np
import pytest
from plain_head import PlainHead

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.clips import unlocked_spec
from zero1toa.curriculum.schedule import build_clips
from zero1toa.curriculum.spatial import UNITS
from zero1toa.curriculum.talk import EXAGGERATED, FRAME_RATE, RELAXED, talk
from zero1toa.head.arkit import ARKIT_INDEX

JAW = ARKIT_INDEX["jawOpen"]


@pytest.fixture(scope="module")
def clips():
    head = PlainHead()
    return build_clips(CurriculumConfig(), head, head.neutral(), 64, seed=3)


def of(clips, stage):
    return [spec for spec in clips.values() if spec.key.stage == stage]


def test_numbers_of_clips_and_frames(clips):
    assert [len(of(clips, s)) for s in ("spatial", "temporal_synthetic", "temporal_real")] == [20, 10, 10]
    assert all(len(spec) == 16 and spec.size == 64 for spec in clips.values())


def test_spatial_clips_hold_the_expression_and_move_the_camera(clips):
    for spec in of(clips, "spatial"):
        assert (spec.expression == spec.expression[0]).all()
        assert spec.azimuths[0] == 0
        assert 30 <= abs(spec.azimuths[-1]) <= 60
        assert np.allclose(spec.Ks, spec.Ks[0])
    signs = [np.sign(spec.azimuths[-1]) for spec in of(clips, "spatial")]
    assert signs == [1, -1] * 10


def test_temporal_clips_hold_the_camera_and_move_the_expression(clips):
    for spec in of(clips, "temporal_synthetic") + of(clips, "temporal_real"):
        assert (spec.viewmats == spec.viewmats[0]).all()
        assert abs(spec.azimuths[0]) <= 15
        assert np.ptp(spec.expression, axis=0).max() > 0.05


def test_real_clips_are_more_exaggerated_and_open_the_jaw(clips):
    relaxed = np.concatenate([s.expression for s in of(clips, "temporal_synthetic")])
    lively = np.concatenate([s.expression for s in of(clips, "temporal_real")])
    assert np.linalg.norm(lively, axis=-1).mean() > 1.5 * np.linalg.norm(relaxed, axis=-1).mean()
    assert relaxed[:, JAW].max() <= 0.45
    wide = [s.expression[:, JAW].max() >= 0.8 for s in of(clips, "temporal_real")]
    assert sum(wide) == 5


def test_wide_jaw_can_be_left_out():
    head = PlainHead()
    clips = build_clips(CurriculumConfig(wide_jaw=False), head, head.neutral(), 64, seed=3)
    assert max(s.expression[:, JAW].max() for s in of(clips, "temporal_real")) <= 0.5


def test_one_seed_one_curriculum(clips):
    head = PlainHead()
    again = build_clips(CurriculumConfig(), head, head.neutral(), 64, seed=3)
    other = build_clips(CurriculumConfig(), head, head.neutral(), 64, seed=4)
    assert list(again) == list(clips)
    assert all((again[k].expression == clips[k].expression).all() for k in clips)
    assert all((again[k].viewmats == clips[k].viewmats).all() for k in clips)
    assert any((other[k].viewmats != clips[k].viewmats).any() for k in clips)


def test_stages_draw_independently(clips):
    head = PlainHead()
    fewer = build_clips(CurriculumConfig(spatial_clips=3), head, head.neutral(), 64, seed=3)
    for spec in of(fewer, "temporal_real"):
        assert (spec.expression == clips[spec.key].expression).all()


def test_eight_units_cover_mouth_eyes_and_brows():
    names = {name for _, unit in UNITS[:8] for name in unit}
    assert {"jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthPucker"} <= names
    assert {"browInnerUp", "browDownLeft"} <= names
    singles = [set(unit) for _, unit in UNITS[:8]]
    assert {"eyeBlinkLeft"} in singles
    assert {"eyeBlinkRight"} in singles
    assert len({name for name, _ in UNITS}) == len(UNITS)
    assert len(UNITS) % 2 == 1  # a second round sees the other side


@pytest.mark.parametrize("style", [RELAXED, EXAGGERATED, dataclasses.replace(EXAGGERATED, wide_jaw=1.0)])
def test_talk_is_smooth_and_within_limits(style):
    for seed in range(10):
        curve = talk(64, style, np.random.default_rng(seed))
        assert curve.dtype == np.float32
        assert curve.min() >= 0
        assert curve.max() <= 1
        mouth = np.delete(curve, [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]], axis=1)
        assert np.abs(np.diff(mouth, axis=0)).max() * FRAME_RATE < 10  # a jaw opens within a tenth of a second


def test_talk_moves_the_lips_together_and_apart():
    curve = talk(250, RELAXED, np.random.default_rng(0))
    press, jaw = curve[:, ARKIT_INDEX["mouthPressLeft"]], curve[:, JAW]
    assert jaw.std() > 0.05
    assert press.max() > 0.1
    assert np.corrcoef(press, jaw)[0, 1] < 0  # lips do not press while the jaw is open
    blinks = curve[:, ARKIT_INDEX["eyeBlinkLeft"]]
    assert blinks.max() > 0.6
    assert (blinks > 0.1).mean() < 0.3


def test_locked_frames_show_the_last_open_pose(clips):
    spec = of(clips, "spatial")[0]
    for unlocked in (1, 5, 16):
        shown = unlocked_spec(spec, unlocked)
        for i in range(16):  # paper eq. 2, frames counted from 1: p_i = p^_min(i, j)
            source = min(i + 1, unlocked) - 1
            for name in ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths", "arkit"):
                assert (getattr(shown, name)[i] == getattr(spec, name)[source]).all()
    assert (unlocked_spec(spec, 1).azimuths == 0).all()


def test_a_recording_has_no_arkit_coefficients_in_any_of_its_frames(clips):
    recorded = dataclasses.replace(of(clips, "temporal_real")[0], arkit=None)
    shown = unlocked_spec(recorded, 3)
    assert shown.arkit is None
    assert (shown.expression[2:] == recorded.expression[2]).all()


@pytest.mark.parametrize("unlocked", [0, 17])
def test_unlocked_out_of_range_is_refused(clips, unlocked):
    with pytest.raises(ValueError, match="open frames"):
        unlocked_spec(of(clips, "spatial")[0], unlocked)
