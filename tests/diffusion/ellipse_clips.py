"""A stand-in for synthetic heads: coloured ellipses with features, and blurred, discoloured copies of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class EllipseClips:
    """Follows ``ClipSource``: each identity is an ellipse with two eyes and a mouth in its own colours."""

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)

    def sample(self, generator: torch.Generator, batch: int, frames: int, size: int) -> dict[str, Tensor]:
        word = int(torch.randint(1 << 40, (), generator=generator, device=generator.device))
        own = torch.Generator(self.device).manual_seed(word + self.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=own, device=self.device)

        colors = uniform(batch, 3, 3) * 0.9
        radii = 0.25 + 0.1 * uniform(batch, 2)
        path = 0.5 + 0.06 * (uniform(batch, frames + 1, 2) - 0.5)
        opening = 0.01 + 0.06 * uniform(batch, frames + 1)
        mouth = torch.stack([torch.full_like(opening, 0.08), opening], -1)
        offsets = torch.tensor([[-0.1, -0.08], [0.1, -0.08], [0.0, 0.12]], device=self.device)
        angles = torch.linspace(0, 6.2832, 478, device=self.device)
        circle = torch.stack([angles.cos(), angles.sin()], -1)

        axis = (torch.arange(size, device=self.device) + 0.5) / size
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)

        def inside(center: Tensor, radius: Tensor) -> Tensor:
            distance = ((grid - center[..., None, None, :]) / radius[..., None, None, :]).square().sum(-1)
            return (30 * (1 - distance)).clamp(0, 1)[..., None]

        head = inside(path, radii[:, None].expand(-1, frames + 1, -1))
        picture = torch.lerp(torch.ones_like(head).expand(*head.shape[:-1], 3), colors[:, None, None, None, 0], head)
        eye = torch.full_like(path, 0.04)
        for offset, radius, index in ((offsets[0], eye, 1), (offsets[1], eye, 1), (offsets[2], mouth, 2)):
            picture = torch.lerp(picture, colors[:, None, None, None, index], inside(path + offset, radius))
        landmarks = path[:, :, None] + radii[:, None, None] * circle
        landmarks[:, :, 60:120] = (path + offsets[2])[:, :, None] + mouth[:, :, None] * circle[60:120]

        truth = picture[:, :frames]
        blurred = F.avg_pool2d(truth.flatten(0, 1).movedim(-1, 1), 5, 1, 2, count_include_pad=False).movedim(1, -1)
        tint = 0.25 * (uniform(batch, 1, 1, 1, 3) - 0.5)
        degraded = (blurred.unflatten(0, (batch, frames)) + tint * head[:, :frames]).clamp(0, 1)
        return {
            "truth": truth,
            "degraded": degraded,
            "mask": head[:, :frames],
            "reference": picture[:, frames],
            "landmarks": landmarks[:, :frames],
            "reference_landmarks": landmarks[:, frames],
            "kind": torch.randint(4, (batch,), generator=own, device=self.device),
        }
