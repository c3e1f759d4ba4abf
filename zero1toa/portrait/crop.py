"""The square around head, hair and neck, and what the camera becomes in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.carving import neck_guide, reach_mask
from zero1toa.portrait.fitting import HeadFit
from zero1toa.portrait.landmarks import cut
from zero1toa.portrait.matting import segment_person
from zero1toa.render.cameras import project

VIEW_METRES = 0.62
"""Side of the first look in metres at the head: wide hair and some shoulder."""
MARGIN = 0.05
"""Free border of the crop, as a share of its side."""

_LOOK = 320  # pixels of the first look


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square in a photo.

    Attributes:
        left: x of its left edge in pixels of the photo, which may lie outside.
        top: y of its top edge, likewise.
        side: side in pixels of the photo.
        size: side in pixels of the crop.
    """

    left: float
    top: float
    side: float
    size: int

    @property
    def scale(self) -> float:
        """Pixels of the crop per pixel of the photo."""
        return self.size / self.side

    def pixels(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop ``[size, size, 3]``; outside the photo its edge is repeated."""
        return cut(photo, (self.left, self.top, self.left + self.side, self.top + self.side), self.size)

    def inside(self, photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which pixels of the crop lie in the photo ``[size, size]``."""
        at = (np.arange(self.size) + 0.5) / self.scale
        x, y = self.left + at, self.top + at
        return ((y >= 0) & (y < photo.shape[0]))[:, None] & ((x >= 0) & (x < photo.shape[1]))[None]

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Photo points ``[N, 3]`` (x, y, z in pixels) in pixels of the crop."""
        return ((points - np.array([self.left, self.top, 0.0], np.float32)) * np.float32(self.scale)).astype(np.float32)

    def intrinsics(self, K: Tensor) -> Tensor:
        """Intrinsics ``[3, 3]`` of the photo, in pixels of the crop."""
        move = torch.tensor([[1.0, 0.0, -self.left], [0.0, 1.0, -self.top], [0.0, 0.0, 1.0]])
        return torch.diag(torch.tensor([self.scale, self.scale, 1.0])) @ move @ K


def first_look(fit: HeadFit, head: HeadModel) -> Crop:
    """A square of :data:`VIEW_METRES` around the fitted head, for the first segmentation."""
    center, depth = project(head.center[None].float(), fit.viewmat, fit.K)
    side = VIEW_METRES * float(fit.K[0, 0]) / float(depth[0])
    return Crop(float(center[0, 0]) - side / 2, float(center[0, 1]) - side / 2, side, _LOOK)


def head_crop(photo: NDArray[np.uint8], fit: HeadFit, head: HeadModel, size: int, method: str) -> Crop:
    """The square that holds the whole head model, the person's hair and the neck.

    Args:
        photo: sRGB ``[H, W, 3]`` uint8.
        fit: fit in pixels of the photo.
        head: the head model.
        size: side of the crop in pixels.
        method: segmentation method, see :func:`zero1toa.portrait.matting.segment_person`.

    Returns:
        The crop; it may reach over the photo's border.
    """
    look = first_look(fit, head)
    seen = dataclasses.replace(fit, K=look.intrinsics(fit.K))
    guide = neck_guide(head, seen, look.size)
    person = segment_person(look.pixels(photo), method) > 0.5
    held = (person & look.inside(photo) & reach_mask(guide)) | guide.outline | guide.tube
    rows, columns = np.flatnonzero(held.any(1)), np.flatnonzero(held.any(0))
    low = np.array([columns[0], rows[0]]) / look.scale
    high = np.array([columns[-1] + 1, rows[-1] + 1]) / look.scale
    side = float((high - low).max()) / (1 - 2 * MARGIN)
    center = (low + high) / 2 + np.array([look.left, look.top])
    return Crop(float(center[0]) - side / 2, float(center[1]) - side / 2, side, size)
