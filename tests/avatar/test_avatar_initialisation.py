"""The lattice's evenness, closed coverage at rest and the opacities, measured on the mesh itself."""

from __future__ import annotations

import math

import pytest
import torch
from sphere_head import SphereHead

from zero1toa.avatar import quaternion
from zero1toa.avatar.initialisation import COUNTS, SPREAD, initialise, lattice
from zero1toa.avatar.rigging import triangle_frames
from zero1toa.config import AvatarConfig
from zero1toa.errors import ConfigError


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lattice_is_interior_symmetric_and_balanced(order: int) -> None:
    points = lattice(order)
    assert len(points) == COUNTS[order - 1]
    torch.testing.assert_close(points.sum(-1), torch.ones(len(points)))
    assert (points > 0).all()
    torch.testing.assert_close(points.mean(0), torch.full((3,), 1 / 3))
    rotated = {tuple(round(v, 5) for v in p) for p in points.roll(1, -1).tolist()}
    assert rotated == {tuple(round(v, 5) for v in p) for p in points.tolist()}


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_a_plane_of_equilateral_triangles_lets_little_through(order: int) -> None:
    """What passes all Gaussians around random points of a triangle, multiplied one by one in double precision."""
    corners = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    upright = lattice(order).double() @ corners
    pair = torch.cat([upright, corners[1] + corners[2] - upright])
    steps = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4)).double() @ corners[1:]
    everywhere = (pair[:, None] + steps).flatten(0, 1)
    weights = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log()
    seen = weights / weights.sum(1, keepdim=True) @ corners
    deviation = SPREAD / math.sqrt(order * (order + 1))
    cover = torch.exp(-(torch.cdist(seen, everywhere) ** 2) / (2 * deviation**2))
    passing = (1 - 0.95 * cover).prod(1)
    assert passing.max() < (0.055 if order == 1 else 0.045)


@pytest.mark.parametrize("count", COUNTS)
def test_every_triangle_has_its_count_and_lies_on_the_surface(count: int) -> None:
    head = SphereHead()
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=count))
    per_face = torch.bincount(avatar.binding, minlength=len(head.faces))
    lids = head.regions["lids_left"] | head.regions["lids_right"]
    face = head.regions["face"] & ~head.regions["neck"] & ~head.regions["scalp"]
    corners = head.rest[head.faces]
    longest = torch.stack([(corners[:, i] - corners[:, i - 1]).norm(dim=-1) for i in range(3)]).amax(0)
    for f in face.nonzero().flatten().tolist():
        wanted = COUNTS.index(count) + (3 if lids[f] else 1)  # lids fold, so their edges need smaller Gaussians
        order = max(wanted, min(math.ceil(longest[f].item() / 0.008), 5))
        assert per_face[f] == order * (order + 1) // 2
    plain = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=count), {})
    assert (torch.bincount(plain.binding) == count).all()
    # On the plane of its triangle and inside the free distance of the position loss.
    assert avatar.means[:, 1].abs().max() < 1e-4
    assert (avatar.means.norm(dim=-1) < 1.0).float().mean() > 0.99


@pytest.mark.parametrize("count", COUNTS)
def test_the_surface_is_closed_at_rest_without_blur(count: int) -> None:
    """Transmittance through opaque Gaussians at random points of a plane of random triangles stays low, and no
    Gaussian reaches far beyond its lattice cell.
    """
    head = SphereHead()
    n = 9
    grid = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"), -1).reshape(-1, 2).float()
    jitter = (torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.5
    flat = (grid + jitter) * torch.tensor([0.01, 0.006])
    vertices = torch.cat([flat, torch.zeros(len(flat), 1)], -1)
    a = torch.tensor([i * n + j for i in range(n - 1) for j in range(n - 1)])
    head.faces = torch.cat([torch.stack([a, a + n, a + 1], -1), torch.stack([a + n, a + n + 1, a + 1], -1)])
    head.regions = {name: torch.zeros(len(head.faces), dtype=torch.bool) for name in head.regions}
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=count))
    world = avatar.splats(vertices)

    corners = vertices[head.faces]
    pick = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1))
    inside = (corners[torch.arange(4000) % len(corners)] * (pick / pick.sum(-1, keepdim=True))[..., None]).sum(-2)
    inner = (inside[:, 0] > 0.01) & (inside[:, 0] < 0.07) & (inside[:, 1] > 0.006) & (inside[:, 1] < 0.042)
    delta = inside[inner][:, None] - world.means
    local = (quaternion.to_matrix(world.quats).transpose(-1, -2) @ delta[..., None]).squeeze(-1) / world.scales
    alpha = (world.opacities * torch.exp(-0.5 * (local**2).sum(-1))).clamp_max(0.999)
    through = (1 - alpha).prod(-1)
    assert through.mean() < 0.08
    assert through.quantile(0.99) < 0.3
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    in_plane = world.scales[:, [0, 2]].prod(-1) * 2 * torch.pi
    assert (in_plane / (area[avatar.binding] / count)).median() < 5


def test_lids_are_opaque_and_the_rest_is_not() -> None:
    head = SphereHead()
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1, project_portrait=False))
    lids = (head.regions["lids_left"] | head.regions["lids_right"])[avatar.binding]
    torch.testing.assert_close(avatar.opacities[lids], torch.full((int(lids.sum()),), 0.9))
    torch.testing.assert_close(avatar.opacities[~lids], torch.full((int((~lids).sum()),), 0.1))
    projected = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1))
    neck = head.regions["neck"][projected.binding]
    torch.testing.assert_close(projected.opacities[~neck], torch.full((int((~neck).sum()),), 0.95))
    # The neck fades out downwards.
    height = projected.splats(head.rest).means[neck, 1].detach()
    order = projected.opacities[neck][height.argsort()].detach()
    assert (order.diff() >= -1e-6).all()
    assert order[0] < 0.02
    assert order[-1] == pytest.approx(0.95, abs=0.01)


def test_gaussians_follow_their_triangles_inertia() -> None:
    """In the world, each Gaussian's covariance in its plane is a multiple of its triangle's own."""
    head = SphereHead()
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=10), {})
    world = avatar.splats(head.rest)
    R = quaternion.to_matrix(world.quats)
    covariance = R @ torch.diag_embed(world.scales**2) @ R.transpose(-1, -2)
    corners = (head.rest[head.faces] - head.rest[head.faces].mean(1, keepdim=True))[avatar.binding]
    inertia = corners.transpose(-1, -2) @ corners
    normal = triangle_frames(head.rest, head.faces).rotation[avatar.binding][..., 1]
    flat = torch.eye(3) - normal[..., None] * normal[..., None, :]
    a, b = flat @ covariance @ flat, inertia
    full = torch.bincount(avatar.binding)[avatar.binding] == 10
    a, b = a[full].flatten(1), b[full].flatten(1)
    torch.testing.assert_close(
        (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)), torch.ones(len(a)), atol=1e-3, rtol=0
    )


def test_wrong_counts_and_regions_are_named() -> None:
    head = SphereHead()
    with pytest.raises(ConfigError, match="gaussians_per_triangle=4"):
        initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=4))
    with pytest.raises(ConfigError, match="'nose'"):
        initialise(head, head.rest, AvatarConfig(), {"nose": 1})
