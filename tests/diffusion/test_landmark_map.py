from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from zero1toa.diffusion.landmark_map import CONTOURS, draw_control, draw_landmarks
from zero1toa.types import LandmarkTrack


def _edges(name: str) -> set[frozenset[int]]:
    return {frozenset(pair) for chain in CONTOURS[name][1] for pair in itertools.pairwise(chain)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("oval", "FACEMESH_FACE_OVAL"),
        ("left_eye", "FACEMESH_LEFT_EYE"),
        ("right_eye", "FACEMESH_RIGHT_EYE"),
        ("left_brow", "FACEMESH_LEFT_EYEBROW"),
        ("right_brow", "FACEMESH_RIGHT_EYEBROW"),
        ("left_iris", "FACEMESH_LEFT_IRIS"),
        ("right_iris", "FACEMESH_RIGHT_IRIS"),
        ("nose", "FACEMESH_NOSE"),
    ],
)
def test_contours_are_mediapipes(ours: str, theirs: str) -> None:
    connections = pytest.importorskip("mediapipe.python.solutions.face_mesh_connections")
    assert _edges(ours) == {frozenset(pair) for pair in getattr(connections, theirs)}


def test_lip_contours_are_mediapipes() -> None:
    connections = pytest.importorskip("mediapipe.python.solutions.face_mesh_connections")
    lips = {frozenset(pair) for pair in connections.FACEMESH_LIPS}
    assert _edges("outer_lips") | _edges("inner_lips") == lips
    assert not _edges("outer_lips") & _edges("inner_lips")


def _reference(points: np.ndarray, size: int, samples: int) -> np.ndarray:
    """The definition, dot by dot in float64: each dot leaves its bilinear weights, each pixel keeps the largest."""
    picture = np.zeros((size, size, 3))
    for color, chains in CONTOURS.values():
        for chain in chains:
            for first, second in itertools.pairwise(chain):
                for t in np.linspace(0, 1, samples):
                    x, y = (points[first] * (1 - t) + points[second] * t) * size - 0.5
                    for row, column in itertools.product(
                        (np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)
                    ):
                        if 0 <= row < size and 0 <= column < size:
                            weight = (1 - abs(x - column)) * (1 - abs(y - row))
                            pixel = picture[int(row), int(column)]
                            np.maximum(pixel, weight * np.asarray(color), out=pixel)
    return picture


def test_drawing_equals_its_definition_also_across_the_border() -> None:
    points = np.random.default_rng(0).uniform(0.3, 0.5, (478, 2))
    points[152] = (0.4, 1.02)
    points[10] = (-0.03, 0.4)
    drawn = draw_landmarks(torch.from_numpy(points)[None].float(), 32)[0].numpy()
    expected = _reference(points, 32, 5)
    assert np.abs(drawn - expected).max() <= 0.51


def test_invalid_frames_and_wild_points_draw_nothing() -> None:
    points = np.full((3, 478, 2), 0.5, np.float32)
    points[1] = np.nan
    points[2] = 1e6
    track = LandmarkTrack(points, np.array([False, True, True]), np.zeros(3, bool))
    assert not draw_control(track, 32).any()
    with pytest.raises(ValueError, match="478"):
        draw_landmarks(torch.zeros(1, 468, 2), 32)


def test_half_closed_lids_look_different_from_open_ones() -> None:
    """The lids' distance shows although it changes by less than a pixel."""
    points = torch.full((2, 478, 2), 0.5)
    upper = list(CONTOURS["left_eye"][1][1])
    points[:, upper, 0] = torch.linspace(0.4, 0.6, len(upper))
    points[0, upper, 1] -= 0.4 / 128
    points[1, upper, 1] -= 0.9 / 128
    first, second = draw_landmarks(points, 128).int()
    assert (first - second).abs().max() > 60


@pytest.mark.gpu
def test_cuda_draws_the_same() -> None:
    points = torch.rand(4, 478, 2, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    on_gpu = draw_landmarks(points.cuda(), 128).cpu().int()
    assert (on_gpu - draw_landmarks(points, 128).int()).abs().max() <= 1
