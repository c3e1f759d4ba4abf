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
"""Numbers of Gaussians that a triangle can carry evenly: the triangular numbers of :func:`lattice`'s orders 1 to 4."""

THICKNESS = 0.08
"""Initial standard deviation along the normal, in triangle units."""

LARGEST_SCALE = 0.6
"""Initial in-plane standard deviations stay under the scaling loss's free scale, in triangle units."""


def lattice(order: int) -> Tensor:
    """Interior lattice of a triangle: ``order (order + 1) / 2`` barycentric points that tile it evenly.

    The points are ``((i + 1/3) / order, (j + 1/3) / order, (k + 1/3) / order)`` with ``i + j + k = order - 1``: the
    centres of the upright sub-triangles. None lies on an edge, so neighbouring triangles never share one.

    Returns:
        ``[order (order + 1) / 2, 3]`` float32.
    """
    points = [(i, j, order - 1 - i - j) for i in range(order) for j in range(order - i)]
    return (torch.tensor(points, dtype=torch.float32) + 1 / 3) / order


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


def counts_per_face(head: HeadModel, count: int, overrides: Mapping[str, int] | None = None) -> Tensor:
    """Gaussians for every triangle ``[F]`` int64.

    The sclera, the mouth cavity and the neck show little detail, so they get the next smaller count; the iris keeps
    the full one.

    Args:
        head: head model.
        count: Gaussians per triangle, one of :data:`COUNTS`.
        overrides: region name to count; they replace the reduced counts.
    """
    fewer = COUNTS[max(lattice_order(count) - 2, 0)]
    regions = head.regions
    result = torch.full((head.faces.shape[0],), count, dtype=torch.long, device=head.faces.device)
    result[regions["eye_left"] & ~regions["iris_left"] | regions["eye_right"] & ~regions["iris_right"]] = fewer
    result[regions["mouth"] | regions["neck"]] = fewer
    for name, value in (overrides or {}).items():
        if name not in regions:
            raise ConfigError(f"there is no region '{name}' on {head.name}; regions: {', '.join(sorted(regions))}")
        lattice_order(value)
        result[regions[name]] = value
    return result


def initialise(
    head: HeadModel,
    vertices: Tensor,
    config: AvatarConfig,
    overrides: Mapping[str, int] | None = None,
) -> GaussianAvatar:
    """Place Gaussians on every triangle of a head at rest; deterministic.

    The in-plane standard deviations follow the triangle's own shape: a Gaussian covers 1.2 times the half spacing of
    its lattice along each axis of the triangle's inertia ellipse. So slivers are covered as closely as equilateral
    triangles, at any count, and nothing is blurred more than the lattice needs. Colours start grey.

    Args:
        head: head model, for its triangles and regions.
        vertices: the identity at rest ``[V, 3]``, metres.
        config: count and opacities.
        overrides: region name to another count.

    Raises:
        ConfigError: for a count that does not tile a triangle or an unknown region.
    """
    counts = counts_per_face(head, config.gaussians_per_triangle, overrides)
    n_faces = head.faces.shape[0]
    vertices = vertices.detach()
    bindings, barycentric, orders = [], [], []
    for count in COUNTS:
        faces = (counts == count).nonzero().squeeze(-1)
        points = lattice(lattice_order(count)).to(vertices)
        bindings.append(faces.repeat_interleave(count))
        barycentric.append(points.repeat(len(faces), 1))
        orders.append(torch.full((len(faces) * count,), float(lattice_order(count))).to(vertices))
    binding, weights, order = torch.cat(bindings), torch.cat(barycentric), torch.cat(orders)
    # Gaussians of one triangle stay together and triangles stay in order, whatever their counts are.
    rank = torch.sort(binding, stable=True).indices
    binding, weights, order = binding[rank], weights[rank], order[rank]

    frames = triangle_frames(vertices, head.faces)
    corners = vertices[head.faces]
    points = (corners[binding] * weights[..., None]).sum(-2)
    axis, deviations = _inertia(corners, frames.center, frames.rotation, frames.scale)
    # Uniform in an equilateral triangle of side a: deviation a / sqrt(24); the lattice's spacing is a / order.
    plane = 0.6 * math.sqrt(24) * deviations[binding] / order[:, None]
    scales = torch.stack([plane[:, 0], torch.full_like(order, THICKNESS), plane[:, 1]], -1).clamp(1e-3, LARGEST_SCALE)
    half = axis[binding] / 2
    zero = torch.zeros_like(half)

    lids = head.regions["lids_left"] | head.regions["lids_right"]
    opacity = torch.full((n_faces,), config.opacity).to(vertices)
    opacity[lids.to(vertices.device)] = max(config.lid_opacity, config.opacity)
    tensors = {
        "means": points_to_local(frames, binding, points),
        "log_scales": scales.log(),
        # Turn about the triangle's normal, the local y axis, onto the inertia ellipse.
        "quats": torch.stack([half.cos(), zero, half.sin(), zero], -1),
        "opacity_logits": torch.logit(opacity.clamp(1e-4, 1 - 1e-4))[binding],
        "sh0": torch.zeros(len(binding), 3).to(vertices),
    }
    return GaussianAvatar(tensors, binding, head.faces)


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
