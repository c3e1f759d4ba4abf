"""The plain torch rasteriser: every formula in the open, differentiable by autograd, float32 or float64, any device.

It is the yardstick of the compiled kernel and of gsplat, and far too slow to train with. Semantics are those of
gsplat 1.5.3 (``packed=False``, pinhole, 16-pixel tiles):

* EWA splatting: Sigma' = J W Sigma W^T J^T + eps2d I, with x/z and y/z in J clamped to the picture plus 30 % of the
  half field of view on each side.
* A Gaussian is left out when its depth is outside [near, far], its (compensated) opacity is under 1/255, or its box of
  radius ceil(min(3.33, sqrt(2 ln(255 o))) sigma) misses the picture or is not larger than ``radius_clip``.
* Gaussians blend in the order of the depth of their centres, equal depths by index.
* alpha = min(0.999, o exp(-sigma)); skipped when sigma < 0 or alpha < 1/255; no gradient where the cap holds.
* A pixel stops *before* the splat that would bring its transmittance to 1e-4 or less.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 16
ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4
MAX_EXTENT = 3.33


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices ``[..., 3, 3]`` of quaternions ``[..., 4]`` (wxyz, normalised inside)."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project B sets of Gaussians into C cameras each.

    Args:
        means: ``[B, N, 3]``; quats: ``[B, N, 4]``; scales: ``[B, N, 3]``; opacities: ``[B, N]``.
        quats: see means.
        scales: see means.
        opacities: see means.
        viewmats: ``[B, C, 4, 4]``.
        Ks: ``[B, C, 3, 3]``.
        width: picture width in pixels.
        height: picture height in pixels.
        near_plane: smallest depth in metres.
        far_plane: largest depth in metres.
        radius_clip: radius in pixels up to which splats are dropped.
        eps2d: variance in square pixels added to every splat.
        antialiased: compensate opacity for the added variance (Mip-Splatting).

    Returns:
        means2d ``[B, C, N, 2]`` in pixels, conics ``[B, C, N, 3]`` (xx, xy, yy of the inverse covariance), opacities
        ``[B, C, N]`` after compensation, depths ``[B, C, N]``, radii ``[B, C, N, 2]`` int32 (0 where invisible).
    """
    R, t = viewmats[..., None, :3, :3], viewmats[..., None, :3, 3]
    camera = (R @ means[:, None, :, :, None])[..., 0] + t
    x, y, z = camera.unbind(-1)
    near_enough = (z >= near_plane) & (z <= far_plane)
    z = torch.where(near_enough, z, torch.ones_like(z))
    fx, fy, cx, cy = (Ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    margin_x, margin_y = 0.3 * (0.5 * width / fx), 0.3 * (0.5 * height / fy)
    tx = z * torch.clamp(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    ty = z * torch.clamp(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z**2], -1),
            torch.stack([zero, fy / z, -fy * ty / z**2], -1),
        ],
        -2,
    )
    half = J @ R @ (rotation_matrices(quats) * scales[..., None, :])[:, None]
    covariance = half @ half.transpose(-1, -2)
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    determinant = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    blurred = xx * yy - xy * xy
    conics = torch.stack([yy / blurred, -xy / blurred, xx / blurred], -1)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    opacity = opacities[:, None].expand_as(z)
    if antialiased:
        opacity = opacity * torch.sqrt(torch.clamp(determinant / blurred, min=1e-24))
    with torch.no_grad():
        visible = near_enough & (blurred > 0) & (opacity >= ALPHA_MIN)
        extent = torch.sqrt(2.0 * torch.log(torch.clamp(opacity / ALPHA_MIN, min=1.0))).clamp(max=MAX_EXTENT)
        radius = torch.ceil(extent[..., None] * torch.sqrt(torch.stack([xx, yy], -1)))
        size = torch.tensor([width, height], dtype=radius.dtype, device=radius.device)
        visible &= (radius > radius_clip).any(-1)
        visible &= ((means2d + radius > 0) & (means2d - radius < size)).all(-1)
        radii = torch.where(visible[..., None], radius, torch.zeros_like(radius)).to(torch.int32)
    return means2d, conics, opacity, z, radii


