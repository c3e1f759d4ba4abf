"""TalkSHOW's files: where each number goes, at which rate, and on which head."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from talkshow_files import show_entries, write_show

from zero1toa.errors import HeadModelError, MotionError
from zero1toa.head.flame.model import FlameHead
from zero1toa.head.flame.talkshow import read_talkshow, talkshow_files
from zero1toa.head.registry import load_head


def test_a_recording_s_numbers_go_where_they_belong(tmp_path: Path) -> None:
    entries = write_show(tmp_path / "clip.pkl", 45)
    talk = read_talkshow(tmp_path / "clip.pkl")
    assert (len(talk), talk.fps, talk.duration) == (45, 30.0, 1.5)
    np.testing.assert_array_equal(talk.expression, entries["expression"])
    np.testing.assert_array_equal(talk.jaw, entries["jaw_pose"])
    np.testing.assert_array_equal(talk.eyes[:, 0], entries["leye_pose"])
    np.testing.assert_array_equal(talk.eyes[:, 1], entries["reye_pose"])


def test_the_head_turns_by_neck_and_head_and_by_no_collar_bone(tmp_path: Path) -> None:
    body = np.zeros((2, 21, 3), np.float32)
    body[:, 12:14] = 1.0  # collar bones
    body[1, 11], body[1, 14] = [0.0, 0.4, 0.0], [0.3, 0.0, 0.0]
    write_show(tmp_path / "clip.pkl", 2, body_pose_axis=body.reshape(2, 63))
    neck = read_talkshow(tmp_path / "clip.pkl").neck
    np.testing.assert_array_equal(neck[0], 0)
    yaw = np.array([[np.cos(0.4), 0, np.sin(0.4)], [0, 1, 0], [-np.sin(0.4), 0, np.cos(0.4)]])
    nod = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    np.testing.assert_allclose(Rotation.from_rotvec(neck[1]).as_matrix(), yaw @ nod, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_generated_talk_has_the_same_numbers_in_columns(tmp_path: Path, batched: bool) -> None:
    entries = show_entries(20)
    rows = np.zeros((20, 265), np.float64)
    for name, start in (
        ("jaw_pose", 0),
        ("leye_pose", 3),
        ("reye_pose", 6),
        ("body_pose_axis", 12),
        ("expression", 165),
    ):
        rows[:, start : start + entries[name].shape[1]] = entries[name]
    rows[:, 9:12], rows[:, 75:165] = 2.9, 0.7  # global orientation and hands
    np.save(tmp_path / "talk.npy", rows[None] if batched else rows)
    write_show(tmp_path / "clip.pkl", 20)
    generated, recorded = read_talkshow(tmp_path / "talk.npy"), read_talkshow(tmp_path / "clip.pkl")
    for name in ("expression", "jaw", "neck", "eyes"):
        np.testing.assert_allclose(getattr(generated, name), getattr(recorded, name), atol=1e-7)


def test_resampling_keeps_time(tmp_path: Path) -> None:
    seconds = np.arange(61) / 30
    expression = np.outer(seconds, np.arange(100)).astype(np.float32)
    jaw = np.outer(seconds, [0.3, 0.0, 0.0]).astype(np.float32)
    write_show(tmp_path / "clip.pkl", 61, expression=expression, jaw_pose=jaw)
    talk = read_talkshow(tmp_path / "clip.pkl").resampled(12.5)
    assert (len(talk), talk.fps) == (26, 12.5)
    np.testing.assert_allclose(talk.expression, np.outer(np.arange(26) / 12.5, np.arange(100)), atol=1e-4)
    np.testing.assert_allclose(talk.jaw[:, 0], 0.3 * np.arange(26) / 12.5, atol=1e-6)
    part = talk.part(3, 4)
    np.testing.assert_array_equal(part.jaw, talk.jaw[3:7])


def test_rotations_are_resampled_on_the_shortest_turn(tmp_path: Path) -> None:
    body = np.zeros((3, 63), np.float32)
    body[:, 33:36] = [[0, 3.0, 0], [0, 3.2, 0], [0, 3.4, 0]]  # beyond pi, where axis-angle changes its sign
    write_show(tmp_path / "clip.pkl", 3, body_pose_axis=body)
    neck = read_talkshow(tmp_path / "clip.pkl").resampled(60).neck
    expected = Rotation.from_rotvec(np.outer(np.linspace(3.0, 3.4, 5), [0, 1, 0]))
    assert (Rotation.from_rotvec(neck).inv() * expected).magnitude().max() < 1e-5


def test_talk_moves_flame2020_with_somebody_else_s_identity(flame: FlameHead, tmp_path: Path) -> None:
    entries = write_show(tmp_path / "clip.pkl", 3)
    identity = flame.neutral().replace(shape=torch.linspace(-1, 1, 300))
    params = read_talkshow(tmp_path / "clip.pkl").params(identity)
    with torch.no_grad():
        moved = flame.vertices(params)
    assert moved.shape == (3, flame.n_vertices, 3)
    # FLAME's own equation in one coefficient: the tip of the basis moves with its displacement.
    again = params.replace(expression=params.expression + torch.eye(100)[7])
    still = params.replace(jaw=torch.zeros(3), neck=torch.zeros(3), eyes=torch.zeros(2, 3))
    with torch.no_grad():
        step = flame.rest(again) - flame.rest(params)
        np.testing.assert_allclose(step[1], step[0], atol=1e-6)
        assert (flame.vertices(still) - moved).norm(dim=-1).max() > 0.005
    np.testing.assert_array_equal(params.jaw, entries["jaw_pose"])
    torch.testing.assert_close(params.shape, identity.shape)


def test_another_head_is_refused(no_jaw: FlameHead, tmp_path: Path) -> None:
    write_show(tmp_path / "clip.pkl", 3)
    talk = read_talkshow(tmp_path / "clip.pkl")
    for head in (no_jaw, load_head("canonical")):
        identity = head.neutral().replace(model=head.name)
        with pytest.raises(HeadModelError, match=rf"FLAME 2020.*{head.name}.*head=flame2020"):
            talk.params(identity)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jaw_pose": None, "expression": None}, "has no expression, jaw_pose (found: batch_size"),
        ({"expression": np.zeros((9, 50), np.float32)}, "'expression' is [9, 50], not numbers [9, 100]"),
        ({"jaw_pose": np.zeros((8, 3), np.float32)}, "'jaw_pose' is [8, 3], not numbers [9, 3]"),
        ({"jaw_pose": np.full((9, 3), 8.0)}, "'jaw_pose' turns by 13.9 radians"),
        ({"leye_pose": np.full((9, 3), np.nan)}, "'leye_pose' holds a value that is not finite"),
        ({"reye_pose": "closed"}, "reye_pose is"),
    ],
)
def test_wrong_recordings_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_show(tmp_path / "clip.pkl", 9, **changes)
    with pytest.raises(MotionError, match=re.escape(words)) as caught:
        read_talkshow(tmp_path / "clip.pkl")
    assert str(tmp_path / "clip.pkl") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(MotionError, match="holds list"):
        read_talkshow(path)
    path.write_bytes(b"\x80\x04no")
    with pytest.raises(MotionError, match="not a readable pickle"):
        read_talkshow(path)
    np.save(tmp_path / "x.npy", np.zeros((4, 264)))
    with pytest.raises(MotionError, match=re.escape("[4, 264], not [T, 265]")):
        read_talkshow(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MotionError, match="not a readable npy"):
        read_talkshow(tmp_path / "x.npy")


def test_folders_are_listed_in_one_order(tmp_path: Path) -> None:
    for name in ("b/2/2.pkl", "a/1/1.pkl", "a/1/1.wav", "c.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in talkshow_files(tmp_path)]
    assert names == ["a/1/1.pkl", "b/2/2.pkl", "c.npy"]
    assert talkshow_files(tmp_path / "c.npy") == [tmp_path / "c.npy"]
    with pytest.raises(MotionError, match="no file or folder"):
        talkshow_files(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MotionError, match=r"no \.pkl or \.npy"):
        talkshow_files(tmp_path / "empty")
