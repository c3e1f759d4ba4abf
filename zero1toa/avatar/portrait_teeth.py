"""Where a portrait's teeth end.

How long a person's teeth are, and how high they stand behind the lips, is in no coefficient of a head model, and no
landmark tells it. A smile shows it: each row of teeth is moved up or down until it covers what looks like teeth between
the lips, and not the dark of the mouth.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from skimage.draw import polygon2mask
from torch import Tensor

from zero1toa.avatar.features import LIP_SEAM
from zero1toa.avatar.picture_sampling import smooth_step
from zero1toa.avatar.portrait_frame import Mask, PortraitFrame
from zero1toa.avatar.surface import Array
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import Portrait

CHEEKS = (50, 280, 205, 425, 36, 266)
"""Landmarks on skin without a beard."""
MOVES = np.arange(9) * 0.001
"""Metres that a row may move towards the other one."""
LOWER_COST = 2.0
"""Cost of a move of the lower teeth over one of the upper: what fills a smile is the upper ones."""
FEWEST = 0.05
"""Share of the opening that has to look like teeth, or none are shown."""
SMALLEST = 0.03
"""Height of the opening between the lips over its width from which it tells anything."""
INDIFFERENT = 0.02
"""How much less alike (Dice) teeth may be that move less."""


@torch.no_grad()
def lay_teeth(head: HeadModel, portrait: Portrait) -> HeadParams:
    """Offset the head's rows of teeth to where the portrait shows them; nothing moves behind closed lips.

    Args:
        head: head model, on CPU. Teeth that are not two separate rows stay where they are.
        portrait: its parameters, laid on its landmarks; camera, landmarks and picture.

    Returns:
        The parameters with the rows' moves in their offset; deterministic.
    """
    params = portrait.params
    opening = _opening(portrait)
    if opening is None:
        return params
    rows = _rows(head)
    if len(rows) != 2:
        return params
    frame = PortraitFrame(head, portrait, portrait.size)
    shown = _paler_than_skin(frame.picture, portrait.landmarks) * opening
    if shown.sum() < FEWEST * opening.sum():
        return params
    upper, lower = (
        _covers(frame, row, towards * MOVES) & opening for row, towards in zip(rows, (-1.0, 1.0), strict=True)
    )
    together = (upper[:, None] | lower).reshape(-1, *opening.shape)
    likeness = 2 * (together * shown).sum((1, 2)) / (together.sum((1, 2)) + shown.sum())  # Dice
    cost = (MOVES[:, None] + LOWER_COST * MOVES).ravel()
    best = np.argmin(np.where(likeness >= likeness.max() - INDIFFERENT, cost, np.inf))
    down, up = np.unravel_index(best, (len(MOVES), len(MOVES)))
    offset = frame.base.clone()
    offset[rows[0], 1] -= float(MOVES[down])
    offset[rows[1], 1] += float(MOVES[up])
    return params.replace(offset=offset)


def like_teeth(colors: Tensor) -> Tensor:
    """How much sRGB colours ``[..., 3]`` could be a tooth's ``[...]``: bright and hardly saturated, unlike lips."""
    bright, dull = colors.amax(-1), colors.amin(-1)
    return smooth_step((dull / bright.clamp_min(1e-3) - 0.66) / 0.14) * smooth_step((bright - 0.35) / 0.25)


def _paler_than_skin(picture: Array, landmarks: NDArray[np.floating]) -> Array:
    """How much a picture's colours could be teeth in the light that falls on this skin ``[H, W]``."""
    colors = torch.from_numpy(picture[..., :3])
    x, y = np.clip(landmarks[list(CHEEKS)].astype(int), 0, len(picture) - 1).T
    skin = colors[torch.from_numpy(y), torch.from_numpy(x)].median(0).values
    bright, dull = colors.amax(-1), colors.amin(-1)
    paleness = dull / bright.clamp_min(1e-3) / (skin.amin() / skin.amax().clamp_min(1e-3))
    lit = smooth_step((bright / skin.amax().clamp_min(1e-3) - 0.35) / 0.3)
    return torch.maximum(like_teeth(colors), lit * smooth_step((paleness - 1.1) / 0.25)).numpy()


def _opening(portrait: Portrait) -> Mask | None:
    """Pixels between the lips ``[H, W]``, or None where they are too close to show anything."""
    seam = portrait.landmarks[list(LIP_SEAM)].astype(np.float64)
    mask: Mask = polygon2mask((portrait.size, portrait.size), seam[:, ::-1] - 0.5)
    across = float(np.linalg.norm(seam.max(0) - seam.min(0)))
    return mask if mask.sum() > SMALLEST * across**2 else None


def _rows(head: HeadModel) -> list[Tensor]:
    """Vertices of the connected pieces of the teeth, the highest first."""
    faces = head.faces[head.regions["teeth"]].numpy() if "teeth" in head.regions else np.zeros((0, 3), int)
    ids = np.unique(faces)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), (head.n_vertices, head.n_vertices))
    label = connected_components(graph, directed=False)[1][ids]
    height = head.vertices(head.neutral())[:, 1].numpy()
    pieces = [ids[label == one] for one in np.unique(label)]
    pieces.sort(key=lambda piece: -height[piece].mean())
    return [torch.from_numpy(piece) for piece in pieces]


def _covers(frame: PortraitFrame, row: Tensor, moves: Array) -> Mask:
    """Pixels under a row of teeth that is moved up by each of ``moves`` ``[M]``, metres ``[M, H, W]``, lips or not."""
    of_row = frame.head.faces[torch.isin(frame.head.faces, row).all(1) & frame.head.regions["teeth"]]
    covers = []
    for move in moves.tolist():
        offset = torch.zeros_like(frame.base)
        offset[row, 1] = move
        covers.append(frame.mask(frame.posed(offset), of_row))
    return np.stack(covers)
