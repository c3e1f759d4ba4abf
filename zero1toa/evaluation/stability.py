"""Does an avatar hold still on its own skin while it moves? Measured on pictures, along the head's mesh.

The mesh says where each point of the surface goes from one frame to the next. Light and colours of an avatar do not
depend on the view, so a point that is seen well in both frames should look the same in both; what it changes by is
flicker. Gaussians that float above their triangles, or poke out of them, slide over the surface as it turns and cause
just that.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.avatar.surface import vertex_normals
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.motion.reader import load_motion
from zero1toa.motion.sequence import Motion
from zero1toa.render.cameras import camera_centers, project

SIZE = 256
MOTION = "expressions"
FPS = 12.5
FRAMES = 50
"""Frames of the shipped motion that are looked at: four seconds, in which it smiles, turns, nods and winks."""

_SQUARE = 0.5  # smallest cosine between normal and view: outlines mix the surface with what is behind it
_DEPTH = 0.003  # metres behind the nearest surface at which a point still counts as seen
_CHUNK = 16  # frames whose depth is drawn at a time


@dataclasses.dataclass(frozen=True)
class Stability:
    """How still the surface looks.

    Attributes:
        flicker: root mean square change of a surface point's colour from one frame to the next, in 8-bit levels (0 is
            perfectly still), over all points that are seen squarely in both.
        points: point pairs that were compared.
    """

    flicker: float
    points: int


def measure_stability(
    player: AvatarPlayer, motion: Motion | None = None, size: int = SIZE, frames: int = FRAMES
) -> Stability:
    """Play a motion before a camera that stands still, and follow the points of the surface.

    A picture with little detail changes little: of two avatars that flicker alike the sharper one is the better one.

    Args:
        player: the avatar.
        motion: what it does; by default the shipped ``expressions`` at :data:`FPS`.
        size: side of the pictures in pixels.
        frames: frames of the motion that are played.

    Returns:
        The measure; ``flicker`` is NaN if no point is seen in two frames that follow each other.

    Raises:
        ValueError: for less than two frames, between which nothing can change.
    """
    motion = load_motion(MOTION, FPS) if motion is None else motion
    arkit, neck = motion.coefficients[:frames], motion.neck()[:frames]
    if len(arkit) < 2:
        raise ValueError(f"flicker is a change between frames; {len(arkit)} of them have none")
    pictures = player.render(arkit, size=size, neck=neck)
    vertices = _vertices(player, arkit, neck)
    viewmats, Ks = player.cameras(0.0, 0.0, size, len(arkit))
    return follow(pictures, vertices, player.head.faces, viewmats, Ks)


@torch.no_grad()
def follow(pictures: NDArray[np.uint8], vertices: Tensor, faces: Tensor, viewmats: Tensor, Ks: Tensor) -> Stability:
    """Compare what each vertex looks like in frames that follow each other.

    Args:
        pictures: ``[T, H, W, 3]`` uint8.
        vertices: the surface in each frame ``[T, V, 3]``, metres.
        faces: triangles ``[F, 3]`` int64, counter-clockwise seen from outside.
        viewmats: OpenCV world-to-camera ``[T, 4, 4]``.
        Ks: intrinsics in pixels ``[T, 3, 3]``.
    """
    colors, seen = [], []
    height, width = pictures.shape[1:3]
    for start in range(0, len(pictures), _CHUNK):
        part = slice(start, start + _CHUNK)
        pixels, depth = project(vertices[part], viewmats[part], Ks[part])
        nearest = depth_map(vertices[part], faces, viewmats[part], Ks[part], (width, height))
        toward = torch.nn.functional.normalize(camera_centers(viewmats[part])[:, None] - vertices[part], dim=-1)
        square = (vertex_normals(vertices[part], faces) * toward).sum(-1) >= _SQUARE
        grid = pixels / pixels.new_tensor([width, height]) * 2 - 1
        inside = (grid.abs() < 1).all(-1)
        shown = torch.from_numpy(pictures[part]).to(vertices).permute(0, 3, 1, 2)
        colors.append(_sample(shown, grid, "bilinear"))
        surface = _sample(nearest[:, None].nan_to_num(posinf=0.0), grid, "nearest")[..., 0]
        seen.append(square & inside & (depth <= surface + _DEPTH))
    color, visible = torch.cat(colors), torch.cat(seen)
    both = visible[1:] & visible[:-1]
    count = int(both.sum())
    if count == 0:
        return Stability(math.nan, 0)
    change = (color[1:] - color[:-1])[both]
    return Stability(float(change.double().square().mean().sqrt()), count)


def _sample(maps: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Values ``[T, V, C]`` of ``maps`` ``[T, C, H, W]`` at ``grid`` ``[T, V, 2]``, whose corners are -1 and 1."""
    taken = torch.nn.functional.grid_sample(maps, grid[:, None], mode=mode, padding_mode="border", align_corners=False)
    return taken[:, :, 0].transpose(1, 2)


@torch.no_grad()
def _vertices(player: AvatarPlayer, arkit: NDArray[np.float32], neck: NDArray[np.float32]) -> Tensor:
    parts = [
        player.head.vertices(
            player.pose(torch.from_numpy(arkit[i : i + _CHUNK]), torch.from_numpy(neck[i : i + _CHUNK]))
        )
        for i in range(0, len(arkit), _CHUNK)
    ]
    return torch.cat(parts)
