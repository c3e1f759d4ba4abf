"""Reading motions: every accepted form, and a clear word about every wrong one."""

import re
from pathlib import Path

import numpy as np
import pytest

from zero1toa.errors import MotionError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.motion.reader import load_motion, shipped


def _csv(folder: Path, text: str) -> Path:
    path = folder / "motion.csv"
    path.write_text(text)
    return path


def test_csv_columns_go_where_their_names_say(tmp_path: Path):
    motion = load_motion(_csv(tmp_path, "yaw,JawOpen,eyeBlinkLeft\n10,0.5,0\n-4,0.25,1\n"))
    assert motion.fps == 25
    np.testing.assert_allclose(motion.coefficients[:, ARKIT_INDEX["jawOpen"]], [0.5, 0.25])
    np.testing.assert_allclose(motion.coefficients[:, ARKIT_INDEX["eyeBlinkLeft"]], [0, 1])
    np.testing.assert_allclose(motion.head, [[10, 0, 0], [-4, 0, 0]])
    assert motion.coefficients.sum() == pytest.approx(1.75)


def test_times_give_the_rate_and_dropped_frames_are_filled(tmp_path: Path):
    motion = load_motion(_csv(tmp_path, "time,jawOpen\n5.0,0\n5.1,0.1\n5.2,0.2\n5.4,0.4\n5.5,0.5\n"))
    assert motion.fps == 10
    np.testing.assert_allclose(motion.coefficients[:, ARKIT_INDEX["jawOpen"]], np.arange(6) / 10, atol=1e-6)


def test_resampling_is_linear_and_keeps_the_ends(tmp_path: Path):
    motion = load_motion(_csv(tmp_path, "time,jawOpen,roll\n0,0,0\n0.1,1,10\n0.2,0,20\n"), fps=20)
    np.testing.assert_allclose(motion.coefficients[:, ARKIT_INDEX["jawOpen"]], [0, 0.5, 1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(motion.head[:, 2], [0, 5, 10, 15, 20], atol=1e-5)


def test_npz_with_and_without_names(tmp_path: Path):
    rng = np.random.default_rng(0)
    values = rng.random((4, 52)).astype(np.float32)
    np.savez(tmp_path / "all.npz", coefficients=values, fps=30.0)
    motion = load_motion(tmp_path / "all.npz")
    assert motion.fps == 30
    np.testing.assert_array_equal(motion.coefficients, values)
    np.savez(tmp_path / "some.npz", coefficients=values[:, :2], names=["mouthPucker", "jawOpen"], head=np.ones((4, 3)))
    motion = load_motion(tmp_path / "some.npz")
    np.testing.assert_array_equal(motion.coefficients[:, ARKIT_INDEX["mouthPucker"]], values[:, 0])
    np.testing.assert_array_equal(motion.head, np.ones((4, 3)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jawOpem\n0.5\n", "'jawOpem'; did you mean 'jawOpen'"),
        ("jawOpen,foo,bar,baz,qux\n0,0,0,0,0\n", "(and 1 more)"),
        ("jawOpen\n", "has no frames"),
        ("jawOpen\nx\n", "line 2, column 'jawOpen': 'x' is not a number"),
        ("jawOpen,yaw\n1\n", "line 2 has 1 columns and the header has 2"),
        ("jawOpen\nnan\n", "not finite"),
        ("jawOpen\n55\n", "'jawOpen' reaches 55"),
        ("jawOpen,JawOpen\n0,0\n", "two columns"),
        ("time,jawOpen\n0,0\n0,0\n", "line 3: 'time' does not increase"),
    ],
)
def test_wrong_csv_is_named(tmp_path: Path, text: str, words: str):
    with pytest.raises(MotionError, match=re.escape(words)):
        load_motion(_csv(tmp_path, text))


def test_wrong_npz_is_named(tmp_path: Path):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(MotionError, match="not a readable npz"):
        load_motion(bad)
    np.savez(bad, weights=np.zeros((3, 52)))
    with pytest.raises(MotionError, match=r"no array 'coefficients' .* \(found: weights\)"):
        load_motion(bad)
    np.savez(bad, coefficients=np.zeros((3, 51)))
    with pytest.raises(MotionError, match=re.escape("[3, 51], not numbers [T, 52]")):
        load_motion(bad)
    np.savez(bad, coefficients=np.zeros((3, 52)), head=np.zeros((2, 3)))
    with pytest.raises(MotionError, match="'head' is"):
        load_motion(bad)


def test_missing_files_and_other_formats_are_named(tmp_path: Path):
    with pytest.raises(MotionError, match="did you mean 'talk'"):
        load_motion("talks")
    (tmp_path / "motion.txt").write_text("jawOpen\n0\n")
    with pytest.raises(MotionError, match=r"neither \.csv nor \.npz"):
        load_motion(tmp_path / "motion.txt")
    with pytest.raises(MotionError, match="out of range"):
        load_motion("talk", fps=-1)


@pytest.mark.parametrize("name", shipped())
def test_shipped_motions_start_and_end_at_rest(name: str):
    motion = load_motion(name)
    assert motion.duration > 5
    assert motion.coefficients.shape[1] == len(ARKIT_NAMES)
    for end in (0, -1):
        assert np.abs(motion.coefficients[end]).max() == 0
        assert np.abs(motion.head[end]).max() == 0
