"""First placement of the Gaussians: a regular lattice inside every triangle (paper sec. 3.2 and 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.rigging import points_to_local, triangle_frames
from zero1toa.config import AvatarConfig
from zero1toa.errors import ConfigError
from zero1toa.head.protocol import HeadModel

COUNTS = (1, 3, 6, 10)
"""Numbers of Gaussians a triangle gets by configuration: the triangular numbers of :func:`lattice`'s orders 1 to 4."""

INSET = 0.43
"""Distance of a lattice's outer rows from the triangle's edges, in rows. At a third, the centres of the upright
sub-triangles, rows crowd at the edges and 6 % pass between the Gaussians inside of a triangle; so at most 4 % do.
"""

REGION_ORDERS = {"eye_left": -1, "eye_right": -1, "lids_left": 2, "lids_right": 2, "neck": -1, "scalp": 4}
"""Change of the lattice's order on regions with smaller (eyes), larger (scalp) or plainer triangles than the face."""

FINEST = 7
"""Highest order that a region's change leads to: 28 Gaussians on a triangle of a centimetre."""

LONGEST_EDGE = 0.008
"""Metres of a triangle's longest edge that one order of the lattice may serve: a few large Gaussians on a long triangle
would stick out of the head at its tips."""

LARGEST_ORDER = 5
"""Highest order that a long edge alone can ask for."""

NECK_FADE = 0.62
"""Share of the height from the neck's base to the chin over which the neck fades out."""

_CHIN = 152
"""MediaPipe's landmark on the chin."""

THICKNESS = 0.08
"""Initial standard deviation along the normal, in triangle units."""

SPREAD = 0.6
"""Initial in-plane standard deviation over the mean spacing: closed at opacity 0.95 and hardly blurred."""

REGION_SPREAD = {"mouth": 0.45, "teeth": 0.5, "neck": 0.8, "lids_left": 0.65, "lids_right": 0.65}
"""Other spreads: the mouth's long triangles lie close behind the lips and must not reach through them; the neck, which
fades out, must not show its lattice; lids unfold to several times their height when they close and leave no gap then.
"""

LARGEST_SCALE = 0.6
"""Initial in-plane standard deviations stay under the scaling loss's free scale, in triangle units."""


def lattice(order: int) -> Tensor:
    """Interior lattice of a triangle: ``order (order + 1) / 2`` barycentric points that tile it evenly.

    The points are ``(i + t, j + t, k + t) / (order - 1 + 3 t)`` with ``i + j + k = order - 1`` and ``t`` the
    :data:`INSET`. None lies on an edge, so neighbouring triangles never share one.

    Returns:
        ``[order (order + 1) / 2, 3]`` float32.
    """
    points = [(i, j, order - 1 - i - j) for i in range(order) for j in range(order - i)]
    return (torch.tensor(points, dtype=torch.float32) + INSET) / (order - 1 + 3 * INSET)


def lattice_order(count: int) -> int:
    """Order of the lattice with ``count`` points.

    Raises:
        ConfigError: if ``count`` is not one of :data:`COUNTS`.
    """
    if count not in COUNTS:
        raise ConfigError(
            f"avatar.gaussians_per_triangle={count}: a triangle carries {', '.join(map(str, COUNTS[:-1]))} "
            f"or {COUNTS[-1]} Gaussians"
        )
    return COUNTS.index(count) + 1


def orders_per_face(head: HeadModel, vertices: Tensor, count: int, changes: Mapping[str, int] | None = None) -> Tensor:
    """Order of every triangle's lattice ``[F]`` int64, at least 1.

    Args:
        head: head model.
        vertices: at rest ``[V, 3]``, metres.
        count: Gaussians per triangle, one of :data:`COUNTS`.
        changes: region name to a change of the order. When None it follows :data:`REGION_ORDERS` and
            :data:`LONGEST_EDGE`; an empty mapping gives every triangle the same count, as in the paper.

    Raises:
        ConfigError: for another count or an unknown region.
    """
    order = lattice_order(count)
    result = torch.full((head.faces.shape[0],), order, dtype=torch.long, device=head.faces.device)
    for name, change in (REGION_ORDERS if changes is None else changes).items():
        if name not in head.regions:
            raise ConfigError(f"there is no region '{name}' on {head.name}; regions: {', '.join(sorted(head.regions))}")
        result[head.regions[name]] = min(max(order + change, 1), max(order, FINEST))
    if changes is None:
        corners = vertices[head.faces]
        longest = (corners - corners.roll(1, 1)).norm(dim=-1).amax(1)
        result = torch.maximum(result, (longest / LONGEST_EDGE).ceil().clamp(1, LARGEST_ORDER).long())
    return result


