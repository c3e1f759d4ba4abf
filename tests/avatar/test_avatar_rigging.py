"""Rigging against a float64 formula written separately, and by moving the mesh rigidly."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from sphere_head import SphereHead

from zero1toa.avatar import quaternion
from zero1toa.avatar.rigging import local_to_global, points_to_local, triangle_frames


def _triangles(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3 * count, 3, generator=generator) * 0.01, torch.arange(3 * count).reshape(count, 3)


def test_frames_and_gaussians_equal_the_papers_formula_in_float64() -> None:
    vertices, faces = _triangles(50, 0)
    generator = torch.Generator().manual_seed(1)
    binding = torch.randint(0, 50, (200,), generator=generator)
    means, quats = torch.randn(200, 3, generator=generator), torch.randn(200, 4, generator=generator)
    logs = torch.randn(200, 3, generator=generator)
    splats = local_to_global(triangle_frames(vertices, faces), binding, means, quats, logs)

    v = vertices.double().numpy()
    for n, f in enumerate(binding.tolist()):
        p0, p1, p2 = v[faces[f].numpy()]
        a0 = (p1 - p0) / np.linalg.norm(p1 - p0)
        a1 = np.cross(a0, p2 - p0)
        a1 /= np.linalg.norm(a1)
        a2 = -np.cross(a1, a0)
        R = np.stack([a0, a1, a2], axis=1)
        s = (np.linalg.norm(p1 - p0) + abs(a2 @ (p2 - p0))) / 2
        np.testing.assert_allclose(splats.means[n], s * R @ means[n].double().numpy() + (p0 + p1 + p2) / 3, atol=2e-7)
        np.testing.assert_allclose(splats.scales[n], s * np.exp(logs[n].double().numpy()), rtol=1e-5)
        local = Rotation.from_quat(np.roll(quats[n].double().numpy(), -1))
        expected = (Rotation.from_matrix(R) * local).as_matrix()
        np.testing.assert_allclose(quaternion.to_matrix(splats.quats[n]), expected, atol=2e-5)


def test_a_rigid_motion_and_a_growth_of_the_mesh_act_on_the_splats() -> None:
    head = SphereHead()
    generator = torch.Generator().manual_seed(2)
    binding = torch.arange(head.faces.shape[0])
    means = torch.randn(len(binding), 3, generator=generator)
    quats = torch.randn(len(binding), 4, generator=generator)
    logs = torch.randn(len(binding), 3, generator=generator) * 0.3
    R = torch.from_numpy(Rotation.from_rotvec([0.4, -1.9, 0.8]).as_matrix()).float()
    shift, growth = torch.tensor([0.3, -0.1, 0.2]), 1.7

    before = local_to_global(triangle_frames(head.rest, head.faces), binding, means, quats, logs)
    moved = growth * head.rest @ R.T + shift
    after = local_to_global(triangle_frames(moved, head.faces), binding, means, quats, logs)
    torch.testing.assert_close(after.means, growth * before.means @ R.T + shift, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(after.scales, growth * before.scales, atol=0, rtol=1e-4)
    torch.testing.assert_close(
        quaternion.to_matrix(after.quats), R @ quaternion.to_matrix(before.quats), atol=2e-4, rtol=0
    )


def test_batches_equal_single_meshes_and_gradients_equal_finite_differences() -> None:
    vertices, faces = _triangles(4, 3)
    batch = torch.stack([vertices, vertices * 1.3, vertices.roll(1, -1)]).double()
    generator = torch.Generator().manual_seed(4)
    binding = torch.tensor([0, 1, 2, 3, 3])
    means = torch.randn(5, 3, generator=generator).double()
    quats = torch.randn(5, 4, generator=generator).double()
    logs = torch.randn(5, 3, generator=generator).double()

    together = local_to_global(triangle_frames(batch, faces), binding, means, quats, logs)
    for i in range(3):
        alone = local_to_global(triangle_frames(batch[i], faces), binding, means, quats, logs)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b)

    inputs = tuple(t.clone().requires_grad_() for t in (vertices.double() * 100, means, quats, logs))

    def rig(v: torch.Tensor, m: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(local_to_global(triangle_frames(v, faces), binding, m, q, s))

    assert torch.autograd.gradcheck(rig, inputs)


def test_quaternions_of_half_turns_and_of_degenerate_triangles_are_finite_with_finite_gradients() -> None:
    halves = Rotation.from_rotvec(np.pi * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0, 0]]))
    R = torch.from_numpy(halves.as_matrix()).requires_grad_()
    q = quaternion.from_matrix(R)
    torch.testing.assert_close(quaternion.to_matrix(q), R, atol=1e-9, rtol=0)
    q.sum().backward()
    assert R.grad is not None
    assert R.grad.isfinite().all()

    point, line = torch.zeros(3, 3), torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0.02, 0, 0]])
    vertices = torch.cat([point, line]).requires_grad_()
    frames = triangle_frames(vertices, torch.arange(6).reshape(2, 3))
    torch.testing.assert_close(torch.linalg.det(frames.rotation), torch.ones(2))
    out = local_to_global(frames, torch.tensor([0, 1]), torch.ones(2, 3), torch.ones(2, 4), torch.zeros(2, 3))
    sum(t.sum() for t in out).backward()
    assert vertices.grad is not None
    assert vertices.grad.isfinite().all()


def test_points_return_from_local_coordinates() -> None:
    vertices, faces = _triangles(10, 5)
    frames, binding = triangle_frames(vertices, faces), torch.arange(10)
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(6)) * 0.02
    local = points_to_local(frames, binding, points)
    identity, ones = torch.tensor([[1.0, 0, 0, 0]]).expand(10, 4), torch.zeros(10, 3)
    torch.testing.assert_close(local_to_global(frames, binding, local, identity, ones).means, points, atol=1e-6, rtol=0)
