"""Read a carved picture at points, filtered to the size of what reads it and without its background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHARPENING = 0.6
"""Share of the detail at the footprint's scale that is added."""
GREY = 0.02
"""Mean difference between the channels up to which a picture has no colours."""


class CarvedPictures:
    """A batch of pictures with straight alpha, as premultiplied mip maps.

    Filtering premultiplied colours leaves the background out: a transparent pixel weighs nothing.
    """

    def __init__(self, images: Tensor, levels: int = 6) -> None:
        """Build the maps.

        Args:
            images: ``[I, H, W, 4]`` in [0, 1], straight alpha.
            levels: number of maps, each half as large as the one before.
        """
        picture = images.movedim(-1, 1)
        level = torch.cat([picture[:, :3] * picture[:, 3:], picture[:, 3:]], 1)
        self.size = (images.shape[2], images.shape[1])
        self.levels = [level]
        while len(self.levels) < levels and min(level.shape[-2:]) >= 4:
            level = functional.avg_pool2d(level, 2)
            self.levels.append(level)
        # The matte without its rim, whose colours are mixed with what was behind.
        radius = max(round(0.006 * max(self.size)), 1)
        self.core = -functional.max_pool2d(-picture[:, 3:], 2 * radius + 1, 1, radius)

    def colors(self, pixels: Tensor, footprint: Tensor) -> Tensor:
        """Colours ``[I, P, 3]`` in [0, 1] at ``pixels`` ``[I, P, 2]`` averaged over ``footprint`` ``[I, P]`` pixels.

        What is drawn with them overlaps and blurs once more, so they are sharpened at the footprint's own scale.
        """
        wanted = footprint.clamp_min(1).log2().clamp_max(len(self.levels) - 2)
        fine = pixels.new_zeros(*pixels.shape[:2], 4)
        coarse = torch.zeros_like(fine)
        for number, level in enumerate(self.levels):
            read = self._read(level, pixels)
            fine = fine + (1 - (wanted - number).abs()).clamp_min(0)[..., None] * read
            coarse = coarse + (1 - (wanted + 1 - number).abs()).clamp_min(0)[..., None] * read
        a, b = (v[..., :3] / v[..., 3:].clamp_min(1e-4) for v in (fine, coarse))
        return (a + SHARPENING * (a - b)).clamp(0, 1)

    def confidence(self, pixels: Tensor) -> Tensor:
        """How safely a point ``[I, P]`` lies inside the matte, 0 to 1; 0 outside of the picture."""
        alpha = self._read(self.core, pixels)[..., 0]
        within = ((pixels > 0.5) & (pixels < pixels.new_tensor(self.size) - 0.5)).all(-1)
        return smooth_step((alpha - 0.4) / 0.5) * within

    def _read(self, level: Tensor, pixels: Tensor) -> Tensor:
        grid = 2 * pixels / pixels.new_tensor(self.size) - 1
        read = functional.grid_sample(level, grid[:, None], padding_mode="border", align_corners=False)
        return read[:, :, 0].movedim(1, -1)


def smooth_step(x: Tensor) -> Tensor:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def is_colorful(images: Tensor) -> Tensor:
    """Whether carved pictures ``[I, H, W, 4]`` in [0, 1] are in colour and not shades of grey ``[I]`` bool."""
    colors, alpha = images[..., :3], images[..., 3]
    difference = (colors.amax(-1) - colors.amin(-1)) * alpha
    return difference.sum((1, 2)) > GREY * alpha.sum((1, 2))
