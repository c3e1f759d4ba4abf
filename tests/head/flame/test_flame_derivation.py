"""What is derived from a FLAME-shaped mesh, against what its construction knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flame_like import EYE, SKIN, FlameLike

from zero1toa.errors import HeadModelError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES, coefficients
from zero1toa.head.flame.anatomy import examine
from zero1toa.head.flame.mesh import nearest_on_mesh
from zero1toa.head.flame.model import FlameHead
from zero1toa.head.preview import render
from zero1toa.head.sculpt.topology import boundary_loops


def test_nearest_place_on_a_mesh_equals_a_dense_search() -> None:
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(12, 3))
    faces = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
    points = 2 * rng.normal(size=(40, 3))
    face, weights = nearest_on_mesh(points, vertices, faces)
    found = np.linalg.norm((vertices[faces[face]] * weights[..., None]).sum(1) - points, axis=1)
    s, t = np.meshgrid(np.linspace(0, 1, 150), np.linspace(0, 1, 150))
    grid = np.stack([1 - s - t, s, t], -1)[s + t <= 1]
    dense = np.linalg.norm((grid @ vertices[faces]).reshape(-1, 3)[:, None] - points, axis=-1).min(0)
    assert (weights >= -1e-12).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (found <= dense + 1e-9).all()
    np.testing.assert_allclose(found, dense, atol=0.02)


def test_regions_are_disjoint_and_cover_the_head(flame: FlameHead) -> None:
    region = flame.regions
    top = [region[n] for n in ("face", "eye_left", "eye_right", "mouth", "teeth", "ears", "scalp", "neck")]
    assert bool((torch.stack(top).sum(0) == 1).all())
    for inner, outer in (
        ("lips", "face"), ("lids_left", "face"), ("lids_right", "face"), ("iris_left", "eye_left"),
        ("iris_right", "eye_right"), ("tongue", "mouth"),
    ):  # fmt: skip
        assert bool(region[inner].any())
        assert bool((region[outer] | ~region[inner]).all())
    assert not bool((region["lips"] & (region["lids_left"] | region["lids_right"])).any())


def test_regions_lie_where_the_construction_says(flame: FlameHead, flame_like: FlameLike) -> None:
    faces, rest = flame.faces, flame.template
    for name, first in (("eye_left", SKIN), ("eye_right", SKIN + EYE)):
        assert set(faces[flame.regions[name]].unique().tolist()) == set(range(first, first + EYE))
    middle = rest[faces].mean(1)
    for side, sign, centre in (("left", 1, flame_like.eye_centres[0]), ("right", -1, flame_like.eye_centres[1])):
        assert bool((sign * middle[flame.regions[f"lids_{side}"], 0] > 0.008).all())
        iris = middle[flame.regions[f"iris_{side}"]] - torch.from_numpy(centre).float()
        assert float(iris[:, :2].norm(dim=-1).max()) < 0.0065
        assert float(iris[:, 2].min()) > 0
    truth = flame_like.ears
    ours = np.zeros(SKIN, bool)
    ears = faces[flame.regions["ears"]].unique().numpy()
    ours[ears[ears < SKIN]] = True
    assert (ours & truth).sum() / truth.sum() > 0.8
    height = lambda name: float(middle[flame.regions[name], 1].mean())  # noqa: E731
    assert height("scalp") > height("lids_left") > height("lips") > height("neck")
    lips = middle[flame.regions["lips"]]
    mouth = torch.from_numpy(flame_like.landmarks[[61, 291, 0, 17]]).float()
    assert float(lips[:, 0].min()) > float(mouth[0, 0]) - 0.004
    assert float(lips[:, 0].max()) < float(mouth[1, 0]) + 0.004
    assert float(lips[:, 1].max()) < float(mouth[2, 1]) + 0.004
    assert float(lips[:, 1].min()) > float(mouth[3, 1]) - 0.004


def test_landmarks_lie_on_the_true_ones(flame: FlameHead, flame_like: FlameLike) -> None:
    """The registration knows the mesh only: 0.4 mm mean and 2.4 mm at most were measured, of a face 160 mm high."""
    marks = flame.landmarks.positions(flame.template, flame.faces).numpy()
    error = np.linalg.norm(marks[:468] - flame_like.landmarks, axis=1)
    assert error.mean() < 0.0007
    assert error.max() < 0.004
    for first, centre in ((468, flame_like.eye_centres[1]), (473, flame_like.eye_centres[0])):
        np.testing.assert_allclose(marks[first], centre + np.array([0, 0, flame_like.eye_radius]), atol=2e-4)
        around = marks[first + 1 : first + 5] - marks[first]
        for move, direction in zip(around, ([1, 0], [0, 1], [-1, 0], [0, -1]), strict=True):
            np.testing.assert_allclose(move[:2] / 0.00585, direction, atol=0.06)


def test_the_mouth_is_closed_behind_the_lips(flame: FlameHead) -> None:
    """Skin and cavity together are open at the neck only, so nobody looks through the mouth into the head."""
    region = flame.regions
    eyes = region["eye_left"] | region["eye_right"]
    faces = flame.faces[~eyes & ~region["teeth"] & ~region["tongue"] & ~region["ears"]].numpy()
    loops = boundary_loops(faces)
    assert len(loops) == 1
    assert float(flame.template[loops[0], 1].max()) < float(flame.template[flame.faces[region["lips"]], 1].min())
    opened = flame.vertices(flame.arkit(coefficients({"jawOpen": 1.0}), flame.neutral())).numpy()
    for azimuth, elevation in ((0, 0), (20, 10), (-20, -10)):
        picture = render(opened, flame.faces.numpy(), azimuth=azimuth, elevation=elevation,
                         center=opened[flame.faces[region["lips"]].flatten()].mean(0), extent=0.05)  # fmt: skip
        assert not picture.back[100:400, 100:400].any()
        shown = np.unique(picture.face[picture.face >= 0])
        assert bool(region["teeth"][shown].any())


def test_ears_are_patches_that_stay_on_the_skin(flame: FlameHead) -> None:
    """Hair lifts the skin under an ear without pulling the ear; unlifted, no seam shows for any shape or pose."""
    ears = flame.regions["ears"]
    on_ears, on_skin = flame.faces[ears].unique(), flame.faces[~ears].unique()
    assert not np.intersect1d(on_ears, on_skin).size
    generator = torch.Generator().manual_seed(0)
    params = flame.neutral().replace(
        shape=torch.randn(300, generator=generator), expression=torch.randn(100, generator=generator),
        neck=torch.tensor([0.2, 0.4, 0.1]),
    )  # fmt: skip
    posed = flame.vertices(params)
    outline = on_ears[on_ears >= flame.n_flame]
    assert len(outline) > 20
    at_rest = torch.cdist(flame.template[outline].double(), flame.template[on_skin].double()).min(1)
    assert float(at_rest.values.max()) < 1e-6
    gap = (posed[outline] - posed[on_skin[at_rest.indices]]).norm(dim=-1)
    assert float(gap.max()) < 1e-5


def test_a_closed_mouth_hides_teeth(flame: FlameHead) -> None:
    rest = flame.template.numpy()
    picture = render(rest, flame.faces.numpy(), center=rest[flame.faces[flame.regions["lips"]].flatten()].mean(0),
                     extent=0.06, size=512)  # fmt: skip
    shown = picture.face[picture.face >= 0]
    assert int(flame.regions["teeth"][shown].sum()) < 20


def _eyeball_pixels(head: FlameHead, vertices: np.ndarray, azimuth: float) -> int:
    eyes = (head.regions["eye_left"] | head.regions["eye_right"]).numpy()
    centre = vertices[head.faces[torch.from_numpy(eyes)].flatten().numpy()].mean(0)
    picture = render(vertices, head.faces.numpy(), azimuth=azimuth, center=centre, extent=0.11, size=900)
    return int(eyes[picture.face[picture.face >= 0]].sum())


@pytest.mark.parametrize("seed", range(4))
def test_closed_lids_leave_no_gap(flame: FlameHead, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (0.0 if seed == 0 else 0.6) * torch.randn(300, generator=generator)
    person = flame.neutral().replace(shape=shape)
    closed = flame.vertices(person.replace(lids=torch.ones(2))).numpy()
    for azimuth in (-25, 0, 25):
        opened = _eyeball_pixels(flame, flame.vertices(person).numpy(), azimuth)
        assert opened > 3000
        assert _eyeball_pixels(flame, closed, azimuth) < 0.004 * opened


@pytest.mark.parametrize("seed", range(4))
def test_lids_never_enter_the_eyeball(flame: FlameHead, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    person = flame.neutral().replace(shape=torch.randn(300, generator=generator))
    before = flame.vertices(person)
    for closure in (0.25, 0.5, 0.75, 1.0):
        now = flame.vertices(person.replace(lids=torch.full((2,), closure)))
        for side in range(2):
            ball = slice(SKIN + side * EYE, SKIN + (side + 1) * EYE)
            centre = before[ball].mean(0)
            radius = float((before[ball] - centre).norm(dim=-1).max())
            moved = ((now - before).norm(dim=-1) > 1e-5)[:SKIN]
            rest, there = ((v[:SKIN][moved] - centre).norm(dim=-1) for v in (before, now))
            outside = rest > radius + 1e-5
            assert int(outside.sum()) > 30
            assert float(there[outside].min()) > radius - 1e-5


def test_a_left_wink_closes_only_the_left_eye(flame: FlameHead) -> None:
    wink = flame.vertices(flame.arkit(coefficients({"eyeBlinkLeft": 1}), flame.neutral()))
    change = (wink - flame.vertices(flame.neutral())).norm(dim=-1)
    assert float(flame.template[change > 1e-6, 0].min()) > 0
    assert float(change.max()) > 0.005


def _moved(head: FlameHead, **values: float) -> torch.Tensor:
    """Motion of the landmarks in millimetres."""
    neutral = head.neutral()
    marks = [
        head.landmarks.positions(head.vertices(p), head.faces)
        for p in (head.arkit(coefficients(values), neutral), neutral)
    ]
    return 1000 * (marks[0] - marks[1])


@pytest.mark.parametrize("edition", ["flame", "no_jaw"])
def test_arkit_units_do_what_their_names_say(edition: str, request: pytest.FixtureRequest) -> None:
    head: FlameHead = request.getfixturevalue(edition)
    opened = _moved(head, jawOpen=1)
    assert opened[152, 1] < -15  # the chin drops
    assert opened[13, 1] - opened[14, 1] > 15  # the lips part
    assert abs(opened[1]).max() < 1.5  # the nose stays
    for side, corner, other, outwards in (("Left", 291, 61, 1), ("Right", 61, 291, -1)):
        smile = _moved(head, **{f"mouthSmile{side}": 1})
        assert smile[corner, 1] > 3
        assert outwards * smile[corner, 0] > 1
        assert smile[other].norm() < 1
    both = _moved(head, mouthSmileLeft=1, mouthSmileRight=1)
    assert both[291, 0] - both[61, 0] > 3  # widens
    assert _moved(head, mouthPucker=1)[61, 0] > 3
    assert _moved(head, mouthFrownLeft=1)[291, 1] < -2
    assert _moved(head, browInnerUp=1)[107, 1] > 3
    assert _moved(head, browDownLeft=1)[336, 1] < -2
    assert _moved(head, browOuterUpRight=1)[105, 1] > 3
    assert _moved(head, noseSneerLeft=1)[278].norm() > 0.7
    assert _moved(head, jawLeft=1)[152, 0] > 3
    assert _moved(head, mouthLeft=1)[13, 0] > 3
    wide = _moved(head, eyeWideLeft=1)
    assert wide[386, 1] > 0.5
    assert _moved(head, eyeLookOutLeft=1)[473, 0] > 4
    assert _moved(head, eyeLookOutRight=1)[468, 0] < -4
    assert _moved(head, eyeLookUpLeft=1)[473, 1] > 3
    assert _moved(head, eyeLookDownRight=1)[468, 1] < -3
    blink = _moved(head, eyeBlinkRight=1)
    assert blink[159, 1] < -3
    assert blink[386].norm() < 1e-3


def test_lips_meet_over_an_open_jaw(flame: FlameHead) -> None:
    """``mouthClose`` undoes what a full ``jawOpen`` does to the lips."""
    gap = lambda move: float((move[13] - move[14]).norm())  # noqa: E731
    assert gap(_moved(flame, jawOpen=1, mouthClose=1)) < 0.15 * gap(_moved(flame, jawOpen=1))


def test_units_are_small_and_the_52_add_up(flame: FlameHead) -> None:
    for name in ARKIT_NAMES:
        unit = flame.arkit(coefficients({name: 1.0}), flame.neutral())
        assert float(unit.expression.abs().max()) <= 3.0 + 1e-5, name
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.random(52)).float()
    whole = flame.arkit(weights, flame.neutral())
    parts = flame.arkit(torch.diag(weights), flame.neutral(52))
    torch.testing.assert_close(whole.expression, parts.expression.sum(0))
    torch.testing.assert_close(whole.jaw, parts.jaw.sum(0))


def test_the_jaw_moves_by_what_the_edition_has(flame: FlameHead, no_jaw: FlameHead) -> None:
    unit = coefficients({"jawOpen": 1.0})
    with_joint, without = flame.arkit(unit, flame.neutral()), no_jaw.arkit(unit, no_jaw.neutral())
    assert float(with_joint.jaw[0]) > 0.2
    assert float(with_joint.expression.abs().max()) == 0
    assert float(without.jaw.abs().max()) == 0
    assert float(without.expression.abs().max()) > 0.2
    for head, params in ((flame, with_joint), (no_jaw, without)):
        teeth = head.faces[head.regions["teeth"]].unique()
        move = (head.vertices(params) - head.vertices(head.neutral()))[teeth]
        upper = head.template[teeth, 1] > head.template[teeth, 1].mean()
        assert float(move[upper].norm(dim=-1).max()) < 0.003
        assert float(move[~upper, 1].mean()) < -0.008  # lower teeth go with the chin, in both editions


def test_teeth_stay_rigid(flame: FlameHead, no_jaw: FlameHead) -> None:
    for head in (flame, no_jaw):
        rest = head.vertices(head.neutral())
        posed = head.vertices(head.arkit(coefficients({"jawOpen": 1, "mouthSmileLeft": 1}), head.neutral()))
        triangles = head.faces[head.regions["teeth"]]
        sides = [(v[triangles] - v[triangles].roll(1, 1)).norm(dim=-1) for v in (rest, posed)]
        assert float((sides[1] / sides[0] - 1).abs().max()) < 0.12


def test_expression_follows_the_bases_of_each_file(flame: FlameHead, no_jaw: FlameHead) -> None:
    """Two bases need different coefficients for one unit: nothing of one edition is used for another."""
    row = ARKIT_INDEX["mouthSmileLeft"]
    unit = torch.eye(52)[row]
    a, b = (head.arkit(unit, head.neutral()).expression for head in (flame, no_jaw))
    assert float(torch.cosine_similarity(a, b, dim=0).abs()) < 0.9


def test_lids_may_end_at_a_boundary(flame_like: FlameLike) -> None:
    """Without the sockets' skin the margins are the same vertices: then they are boundaries of the mesh."""
    points, faces = flame_like.entries["v_template"], flame_like.entries["f"].astype(np.int64)
    closed = examine(points, faces)
    opened = examine(points, faces[~closed.eyes[0].socket & ~closed.eyes[1].socket])
    for a, b in zip(closed.eyes, opened.eyes, strict=True):
        assert not b.socket.any()
        for edge in ("upper", "lower"):
            assert set(getattr(a.margin, edge)) == set(getattr(b.margin, edge))


def test_a_mesh_without_eyeballs_or_mouth_is_refused(flame_like: FlameLike) -> None:
    points = flame_like.entries["v_template"]
    faces = flame_like.entries["f"].astype(np.int64)
    with pytest.raises(HeadModelError, match="two eyeballs"):
        examine(points, faces[(faces < SKIN + EYE).all(1)])
    loop = min(boundary_loops(faces), key=len)
    closed = np.concatenate([points, points[loop].mean(0, keepdims=True)])
    fan = [(loop[(i + 1) % len(loop)], loop[i], len(points)) for i in range(len(loop))]
    with pytest.raises(HeadModelError, match="behind the lips"):
        examine(closed, np.concatenate([faces, fan]))
