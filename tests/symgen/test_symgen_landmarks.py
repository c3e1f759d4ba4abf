import numpy as np
import pytest
import torch

from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.symgen.landmarks import LandmarkCounts, project_landmarks, track_landmarks
from zero1toa.types import LandmarkTrack

SIZE = 128


@pytest.fixture(scope="module")
def head_track():
    head = load_head("canonical")
    views = orbit(torch.tensor([0.0, 30.0, 60.0, 0.0]), 0.0, torch.tensor([0.8, 0.8, 0.8, 0.02]), head.center)
    Ks = intrinsics(25.0, SIZE).expand(4, 3, 3)
    vertices = head.vertices(head.neutral(1))
    return project_landmarks(head, vertices, views, Ks, SIZE), (head, vertices, views, Ks)


def test_projection_agrees_with_the_pinhole_formula(head_track):
    track, (head, vertices, views, Ks) = head_track
    faces, embedding = head.faces.numpy(), head.landmarks
    corners = vertices[0].double().numpy()[faces[embedding.triangles.numpy()]]
    world = (corners * embedding.barycentric.double().numpy()[..., None]).sum(1)
    for frame in range(3):
        view, K = views[frame].double().numpy(), Ks[frame].double().numpy()
        camera = world @ view[:3, :3].T + view[:3, 3]
        expected = camera[:, :2] / camera[:, 2:] * K[0, 0] / SIZE + 0.5
        np.testing.assert_allclose(track.points[frame], expected, atol=1e-5)
    assert track.projected.all()
    assert track.valid.tolist() == [True, True, True, False]  # the last camera stands inside the head


def found(track, shift, valid):
    return LandmarkTrack((track.points + shift).astype(np.float32), np.array(valid), np.zeros(4, bool))


def test_detection_counts_where_it_is_near_the_head(head_track):
    track, _ = head_track
    height = np.linalg.norm(track.points[0, 10] - track.points[0, 152])
    shift = np.array([0.02, 0.5, 0.02, 0.0])[:, None, None] * height  # near, far, near, anything
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    joined = track_landmarks(pictures, track, lambda f: found(track, shift, [True, True, False, False]))
    assert joined.projected.tolist() == [False, True, True, True]
    assert joined.valid.tolist() == [True, True, True, False]
    np.testing.assert_allclose(joined.points[0], track.points[0] + shift[0], atol=1e-6)
    np.testing.assert_array_equal(joined.points[1:], track.points[1:])
    counts = LandmarkCounts()
    counts.add(joined)
    assert counts.shares() == {"detected": 0.25, "projected": 0.5, "missing": 0.25}


def test_without_a_detector_the_head_stands_in(head_track):
    track, _ = head_track
    assert track_landmarks(np.zeros((4, 8, 8, 3), np.uint8), track, None) is track
    assert LandmarkCounts().shares() == {"detected": 0.0, "projected": 0.0, "missing": 0.0}