def blend(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Blend the splats of one picture, tile by tile.

    Args:
        means2d: ``[N, 2]`` in pixels.
        conics: ``[N, 3]``.
        colors: ``[N, D]``.
        opacities: ``[N]``.
        depths: ``[N]``.
        radii: ``[N, 2]`` int32.
        width: picture width in pixels.
        height: picture height in pixels.

    Returns:
        premultiplied colour ``[H, W, D]`` and transmittance ``[H, W]``.
    """
    visible = torch.nonzero((radii > 0).all(-1))[:, 0]
    order = visible[torch.argsort(depths.detach()[visible], stable=True)]
    means2d, conics, colors, opacities, radii = (v[order] for v in (means2d, conics, colors, opacities, radii))
    low, high = means2d.detach() - radii, means2d.detach() + radii
    color_rows, rest_rows = [], []
    for top in range(0, height, TILE):
        row = torch.nonzero((high[:, 1] > top) & (low[:, 1] < top + TILE))[:, 0]
        color_tiles, rest_tiles = [], []
        for left in range(0, width, TILE):
            ids = row[(high[row, 0] > left) & (low[row, 0] < left + TILE)]
            ys = torch.arange(top, min(top + TILE, height), dtype=means2d.dtype, device=means2d.device) + 0.5
            xs = torch.arange(left, min(left + TILE, width), dtype=means2d.dtype, device=means2d.device) + 0.5
            dx = means2d[ids, 0, None, None] - xs[None, None, :]
            dy = means2d[ids, 1, None, None] - ys[None, :, None]
            xx, xy, yy = conics[ids, :, None, None].unbind(1)
            sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
            alpha = torch.clamp(opacities[ids, None, None] * torch.exp(-sigma), max=ALPHA_MAX)
            alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, torch.zeros_like(alpha))
            after = torch.cumprod(1 - alpha, 0)
            drawn = after.detach() > TRANSMITTANCE_MIN
            alpha = torch.where(drawn, alpha, torch.zeros_like(alpha))
            after = torch.cumprod(1 - alpha, 0)
            before = torch.cat([torch.ones_like(after[:1]), after[:-1]]) if len(ids) else after
            color_tiles.append(torch.einsum("nhw,nd->hwd", alpha * before, colors[ids]))
            rest_tiles.append(after[-1] if len(ids) else torch.ones_like(sigma.sum(0)))
        color_rows.append(torch.cat(color_tiles, 1))
        rest_rows.append(torch.cat(rest_tiles, 1))
    return torch.cat(color_rows), torch.cat(rest_rows)


def rasterize_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor,
    batch: tuple[int, ...],
    width: int,
    height: int,
    options: tuple[float, float, float, float],
    antialiased: bool,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Render B sets of N Gaussians into C cameras each; arguments and results as in ``cpu.rasterize_cpu``."""
    B, C, N, D = viewmats.shape[0], viewmats.shape[1], means.shape[1], colors.shape[-1]
    near_plane, far_plane, radius_clip, eps2d = options
    means2d, conics, splat_opacities, depths, radii = project_gaussians(
        means,
        quats,
        scales,
        opacities,
        viewmats,
        Ks,
        width,
        height,
        near_plane,
        far_plane,
        radius_clip,
        eps2d,
        antialiased,
    )
    means2d = means2d.reshape(*batch, C, N, 2)
    places = means2d.reshape(B, C, N, 2)
    pictures, rests = [], []
    for b in range(B):
        for c in range(C):
            picture, rest = blend(
                places[b, c],
                conics[b, c],
                colors[b],
                splat_opacities[b, c],
                depths[b, c],
                radii[b, c],
                width,
                height,
            )
            pictures.append(picture + rest[..., None] * backgrounds[b, c])
            rests.append(rest)
    renders = torch.stack(pictures).reshape(*batch, C, height, width, D)
    alphas = 1 - torch.stack(rests).reshape(*batch, C, height, width, 1)
    meta = {"means2d": means2d, "radii": radii.reshape(*batch, C, N, 2), "depths": depths.reshape(*batch, C, N)}
    return renders, alphas, meta
