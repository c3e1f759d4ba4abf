"""FLAME's vertices against its equations in float64, gradients against differences, editions against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flame_like import FlameLike
from scipy.spatial.transform import Rotation

from zero1toa.errors import HeadModelError
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.model import FlameHead
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.head.registry import head_names, load_head


def random_params(head: FlameHead, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=dtype)

    return HeadParams(
        shape=0.8 * draw(head.n_shape),
        expression=0.5 * draw(head.n_expression),
        jaw=0.1 * draw(3),
        neck=0.3 * draw(3),
        eyes=0.2 * draw(2, 3),
        lids=torch.zeros(*batch, 2, dtype=dtype),
        model=head.name,
    )


def reference(entries: dict[str, object], params: HeadParams) -> np.ndarray:
    """Vertices by the equations of SMPL and FLAME (Loper et al. 2015, eq. 2-9; Li et al. 2017, eq. 1-5)."""
    e = {k: np.asarray(v) for k, v in entries.items() if k != "J_regressor"}
    regressor = entries["J_regressor"].toarray()  # type: ignore[attr-defined]
    coefficients = np.concatenate([params.shape.numpy(), params.expression.numpy()])
    shaped = e["v_template"] + e["shapedirs"] @ coefficients
    joints = regressor @ shaped
    pose = np.concatenate([np.zeros(3), params.neck.numpy(), params.jaw.numpy(), params.eyes.numpy().ravel()])
    rotations = Rotation.from_rotvec(pose.reshape(5, 3)).as_matrix()
    features = (rotations[1:] - np.eye(3)).ravel()
    rest = shaped + e["posedirs"] @ features
    world = []
    for j, parent in enumerate([-1, 0, 1, 1, 1]):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = np.zeros_like(rest)
    for j in range(5):
        away = np.eye(4)
        away[:3, 3] = -joints[j]
        moved = np.concatenate([rest, np.ones((len(rest), 1))], 1) @ (world[j] @ away).T
        out += e["weights"][:, j : j + 1] * moved[:, :3]
    return out


def test_follows_the_protocol(flame: FlameHead) -> None:
    assert isinstance(flame, HeadModel)
    assert (flame.name, flame.n_shape, flame.n_expression) == ("flame-2020", 300, 100)
    assert flame.joints == ("root", "neck", "jaw", "left_eye", "right_eye")
    assert flame.template.dtype == torch.float32
    assert flame.n_flame == 5023
    assert int(flame.faces.max()) == flame.n_vertices - 1


@pytest.mark.parametrize("seed", [0, 1])
def test_vertices_equal_the_equations(flame_like: FlameLike, flame64: FlameHead, seed: int) -> None:
    params = random_params(flame64, seed=seed)
    ours = flame64.vertices(params)[: flame64.n_flame].numpy()
    # The installed file is float32: what remains is its rounding.
    np.testing.assert_allclose(ours, reference(flame_like.entries, params), atol=2e-7)


def test_open_lids_leave_flame_as_it_is(flame_like: FlameLike, flame64: FlameHead) -> None:
    neutral = flame64.vertices(flame64.neutral())[: flame64.n_flame].numpy()
    np.testing.assert_allclose(neutral, flame_like.entries["v_template"], atol=1e-7)


def test_single_precision_agrees_with_double(flame: FlameHead, flame64: FlameHead) -> None:
    params = random_params(flame64, seed=3).replace(lids=torch.tensor([0.4, 0.9], dtype=torch.float64))
    single = flame.vertices(params.to(torch.float32)).double()
    torch.testing.assert_close(single, flame64.vertices(params), atol=2e-6, rtol=0)


@pytest.mark.parametrize("field", ["shape", "expression", "jaw", "neck", "eyes", "lids", "offset"])
def test_gradients_equal_finite_differences(flame64: FlameHead, field: str) -> None:
    params = random_params(flame64, seed=4).replace(
        offset=torch.zeros(flame64.n_vertices, 3, dtype=torch.float64), lids=torch.tensor([0.35, 0.6]).double()
    )
    generator = torch.Generator().manual_seed(3)
    probe = torch.randn(flame64.n_vertices, 3, generator=generator, dtype=torch.float64)
    value = getattr(params, field).clone().requires_grad_(True)
    (flame64.vertices(params.replace(**{field: value})) * probe).sum().backward()
    assert value.grad is not None
    direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    step = 1e-6

    def along(t: float) -> float:
        moved = params.replace(**{field: value.detach() + t * direction})
        return float((flame64.vertices(moved) * probe).sum())

    slope = (along(step) - along(-step)) / (2 * step)
    assert float((value.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_gradients_are_finite_at_the_neutral_pose(flame: FlameHead) -> None:
    params = flame.neutral().map(lambda t: t.requires_grad_(True))
    flame.vertices(params).square().sum().backward()
    for name in ("shape", "expression", "jaw", "neck", "eyes"):
        gradient = getattr(params, name).grad
        assert bool(torch.isfinite(gradient).all()), name
        assert bool(gradient.abs().sum() > 0), name


def test_batches_broadcast(flame64: FlameHead) -> None:
    one, many = random_params(flame64, seed=4), random_params(flame64, 2, 3, seed=5)
    many = many.replace(lids=torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    together = flame64.vertices(many.replace(shape=one.shape))
    assert together.shape == (2, 3, flame64.n_vertices, 3)
    alone = flame64.vertices(many.map(lambda t: t[1, 2]).replace(shape=one.shape))
    torch.testing.assert_close(together[1, 2], alone)
    for field in ("shape", "expression", "jaw", "neck", "eyes", "lids"):  # a batch of one field alone
        batched = flame64.vertices(one.replace(**{field: getattr(many, field)}))
        torch.testing.assert_close(batched[1, 2], flame64.vertices(one.replace(**{field: getattr(many, field)[1, 2]})))


def test_editions_cannot_be_mixed(flame: FlameHead, no_jaw: FlameHead) -> None:
    """They have equally many coefficients: only the name tells them apart."""
    assert (flame.n_shape, flame.n_expression) == (no_jaw.n_shape, no_jaw.n_expression)
    with pytest.raises(HeadModelError, match="flame-2023-no-jaw, not flame-2020"):
        flame.vertices(no_jaw.neutral())
    canonical = CanonicalHead.load()
    with pytest.raises(HeadModelError, match="flame-2020, not canonical-1"):
        canonical.vertices(flame.neutral())
    for changed in (
        no_jaw.neutral().to(torch.float32),
        no_jaw.neutral().map(lambda t: t[None]),
        no_jaw.arkit(torch.zeros(52), no_jaw.neutral()),
        no_jaw.neutral().replace(jaw=torch.ones(3)),
    ):
        with pytest.raises(HeadModelError, match="cannot be mixed"):
            flame.vertices(changed)


def test_errors_name_what_is_wrong(flame: FlameHead, flame_home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    assert {"flame2020", "flame2023", "flame2023_no_jaw", "flame2023_open"} <= set(head_names())
    with pytest.raises(HeadModelError, match=r"assets install flame2023 flame2023\.pkl"):
        load_head("flame2023")
    with pytest.raises(HeadModelError, match="did you mean 'flame2020'"):
        load_head("flame2020s")
    with pytest.raises(HeadModelError, match="holds flame2020, not flame2023"):
        FlameHead.load("flame2023", flame_home / "flame2020.npz")
    (tmp_path / "flame2023.npz").write_bytes((flame_home / "flame2020.npz").read_bytes()[:5000])
    with pytest.raises(HeadModelError, match="not an installed FLAME model"):
        load_head("flame2023")
    with pytest.raises(HeadModelError, match="another head model"):
        flame.vertices(flame.neutral().replace(expression=torch.zeros(50)))
    with pytest.raises(HeadModelError, match="52"):
        flame.arkit(torch.zeros(51), flame.neutral())
    monkeypatch.setenv("ZERO1TOA_HOME", str(flame_home))
    assert load_head("flame-2020").name == load_head("flame2020").name == "flame-2020"


@pytest.mark.gpu
def test_cuda_equals_cpu(flame: FlameHead) -> None:
    params = random_params(flame, 8, dtype=torch.float32).replace(lids=torch.full((8, 2), 0.7))
    there = flame.to("cuda").vertices(params.to("cuda")).cpu()
    torch.testing.assert_close(there, flame.vertices(params), atol=1e-5, rtol=0)
