"""Results of MICA, DECA, EMOCA and SMIRK: each tool's names and shapes, and the fit that takes them for granted."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from zero1toa.config import PortraitConfig
from zero1toa.errors import HeadModelError, MotionError, PortraitError
from zero1toa.head.arkit import coefficients
from zero1toa.head.flame.model import FlameHead
from zero1toa.head.flame.tracked import read_expression, read_shape
from zero1toa.head.registry import load_head
from zero1toa.portrait.fitting import KnownHead, fit_head, portrait_intrinsics
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.portrait.tracked import read_known

RNG = np.random.default_rng(5)
SHAPE, EXPRESSION = RNG.normal(size=300).astype(np.float32), RNG.normal(size=100).astype(np.float32)
GLOBAL, JAW = np.float32([0.3, 0.2, 0.1]), np.float32([0.25, 0.02, -0.01])


def _deca(names: tuple[str, str, str]) -> dict[str, np.ndarray]:
    shape, exp, pose = names
    return {
        shape: SHAPE[None, :100],
        exp: EXPRESSION[None, :50],
        pose: np.concatenate([GLOBAL, JAW])[None],
        "cam": GLOBAL,
    }


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))


def _write(path: Path, entries: dict[str, Any]) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({k: torch.from_numpy(v) for k, v in entries.items()}))
    elif path.suffix == ".npz":
        np.savez(path, **entries)
    elif path.suffix == ".npy":
        np.save(path, np.array(entries, dtype=object), allow_pickle=True)
    else:
        path.mkdir()
        for name, value in entries.items():
            np.save(path / f"{name}.npy", value)
    return path


@pytest.mark.parametrize("file", ["a.pkl", "a.npz", "a.npy", "folder"])
@pytest.mark.parametrize("names", [("shape", "exp", "pose"), ("shapecode", "expcode", "posecode")])
def test_deca_and_emoca(tmp_path: Path, file: str, names: tuple[str, str, str]) -> None:
    path = _write(tmp_path / file, _deca(names))
    np.testing.assert_array_equal(read_shape(path), _padded(SHAPE[:100], 300))
    found = read_expression(path)
    np.testing.assert_array_equal(found.expression, _padded(EXPRESSION[:50], 100))
    np.testing.assert_array_equal(found.jaw, JAW)  # the last three of six; the first three are the whole head
    np.testing.assert_array_equal(found.lids, [0, 0])


@pytest.mark.parametrize("file", ["a.pkl", "a.npz", "a.npy"])
def test_smirk_with_its_lids(tmp_path: Path, file: str) -> None:
    entries = {
        "pose_params": GLOBAL[None], "cam": GLOBAL[None], "shape_params": SHAPE[None], "jaw_params": JAW[None],
        "expression_params": EXPRESSION[None, :50], "eyelid_params": np.float32([[0.75, 0.0]]),
    }  # fmt: skip
    path = _write(tmp_path / file, entries)
    np.testing.assert_array_equal(read_shape(path), SHAPE)
    found = read_expression(path)
    np.testing.assert_array_equal(found.jaw, JAW)
    np.testing.assert_array_equal(found.lids, [0.75, 0.0])


def test_mica(tmp_path: Path) -> None:
    np.save(tmp_path / "identity.npy", SHAPE)
    np.save(tmp_path / "kpt68.npy", np.zeros((68, 3)))
    np.testing.assert_array_equal(read_shape(tmp_path / "identity.npy"), SHAPE)
    np.testing.assert_array_equal(read_shape(tmp_path), SHAPE)
    np.savez(tmp_path / "result.npz", identity=SHAPE)
    np.testing.assert_array_equal(read_shape(tmp_path / "result.npz"), SHAPE)
    with pytest.raises(MotionError, match="one array without a jaw"):
        read_expression(tmp_path / "identity.npy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exp": None}, "has no expression: expected one of exp, expcode, expression_params (found: cam, pose, shape)"),
        ({"pose": None}, "has no jaw: expected one of pose, posecode, jaw_params, jawpose"),
        ({"exp": np.zeros((1, 101))}, "'exp' has 101 coefficients; FLAME 2020 has at most 100"),
        ({"exp": np.zeros((3, 50))}, "'exp' is float64 [3, 50], not coefficients [N] of one photo"),
        ({"exp": np.full(50, np.inf)}, "'exp' holds a value that is not finite"),
        ({"pose": np.zeros(15)}, "'pose' has 15 numbers, not 6"),
        ({"pose": np.full(6, 20.0)}, "the jaw turns by 34.6 radians"),
    ],
)
def test_wrong_results_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    entries = {k: v for k, v in (_deca(("shape", "exp", "pose")) | change).items() if v is not None}
    path = _write(tmp_path / "a.npz", entries)
    with pytest.raises(MotionError, match=re.escape(words)) as caught:
        read_expression(path)
    assert str(path) in str(caught.value)


def test_other_files_are_named(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "absent.npy", "no file or folder"),
        (_write(tmp_path / "empty", {}), "no .npy file"),
        (tmp_path / "a.mat", "neither .npy, .npz nor .pkl"),
        (tmp_path / "a.npz", "not a readable .npz"),
        (tmp_path / "a.npy", "not a readable .npy"),
        (tmp_path / "a.pkl", "not a readable pickle"),
    ):
        if path.suffix in (".mat", ".npz", ".pkl") or path.name == "a.npy":
            path.write_bytes(b"\x80nothing")
        with pytest.raises(MotionError, match=re.escape(words)):
            read_shape(path)


class _Call:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("file", ["a.npy", "a.npz"])
def test_numpy_s_pickled_objects_run_nothing(tmp_path: Path, file: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / file
    hostile = np.array({"shape": _Call(marker)}, dtype=object)
    if file == "a.npz":
        np.savez(path, hostile)
    else:
        np.save(path, hostile, allow_pickle=True)
    with pytest.raises(MotionError, match=r"system.*nothing of it was run"):
        read_shape(path)
    assert not marker.exists()
    loaded = np.load(path, allow_pickle=True)
    if file == "a.npz":
        loaded["arr_0"]
    assert marker.exists()  # numpy itself runs it


@pytest.fixture(scope="module")
def photographed(flame: FlameHead) -> tuple[Any, np.ndarray]:
    """A person of FLAME 2020 with the jaw and expression of no ARKit unit, and landmarks by a pinhole camera."""
    shape, expression = torch.zeros(300), torch.zeros(100)
    shape[:12] = torch.tensor([0.8, -0.6, 0.5, 0.9, -0.7, 0.4, 0.3, -0.5, 1.1, 0.2, -0.9, 0.6])
    expression[:20] = 0.5 * torch.from_numpy(EXPRESSION[:20])
    person = flame.neutral().replace(shape=shape, expression=expression, jaw=torch.from_numpy(JAW))
    with torch.no_grad():
        marks = flame.landmarks.positions(flame.vertices(person), flame.faces).double().numpy()
    camera = (marks - [0.01, 0.0, 0.03]) * [1, -1, -1] + [0.0, 0.0, 0.9]
    pixels = 1500 * camera[:, :2] / camera[:, 2:] + 256
    return person, np.concatenate([pixels, 1500 / 0.9 * camera[:, 2:]], axis=1)


def test_the_camera_alone_is_fitted_to_a_known_head(flame: FlameHead, photographed: tuple[Any, np.ndarray]) -> None:
    person, points = photographed
    K = torch.tensor([[1500.0, 0, 256], [0, 1500, 256], [0, 0, 1]])
    known = KnownHead(person.shape, person.expression, person.jaw, torch.zeros(2))
    fit = fit_head(points, K, flame, known=known)
    for name in ("shape", "expression", "jaw"):
        torch.testing.assert_close(getattr(fit.params, name), getattr(person, name))
    expected = np.eye(4)
    expected[:3, :3] = np.diag([1, -1, -1])
    expected[:3, 3] = [-0.01, 0.0, 0.93]
    np.testing.assert_allclose(fit.viewmat[:3, :3], expected[:3, :3], atol=0.01)
    np.testing.assert_allclose(fit.viewmat[:3, 3], expected[:3, 3], atol=0.003)
    free = fit_head(points, K, flame)
    assert fit.residual < 0.4 * free.residual


def test_a_known_identity_leaves_the_expression_to_the_landmarks(
    flame: FlameHead, photographed: tuple[Any, np.ndarray]
) -> None:
    person, points = photographed
    fit = fit_head(points, portrait_intrinsics(points, (256.0, 256.0)), flame, known=KnownHead(person.shape))
    torch.testing.assert_close(fit.params.shape, person.shape)
    assert float(fit.arkit[coefficients({"jawOpen": 1}).bool()]) > 0.2
    with pytest.raises(PortraitError, match=r"given identity or expression .* this very photo"):
        fit_head(points, portrait_intrinsics(points, (256.0, 256.0)), flame, known=KnownHead(-9 * person.shape))


def test_files_become_what_is_known(flame: FlameHead, no_jaw: FlameHead, tmp_path: Path) -> None:
    np.save(tmp_path / "identity.npy", SHAPE)
    path = _write(tmp_path / "emoca", _deca(("shape", "exp", "pose")))
    known = read_known(PortraitConfig(shape_from=str(tmp_path / "identity.npy"), expression_from=str(path)), flame)
    assert known is not None
    np.testing.assert_array_equal(known.shape, SHAPE)
    np.testing.assert_array_equal(known.expression, _padded(EXPRESSION[:50], 100))
    np.testing.assert_array_equal(known.jaw, JAW)
    assert read_known(PortraitConfig(), load_head("canonical")) is None
    for head in (no_jaw, load_head("canonical")):
        for config in (PortraitConfig(shape_from=str(path)), PortraitConfig(expression_from=str(path))):
            with pytest.raises(HeadModelError, match=f"emoca holds coefficients of FLAME 2020.*{head.name}"):
                read_known(config, head)


@pytest.mark.slow
def test_a_photo_with_results_beside_it(flame: FlameHead, tmp_path: Path) -> None:
    """A fit that is saved as a tracker saves its result comes back as it was, and so does its camera."""
    photo = tmp_path / "photo.png"
    Image.fromarray(data.astronaut()).save(photo)
    plain = PortraitConfig(size=128, matting="mediapipe")
    fitted = load_portrait(photo, plain, flame)
    np.savez(tmp_path / "mica.npz", identity=fitted.params.shape)
    emoca = {"exp": fitted.params.expression.numpy()[None], "jawpose": fitted.params.jaw.numpy()[None]}
    _write(tmp_path / "emoca", emoca)
    given = dataclasses.replace(plain, shape_from=f"{tmp_path}/mica.npz", expression_from=f"{tmp_path}/emoca")
    again = load_portrait(photo, given, flame)
    for name in ("shape", "expression", "jaw"):
        torch.testing.assert_close(getattr(again.params, name), getattr(fitted.params, name))
    assert again.params.model == "flame-2020"
    # EMOCA's result has no lids, so that theirs are FLAME's own.
    assert again.residual < fitted.residual + 0.002
    np.testing.assert_allclose(again.viewmat[:3, :3], fitted.viewmat[:3, :3], atol=0.03)
    np.testing.assert_allclose(again.viewmat[:3, 3], fitted.viewmat[:3, 3], atol=0.02)
