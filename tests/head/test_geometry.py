"""The head as a solid: no folded skin, closed lids, nothing of the inside visible, human proportions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.preview import render

IDENTITIES = 24


def identities(head: CanonicalHead, count: int = IDENTITIES, seed: int = 0) -> torch.Tensor:
    """Random people, no coefficient beyond two standard deviations."""
    return torch.randn(count, head.n_shape, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)


def areas(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    a, b, c = vertices[..., faces, :].unbind(-2)
    return torch.linalg.cross(b - a, c - a)


def skin(head: CanonicalHead) -> torch.Tensor:
    """Outer skin without the lids' inner rims, which slide over the eyeball and may turn."""
    rims = torch.isin(head.faces, head._skirts.flatten()).any(1)
    return (head.regions["face"] | head.regions["scalp"] | head.regions["neck"]) & ~rims


def test_proportions_are_human(head: CanonicalHead) -> None:
    marks = 1000 * head.landmarks.positions(head.template, head.faces).numpy()

    def span(a: int, b: int) -> float:
        return float(np.linalg.norm(marks[a] - marks[b]))

    # Adult means of anthropometric surveys, both sexes, with about two standard deviations.
    assert span(468, 473) == pytest.approx(63, abs=0.1)
    assert 150 < span(10, 152) < 175
    assert 128 < span(234, 454) < 152
    assert 95 < span(172, 397) < 125
    assert 26 < span(33, 133) < 33
    assert 42 < span(61, 291) < 56
    assert 31 < span(129, 358) < 46
    box = 1000 * (head.template.max(0).values - head.template.min(0).values)
    assert 145 < 2000 * float(head.template[head.faces[head.regions["scalp"]].unique(), 0].max()) < 165
    assert 290 < float(box[1]) < 330
    length = head.template[head.faces[head.regions["scalp"]].unique(), 2].min() - head.template[151, 2]
    assert 175 < -1000 * float(length) < 205


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n != "mouthClose"])
def test_no_shape_folds_the_skin(head: CanonicalHead, name: str) -> None:
    _assert_unfolded(head, {name: 1.0})


def test_closing_the_mouth_of_an_open_jaw_does_not_fold_the_skin(head: CanonicalHead) -> None:
    _assert_unfolded(head, {"mouthClose": 1.0, "jawOpen": 1.0})


def _assert_unfolded(head: CanonicalHead, values: dict[str, float]) -> None:
    faces = head.faces[skin(head)]
    before = areas(head.vertices(head.neutral()), faces)
    after = areas(head.vertices(head.arkit(coefficients(values), head.neutral())), faces)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    assert int((cosine <= 0).sum()) == 0
    assert float((after.norm(dim=-1) / before.norm(dim=-1)).min()) > 0.02


def test_no_identity_warp_folds_the_skin(head: CanonicalHead) -> None:
    faces = head.faces[skin(head)]
    shape = torch.cat([2 * torch.eye(head.n_shape), -2 * torch.eye(head.n_shape)])
    before = areas(head.vertices(head.neutral()), faces)
    for row in shape:
        after = areas(head.vertices(head.neutral().replace(shape=row)), faces)
        assert bool((torch.nn.functional.cosine_similarity(before, after, dim=-1) > 0).all())


def test_random_people_are_unfolded(head: CanonicalHead) -> None:
    faces = head.faces[skin(head)]
    before = areas(head.vertices(head.neutral()), faces)
    after = areas(head.vertices(head.neutral(IDENTITIES).replace(shape=identities(head, seed=3))), faces)
    assert bool((torch.nn.functional.cosine_similarity(before, after, dim=-1) > 0).all())


def test_random_mixes_of_shapes_hardly_fold(head: CanonicalHead) -> None:
    faces = head.faces[skin(head)]
    before = areas(head.vertices(head.neutral()), faces)
    generator = torch.Generator().manual_seed(0)
    usable = torch.tensor([i for i, name in enumerate(ARKIT_NAMES) if name != "mouthClose"])
    for _ in range(40):
        chosen = usable[torch.randperm(len(usable), generator=generator)[:5]]
        mix = torch.zeros(len(ARKIT_NAMES))
        mix[chosen] = torch.rand(5, generator=generator)
        after = areas(head.vertices(head.arkit(mix, head.neutral())), faces)
        assert int((torch.nn.functional.cosine_similarity(before, after, dim=-1) <= 0).sum()) <= 4


def test_the_grown_skin_continues_the_measured_face(head: CanonicalHead) -> None:
    """The crease along the face's rim, as the angle between the faces on its two sides."""
    outer = torch.nonzero(skin(head)).flatten()
    faces, measured = head.faces[outer], head.regions["measured"][outer]
    normals = torch.nn.functional.normalize(areas(head.template, faces), dim=-1)
    corners = torch.stack([faces, faces.roll(-1, 1)], dim=-1).sort(-1).values
    edges, owner = torch.unique(corners.flatten(0, 1), dim=0, return_inverse=True)
    index = torch.arange(len(faces)).repeat_interleave(3)
    inside, outside = torch.full((2, len(edges)), -1)
    inside[owner[measured[index]]] = index[measured[index]]
    outside[owner[~measured[index]]] = index[~measured[index]]
    rim = (inside >= 0) & (outside >= 0)
    assert int(rim.sum()) == 72
    cosine = (normals[inside[rim]] * normals[outside[rim]]).sum(-1).clamp(-1, 1)
    crease = torch.rad2deg(cosine.arccos())
    assert float(crease.mean()) < 6
    assert float(crease.max()) < 15


