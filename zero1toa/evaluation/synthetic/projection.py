"""What one photo tells about a head: which Gaussians it shows, their colours, and guesses for the others. Batched."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.render.cameras import camera_centers, project


def seen(points: Tensor, normals: Tensor, viewmats: Tensor, Ks: Tensor, size: int, facing: Tensor) -> Tensor:
    """Which points a camera sees, by a coarse depth grid.

    Args:
        points: ``[B, N, 3]`` in metres.
        normals: ``[B, N, 3]``.
        viewmats: ``[B, 4, 4]``.
        Ks: ``[B, 3, 3]`` in pixels.
        size: side of the picture in pixels.
        facing: smallest cosine between normal and view direction ``[B, 1]``.

    Returns:
        bool ``[B, N]``.
    """
    pixels, depth = project(points, viewmats, Ks)
    cells = size // 2
    place = (pixels / 2.0).floor().long()
    inside = ((place >= 0) & (place < cells)).all(-1)
    index = (place[..., 1] * cells + place[..., 0]).clamp(0, cells * cells - 1)
    nearest = torch.full((len(points), cells * cells), 1e3, device=points.device)
    nearest = nearest.scatter_reduce(1, index, torch.where(inside, depth, torch.full_like(depth, 1e3)), "amin")
    camera = camera_centers(viewmats)
    towards = torch.nn.functional.normalize(camera[:, None] - points, dim=-1)
    cosine = (normals * towards).sum(-1)
    metres = depth.mean(1, keepdim=True) / Ks[:, 0, :1] * 4.0  # two cells: what the slope of a surface may hide
    return inside & (cosine > facing) & (depth < nearest.gather(1, index) + 0.004 + metres)


def sample(pictures: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear colours ``[B, N, C]`` of pictures ``[B, H, W, C]`` at pixels ``[B, N, 2]`` (pixel centres at +0.5)."""
    size = torch.tensor([pictures.shape[2], pictures.shape[1]], device=pictures.device)
    place = pixels / size * 2.0 - 1.0
    found = torch.nn.functional.grid_sample(
        pictures.permute(0, 3, 1, 2), place[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].transpose(1, 2)


class Neighbourhoods:
    """Groups of points on the template, for blurring over the surface and for filling in from what is near.

    Args:
        points: ``[N, 3]`` in metres.
        count: number of groups; their spacing is the blur's reach.
    """

    def __init__(self, points: Tensor, count: int) -> None:
        order = torch.Generator().manual_seed(0)
        start = torch.randperm(len(points), generator=order)[:count].to(points.device)
        centres = points[start]
        for _ in range(4):  # a few rounds of k-means even out the random start
            group = _nearest(points, centres, 1)[1][:, 0]
            total = torch.zeros_like(centres).index_add_(0, group, points)
            number = torch.zeros(count, device=points.device).index_add_(0, group, torch.ones_like(points[:, 0]))
            centres = torch.where(number[:, None] > 0, total / number.clamp_min(1.0)[:, None], centres)
        distance, self.near = _nearest(points, centres, 3)
        self.group = self.near[:, 0]
        weight = 1.0 / (distance + 2e-3)
        self.weight = weight / weight.sum(1, keepdim=True)
        self.between = torch.cdist(centres, centres)
        self.count = count

    def blur(self, values: Tensor) -> Tensor:
        """Mean of each group, interpolated back: values ``[B, N, C]``, shape kept."""
        return self._spread(self._gather(values, torch.ones_like(values[..., :1])))

    def fill(self, values: Tensor, known: Tensor, sharpness: float = 6.0) -> Tensor:
        """Guess values ``[B, N, C]`` everywhere from where they are ``known`` ``[B, N]``, nearest groups first."""
        weight = known.float()[..., None]
        total = torch.zeros(len(values), self.count, values.shape[-1] + 1, device=values.device)
        total.index_add_(1, self.group, torch.cat([values * weight, weight], dim=-1))
        kernel = (self.between + 4e-3) ** -sharpness
        kernel = kernel / kernel.max()
        spread = kernel @ total
        return self._spread(spread[..., :-1] / spread[..., -1:].clamp_min(1e-20))

    def _gather(self, values: Tensor, weight: Tensor) -> Tensor:
        total = torch.zeros(len(values), self.count, values.shape[-1] + 1, device=values.device)
        total.index_add_(1, self.group, torch.cat([values * weight, weight], dim=-1))
        return total[..., :-1] / total[..., -1:].clamp_min(1e-6)

    def _spread(self, groups: Tensor) -> Tensor:
        out = torch.zeros(len(groups), len(self.near), groups.shape[-1], device=groups.device)
        for k in range(self.near.shape[1]):
            out += groups[:, self.near[:, k]] * self.weight[:, k, None]
        return out


def _nearest(points: Tensor, centres: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices ``[N, k]`` of the nearest centres, in pieces that fit in memory."""
    found = [torch.cdist(part, centres).topk(k, largest=False) for part in points.split(8192)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