def initialise(
    head: HeadModel,
    vertices: Tensor,
    config: AvatarConfig,
    changes: Mapping[str, int] | None = None,
) -> GaussianAvatar:
    """Place Gaussians on every triangle of a head at rest; deterministic.

    The in-plane standard deviations follow the triangle's own shape: :data:`SPREAD` times the mean spacing along each
    axis of the triangle's inertia ellipse. So slivers are covered as closely as equilateral triangles, at any count,
    and nothing is blurred more than the lattice needs. Colours start grey.

    Args:
        head: head model, for its triangles and regions.
        vertices: the identity at rest ``[V, 3]``, metres.
        config: count and opacities; with a projected portrait every Gaussian starts at ``projected_opacity``.
        changes: region name to a change of the lattice's order, see :func:`orders_per_face`.

    Raises:
        ConfigError: for a count that does not tile a triangle or an unknown region.
    """
    n_faces = head.faces.shape[0]
    vertices = vertices.detach()
    per_face = orders_per_face(head, vertices, config.gaussians_per_triangle, changes)
    bindings, barycentric, orders = [], [], []
    for value in range(1, int(per_face.max()) + 1):
        faces = (per_face == value).nonzero().squeeze(-1)
        points = lattice(value).to(vertices)
        bindings.append(faces.repeat_interleave(len(points)))
        barycentric.append(points.repeat(len(faces), 1))
        orders.append(torch.full((len(faces) * len(points),), float(value)).to(vertices))
    binding, weights, order = torch.cat(bindings), torch.cat(barycentric), torch.cat(orders)
    # Gaussians of one triangle stay together and triangles stay in order, whatever their counts are.
    rank = torch.sort(binding, stable=True).indices
    binding, weights, order = binding[rank], weights[rank], order[rank]

    frames = triangle_frames(vertices, head.faces)
    corners = vertices[head.faces]
    points = (corners[binding] * weights[..., None]).sum(-2)
    axis, deviations = _inertia(corners, frames.center, frames.rotation, frames.scale)
    # Uniform in an equilateral triangle of side a: deviation a / sqrt(24). As many points in a hexagonal grid on the
    # same area would be a / sqrt(order (order + 1)) apart.
    spread = torch.full((n_faces,), SPREAD).to(vertices)
    for name, factor in REGION_SPREAD.items():
        spread[head.regions[name]] = factor
    reach = math.sqrt(24) * spread[binding] / torch.sqrt(order * (order + 1))
    plane = deviations[binding] * reach[:, None]
    scales = torch.stack([plane[:, 0], torch.full_like(order, THICKNESS), plane[:, 1]], -1).clamp(1e-3, LARGEST_SCALE)
    half = axis[binding] / 2
    zero = torch.zeros_like(half)

    lids = head.regions["lids_left"] | head.regions["lids_right"]
    start = config.projected_opacity if config.project_portrait else config.opacity
    opacity = torch.full((n_faces,), start).to(vertices)
    opacity[lids.to(vertices.device)] = max(config.lid_opacity, start)
    opacity = opacity[binding]
    if config.project_portrait:
        opacity = opacity * _neck_fade(head, vertices, binding, points)
    tensors = {
        "means": points_to_local(frames, binding, points),
        "log_scales": scales.log(),
        # Turn about the triangle's normal, the local y axis, onto the inertia ellipse.
        "quats": torch.stack([half.cos(), zero, half.sin(), zero], -1),
        "opacity_logits": torch.logit(opacity.clamp(0.004, 1 - 1e-4)),
        "sh0": torch.zeros(len(binding), 3).to(vertices),
    }
    return GaussianAvatar(tensors, binding, head.faces)


def neck_heights(head: HeadModel, vertices: Tensor) -> tuple[float, float]:
    """Height of the neck's base and of the chin, metres; both are the chin's on a head without a neck."""
    chin = float(head.landmarks.positions(vertices, head.faces)[_CHIN, 1])
    on_neck = head.regions["neck"]
    return (float(vertices[head.faces[on_neck].flatten(), 1].amin()) if bool(on_neck.any()) else chin), chin


def _neck_fade(head: HeadModel, vertices: Tensor, binding: Tensor, points: Tensor) -> Tensor:
    """Factor on the opacities ``[N]``: the neck fades out towards its base, as a carved portrait's does."""
    base, chin = neck_heights(head, vertices)
    length = max(NECK_FADE * (chin - base), 1e-6)
    height = ((points[:, 1] - base) / length).clamp(0, 1)
    wanted = height * height * (3 - 2 * height)
    # A ray meets the wall twice, and about two Gaussians each time: each lets the fourth root of the whole pass.
    return torch.where(head.regions["neck"][binding], 1 - (1 - wanted) ** 0.25, 1.0)


def _inertia(corners: Tensor, center: Tensor, rotation: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation about the local y axis ``[F]`` and standard deviations ``[F, 2]`` along the turned x and z axes of a
    uniform distribution over each triangle, in triangle units.
    """
    local = (corners - center[:, None]) @ rotation / scale[:, None, None]
    x, z = local[..., 0], local[..., 2]
    xx, zz, xz = (x * x).mean(-1) / 4, (z * z).mean(-1) / 4, (x * z).mean(-1) / 4
    # Turning by t about y takes the x axis to (cos t, 0, -sin t), hence the sign.
    angle = -0.5 * torch.atan2(2 * xz, xx - zz)
    middle, spread = (xx + zz) / 2, torch.sqrt(((xx - zz) / 2) ** 2 + xz**2)
    deviations = torch.stack([middle + spread, middle - spread], -1).clamp_min(0).sqrt()
    return angle, deviations
