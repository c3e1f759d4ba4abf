"""The evaluated head against independent formulas: skinning, gradients, broadcasting, the ARKit map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from zero1toa.errors import HeadModelError
from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.jointed import PARENTS
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.head.registry import head_names, load_head
from zero1toa.head.skinning import rotation_matrix

REGIONS = (
    "face", "lips", "lids_left", "lids_right", "eye_left", "eye_right", "iris_left", "iris_right", "mouth", "teeth",
    "ears", "scalp", "neck",
)  # fmt: skip


def random_params(head: CanonicalHead, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=dtype)

    return HeadParams(
        shape=0.8 * draw(head.n_shape),
        expression=0.3 * draw(head.n_expression).abs(),
        jaw=0.1 * draw(3),
        neck=0.3 * draw(3),
        eyes=0.2 * draw(2, 3),
        lids=torch.rand(*batch, 2, generator=generator, dtype=dtype) * 0.9 + 0.05,
    )


def test_follows_the_protocol(head: CanonicalHead) -> None:
    assert isinstance(load_head("canonical"), HeadModel)
    assert head.joints == ("root", "neck", "jaw", "left_eye", "right_eye")
    assert len(head.faces) < 13_000
    assert set(REGIONS) <= set(head.regions)


def test_regions_are_disjoint_and_cover_the_head(head: CanonicalHead) -> None:
    region = head.regions
    top = [region[n] for n in ("face", "eye_left", "eye_right", "mouth", "teeth", "ears", "scalp", "neck")]
    assert bool((torch.stack(top).sum(0) == 1).all())
    for inner, outer in (
        ("lips", "face"), ("lids_left", "face"), ("lids_right", "face"), ("iris_left", "eye_left"),
        ("iris_right", "eye_right"),
    ):  # fmt: skip
        assert bool(region[inner].any())
        assert bool((region[outer] | ~region[inner]).all())
    middle = head.template[head.faces].mean(1)
    assert middle[region["eye_left"], 0].min() > 0
    assert middle[region["iris_left"], 2].min() > middle[region["eye_left"], 2].mean()


def test_skinning_equals_the_float64_formula(head64: CanonicalHead) -> None:
    params = random_params(head64, dtype=torch.float64)
    rest = head64.rest(params).numpy()
    joints = (head64._joints + (params.shape @ head64._joint_basis).unflatten(-1, (-1, 3))).numpy()
    local = [np.zeros(3), params.neck.numpy(), params.jaw.numpy(), *params.eyes.numpy()]
    world: list[np.ndarray] = []
    for j, parent in enumerate(PARENTS):
        here = np.eye(4)
        here[:3, :3] = Rotation.from_rotvec(local[j]).as_matrix()
        here[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(here if parent < 0 else world[parent] @ here)
    expected = np.zeros_like(rest)
    for j, matrix in enumerate(world):
        posed = (rest - joints[j]) @ matrix[:3, :3].T + matrix[:3, 3]
        expected += head64.weights.numpy()[:, j : j + 1] * posed
    np.testing.assert_allclose(head64.vertices(params).numpy(), expected, atol=1e-12)


def test_weights_are_a_partition_of_unity(head: CanonicalHead) -> None:
    assert bool((head.weights >= 0).all())
    torch.testing.assert_close(head.weights.sum(1), torch.ones(head.n_vertices))


@pytest.mark.parametrize("scale", [0.0, 1e-5, 1e-3, 1.0, 3.0])
def test_rotation_matrix_equals_scipy(scale: float) -> None:
    vectors = scale * torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(rotation_matrix(vectors).numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("field", ["shape", "expression", "jaw", "neck", "eyes", "lids", "offset"])
def test_gradients_equal_finite_differences(head64: CanonicalHead, field: str) -> None:
    params = random_params(head64, dtype=torch.float64)
    params = params.replace(offset=torch.zeros(head64.n_vertices, 3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    probe = torch.randn(head64.n_vertices, 3, generator=generator, dtype=torch.float64)
    value = getattr(params, field).clone().requires_grad_(True)
    (head64.vertices(params.replace(**{field: value})) * probe).sum().backward()
    assert value.grad is not None
    direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    step = 1e-6

    def along(t: float) -> float:
        moved = params.replace(**{field: value.detach() + t * direction})
        return float((head64.vertices(moved) * probe).sum())

    slope = (along(step) - along(-step)) / (2 * step)
    assert float((value.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_gradients_are_finite_at_the_neutral_pose(head: CanonicalHead) -> None:
    params = head.neutral().map(lambda t: t.requires_grad_(True))
    head.vertices(params).square().sum().backward()
    for name in ("shape", "expression", "jaw", "neck", "eyes"):
        gradient = getattr(params, name).grad
        assert bool(torch.isfinite(gradient).all()), name
        assert bool(gradient.abs().sum() > 0), name


def test_batches_broadcast(head: CanonicalHead) -> None:
    one, many = random_params(head, seed=4), random_params(head, 2, 3, seed=5)
    mixed = many.replace(shape=one.shape)
    together = head.vertices(mixed)
    assert together.shape == (2, 3, head.n_vertices, 3)
    alone = head.vertices(mixed.map(lambda t: t if t is one.shape else t[1, 2]))
    torch.testing.assert_close(together[1, 2], alone, atol=1e-6, rtol=0)


def test_offset_moves_rest_vertices_before_skinning(head64: CanonicalHead) -> None:
    params = head64.neutral().replace(neck=torch.tensor([0.0, 0.7, 0.0], dtype=torch.float64))
    offset = torch.zeros(head64.n_vertices, 3, dtype=torch.float64)
    top = int(head64.template[:, 1].argmax())
    offset[top, 2] = 0.01
    moved = head64.vertices(params.replace(offset=offset)) - head64.vertices(params)
    expected = 0.01 * np.array([np.sin(0.7), 0.0, np.cos(0.7)])
    np.testing.assert_allclose(moved[top].numpy(), expected, atol=1e-9)
    assert float(moved.norm(dim=-1).sum()) == pytest.approx(0.01)


def test_landmarks_lie_on_the_measured_face(head: CanonicalHead) -> None:
    marks = head.landmarks.positions(head.template, head.faces)
    assert marks.shape == (478, 3)
    torch.testing.assert_close(marks[:468], head.template[:468])
    # Irises: 468 is the subject's right, its points run left, up, right, down on the limbus.
    assert marks[468, 0] < 0 < marks[473, 0]
    for first in (468, 473):
        around = marks[first + 1 : first + 5] - marks[first]
        assert around[0, 0] > 0.005
        assert around[1, 1] > 0.005
        assert around[2, 0] < -0.005
        assert around[3, 1] < -0.005


def test_arkit_moves_the_right_parts_the_right_way(head: CanonicalHead) -> None:
    def moved(**values: float) -> torch.Tensor:
        params = head.arkit(coefficients(values), head.neutral())
        marks = head.landmarks.positions(head.vertices(params), head.faces)
        return 1000 * (marks - head.landmarks.positions(head.template, head.faces))

    assert moved(jawOpen=1)[152, 1] < -15  # the chin drops
    assert abs(moved(jawOpen=1)[0, 1]) < 0.5  # the upper lip stays
    assert moved(mouthSmileLeft=1)[291, 1] > 4
    assert abs(moved(mouthSmileLeft=1)[61, 1]) < 0.5
    assert moved(browInnerUp=1)[107, 1] > 4
    assert moved(eyeLookOutLeft=1)[473, 0] > 4
    assert moved(eyeLookOutRight=1)[468, 0] < -4
    assert moved(eyeLookUpLeft=1)[473, 1] > 3
    assert moved(eyeLookDownRight=1)[468, 1] < -3
    assert moved(jawLeft=1)[152, 0] > 4
    assert moved(mouthPucker=1)[61, 0] > 5


def test_a_left_wink_closes_only_the_left_eye(head: CanonicalHead) -> None:
    wink = head.vertices(head.arkit(coefficients({"eyeBlinkLeft": 1}), head.neutral()))
    change = (wink - head.vertices(head.neutral())).norm(dim=-1)
    assert change[159] == 0
    assert change[386] > 0.006
    assert float(head.template[change > 1e-6, 0].min()) > 0


def test_mirrored_coefficients_give_the_mirrored_face(head: CanonicalHead) -> None:
    """The landmarks of a left and a right shape are mirror images (the mesh has 12 triangles that are not)."""
    # Open, so that no two landmarks share a place as they do on closed lips.
    points = head.vertices(head.arkit(coefficients({"jawOpen": 0.5}), head.neutral()))[:468].numpy()
    distance = np.linalg.norm(points[:, None] * [-1, 1, 1] - points[None], axis=-1)
    mirror = distance.argmin(1)
    assert distance.min(1).max() < 1e-4
    for name in (n for n in ARKIT_NAMES if n.endswith("Left") and n not in ("jawLeft", "mouthLeft")):
        left = head.vertices(head.arkit(coefficients({name: 1}), head.neutral()))[:468].numpy()
        right = head.vertices(head.arkit(coefficients({name[:-4] + "Right": 1}), head.neutral()))[:468].numpy()
        np.testing.assert_allclose(left[mirror] * [-1, 1, 1], right, atol=5e-4, err_msg=name)


def test_every_coefficient_does_something(head: CanonicalHead) -> None:
    neutral = head.vertices(head.neutral())
    for name in ARKIT_NAMES:
        posed = head.vertices(head.arkit(coefficients({name: 1}), head.neutral()))
        assert float((posed - neutral).norm(dim=-1).max()) > 0.0015, name


def test_errors_name_what_is_wrong(head: CanonicalHead, tmp_path: Path) -> None:
    with pytest.raises(HeadModelError, match="canonical"):
        load_head("canonicl")
    assert "canonical" in head_names()
    with pytest.raises(HeadModelError, match="another head model"):
        head.vertices(head.neutral().replace(shape=torch.zeros(300)))
    with pytest.raises(HeadModelError, match="52"):
        head.arkit(torch.zeros(51), head.neutral())
    with pytest.raises(HeadModelError, match="missing"):
        CanonicalHead.load(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a head")
    with pytest.raises(HeadModelError, match="not a canonical head"):
        CanonicalHead.load(tmp_path / "broken.safetensors")


@pytest.mark.gpu
def test_cuda_equals_cpu(head: CanonicalHead) -> None:
    params = random_params(head, 8)
    there = head.to("cuda").vertices(params.to("cuda")).cpu()
    torch.testing.assert_close(there, head.vertices(params), atol=1e-5, rtol=0)