def test_closed_lids_meet_on_every_person(head: CanonicalHead) -> None:
    closed = head.neutral(IDENTITIES).replace(shape=identities(head), lids=torch.ones(IDENTITIES, 2))
    vertices = head.rest(closed)
    edges = vertices[:, head._lid_edges]
    upper, lower = edges[..., :15, :], edges[..., 15:, :]
    assert float((upper - lower).norm(dim=-1).max()) < 1e-6


def test_skin_beside_the_lashes_moves_as_a_plate(head: CanonicalHead) -> None:
    """What is painted within the lashes' width of a margin is as wide on a closed lid as on an open one."""
    open_lids, closed = (head.vertices(head.neutral().replace(lids=torch.full((2,), c))) for c in (0.0, 1.0))
    for side, name in enumerate(("lids_left", "lids_right")):
        margin = head._lid_edges[side]
        skirt = torch.isin(head.faces, head._skirts.flatten()).any(1)
        faces = head.faces[head.regions[name] & ~skirt]
        pairs = torch.cat([faces[:, [i, (i + 1) % 3]] for i in range(3)])
        one_end = torch.isin(pairs, margin[2:13]).sum(1) == 1
        ring = pairs[one_end & ~torch.isin(pairs, margin).all(1)]
        before, after = ((v[ring[:, 0]] - v[ring[:, 1]]).norm(dim=-1) for v in (open_lids, closed))
        assert len(ring) > 20
        assert 0.8 < float((after / before).median()) < 1.25
        assert float((after / before).quantile(0.9)) < 1.6


@pytest.mark.parametrize("closure", [0.0, 0.5, 1.0])
def test_lid_skin_stays_out_of_the_eyeball(head: CanonicalHead, closure: float) -> None:
    params = head.neutral(IDENTITIES).replace(shape=identities(head, seed=1), lids=torch.full((IDENTITIES, 2), closure))
    vertices = head.rest(params)
    for side, eye in enumerate(("eye_left", "eye_right")):
        ball = vertices[:, head.faces[head.regions[eye]].unique()]
        centre = 0.5 * (ball.amin(1) + ball.amax(1))
        lid = vertices[:, head._lid_vertices[side]]
        assert float((lid - centre[:, None]).norm(dim=-1).min()) > head.eye_radius


def test_closed_lids_hide_the_eyeball(head: CanonicalHead) -> None:
    eyes = np.flatnonzero((head.regions["eye_left"] | head.regions["eye_right"]).numpy())
    for shape in identities(head, 6, seed=2):
        vertices = head.vertices(head.neutral().replace(shape=shape, lids=torch.ones(2))).numpy()
        for azimuth in (-50, 0, 50):
            picture = render(vertices, head.faces.numpy(), azimuth=azimuth, elevation=5, size=360)
            assert not np.isin(picture.face, eyes).any()


@pytest.mark.parametrize(
    "values",
    [{}, {"jawOpen": 1.0}, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, {"mouthSmileLeft": 1.0, "eyeWideRight": 1.0}],
)
def test_the_inside_is_never_visible(head: CanonicalHead, values: dict[str, float]) -> None:
    vertices = head.vertices(head.arkit(coefficients(values), head.neutral())).numpy()
    for elevation in (-80, -50, -20, 0, 20, 50, 80):
        for azimuth in range(-180, 180, 30):
            picture = render(vertices, head.faces.numpy(), azimuth=azimuth, elevation=elevation, size=220)
            assert int(picture.back.sum()) == 0, (azimuth, elevation)


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n != "mouthClose"])
def test_the_mouths_inside_stays_inside(head: CanonicalHead, name: str) -> None:
    """Teeth and lining may be seen between the lips only, never through chin or cheek."""
    vertices = head.vertices(head.arkit(coefficients({name: 1.0}), head.neutral()))
    inner = np.flatnonzero((head.regions["mouth"] | head.regions["teeth"]).numpy())
    lips = head.faces[head.regions["lips"]].unique()
    for azimuth in (-40, 0, 40):
        picture = render(vertices.numpy(), head.faces.numpy(), azimuth=azimuth, size=300)
        rows, columns = np.nonzero(np.isin(picture.face, inner))
        if name == "tongueOut" or not len(rows):
            continue
        box = picture.points[lips.numpy()]
        assert rows.min() > box[:, 1].min()
        assert rows.max() < box[:, 1].max()
        assert columns.min() > box[:, 0].min()
        assert columns.max() < box[:, 0].max()
