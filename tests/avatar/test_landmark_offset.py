"""A head is laid on landmarks that another identity, or a deeper chin, has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from drawn_portrait import SIZE, portrait

from zero1toa.avatar.landmark_offset import lay_on_landmarks
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project
from zero1toa.types import Portrait

DISTANCE = 1.0


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("canonical")


def _portrait(head: HeadModel, moved: np.ndarray, params: HeadParams | None = None, yaw: float = 0.0) -> Portrait:
    """A portrait of one colour whose landmarks lie ``moved`` ``[478, 3]`` metres from the head's."""
    params = params or head.neutral()
    viewmat, K = orbit(-yaw, 0.0, DISTANCE, head.center), intrinsics(20.0, SIZE)
    drawn = portrait(head, np.ones((SIZE, SIZE)), skin=np.ones((SIZE, SIZE), bool))
    points = head.landmarks.positions(head.vertices(params), head.faces) + torch.from_numpy(moved).float()
    return dataclasses.replace(
        drawn,
        landmarks=project(points, viewmat, K)[0].numpy(),
        viewmat=viewmat.numpy(),
        K=K.numpy(),
        params=params,
        yaw=yaw,
    )


def _gap(head: HeadModel, drawn: Portrait, params: HeadParams) -> np.ndarray:
    points = head.landmarks.positions(head.vertices(params), head.faces)
    seen = project(points, torch.from_numpy(drawn.viewmat), torch.from_numpy(drawn.K))[0].numpy()
    return np.linalg.norm(seen - drawn.landmarks, axis=1)


def _wave(head: HeadModel) -> np.ndarray:
    """A smooth movement of 3 mm across the face, nothing in depth ``[478, 3]``."""
    points = head.landmarks.positions(head.vertices(head.neutral()), head.faces).double().numpy()
    return 0.003 * np.stack([np.sin(points[:, 1] / 0.03), np.cos(points[:, 0] / 0.04), 0 * points[:, 0]], 1)


@pytest.mark.parametrize("jaw", [0.0, 0.2])
def test_landmarks_are_reached(head: HeadModel, jaw: float) -> None:
    """Also with an open mouth, whose jaw turns what the picture shows."""
    params = head.neutral().replace(jaw=torch.tensor([jaw, 0.0, 0.0]))
    drawn = _portrait(head, _wave(head), params)
    before = _gap(head, drawn, params)
    found = lay_on_landmarks(head, drawn)
    after = _gap(head, drawn, found)
    assert after.mean() < 0.3 * before.mean()
    assert found.offset is not None
    assert float(found.offset.norm(dim=-1).max()) < 0.006


def test_landmarks_that_fit_move_nothing(head: HeadModel) -> None:
    found = lay_on_landmarks(head, _portrait(head, np.zeros((478, 3))))
    assert found.offset is not None
    assert float(found.offset.norm(dim=-1).max()) < 1e-5


def test_eyes_and_their_lids_move_as_wholes(head: HeadModel) -> None:
    found = lay_on_landmarks(head, _portrait(head, _wave(head)))
    assert found.offset is not None
    for side in ("left", "right"):
        ball = torch.unique(head.faces[head.regions[f"eye_{side}"]])
        lid = torch.unique(head.faces[head.regions[f"lids_{side}"]])
        along = found.offset[ball].mean(0)
        assert float((found.offset[ball] - along).norm(dim=-1).max()) < 1e-6
        assert float((found.offset[lid] - along).norm(dim=-1).max()) < 5e-4
        assert float(along.norm()) > 1e-3


def test_what_no_landmark_reaches_stays(head: HeadModel) -> None:
    found = lay_on_landmarks(head, _portrait(head, _wave(head)))
    assert found.offset is not None
    rest = head.vertices(head.neutral())
    back = rest[:, 2] < head.center[2] - 0.06
    assert float(found.offset[back].norm(dim=-1).max()) < 1e-3


def test_the_far_side_of_a_turned_face_is_not_believed(head: HeadModel) -> None:
    points = head.landmarks.positions(head.vertices(head.neutral()), head.faces).double().numpy()
    away = np.where(points[:, :1] > 0.03, 0.005, 0.0) * np.array([0.0, 1.0, 0.0])
    found = [lay_on_landmarks(head, _portrait(head, away, yaw=yaw)).offset for yaw in (0.0, 40.0)]
    assert found[0] is not None
    assert found[1] is not None
    assert float(found[1].norm(dim=-1).max()) < 0.3 * float(found[0].norm(dim=-1).max())


def test_an_offset_that_is_there_is_kept(head: HeadModel) -> None:
    offset = torch.zeros(head.n_vertices, 3)
    offset[:, 0] = 0.002
    params = head.neutral().replace(offset=offset)
    found = lay_on_landmarks(head, _portrait(head, np.zeros((478, 3)), params))
    assert found.offset is not None
    torch.testing.assert_close(found.offset, offset, atol=1e-5, rtol=0)


def test_a_chin_deeper_than_the_pictures_is_drawn_in(head: HeadModel) -> None:
    """The picture's jaw ends at the landmarks; the mesh, which has its under-chin below them, is lifted to there."""
    drawn = _portrait(head, np.zeros((478, 3)))
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    jaw = drawn.landmarks[[234, 454, 152]]
    middle, wide = (jaw[0] + jaw[1]) / 2, np.linalg.norm(jaw[1] - jaw[0]) / 2
    chin = ((x - middle[0]) / wide) ** 2 + ((y - middle[1]) / (jaw[2, 1] - middle[1])) ** 2 <= 1
    image = drawn.image.copy()
    image[..., :3] = np.where((chin | (y < middle[1]))[..., None], (220, 180, 160), (40, 30, 30))
    drawn = dataclasses.replace(drawn, image=image)
    found = lay_on_landmarks(head, drawn)

    def lowest(params: HeadParams) -> float:
        ids = torch.unique(head.faces[head.regions["face"]])
        pixels = project(head.vertices(params)[ids], torch.from_numpy(drawn.viewmat), torch.from_numpy(drawn.K))[0]
        return float(pixels[:, 1].max())

    before, after = lowest(drawn.params), lowest(found)
    assert before - jaw[2, 1] > 2.0
    assert after - jaw[2, 1] < 0.4 * (before - jaw[2, 1])
