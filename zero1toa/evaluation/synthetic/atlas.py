"""Where things are on a face: distances and weights on the neutral head, from MediaPipe's landmark numbers alone.

Every field is measured once on the template and then shared by all identities, because these have its topology. No
texture coordinates are needed, so any head model with the 478 landmarks will do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Landmark chains run from the nose outwards; the first of a pair is the subject's right, the second the left.
BROW_UPPER = ((107, 66, 105, 63, 70), (336, 296, 334, 293, 300))
BROW_LOWER = ((55, 65, 52, 53, 46), (285, 295, 282, 283, 276))
LID_UPPER = ((133, 173, 157, 158, 159, 160, 161, 246, 33), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LID_LOWER = ((133, 155, 154, 153, 145, 144, 163, 7, 33), (362, 382, 381, 380, 374, 373, 390, 249, 263))
UNDER_EYE = ((112, 232, 231, 230, 229, 228), (341, 452, 451, 450, 449, 448))
FOLD = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))
IRIS_CENTRE = (468, 473)
IRIS_RIM = ((469, 470, 471, 472), (474, 475, 476, 477))
MOUTH_LINE = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)

SPOTS: dict[str, tuple[Sequence[int], float]] = {
    "cheeks": ((50, 205, 280, 425), 0.019),
    "nose": ((1, 4, 5, 48, 278), 0.011),
    "chin": ((199, 175), 0.014),
    "forehead": ((9, 151, 108, 337), 0.028),
    "moustache": ((164, 167, 393, 165, 391, 92, 322, 186, 410), 0.0075),
    "goatee": ((152, 175, 199, 200, 18, 83, 313, 148, 377, 176, 400, 201, 421), 0.010),
    "jaw": ((136, 365, 172, 397, 58, 288, 132, 361, 135, 364, 169, 394, 170, 395, 214, 434, 138, 367, 215, 435), 0.012),
    "sideburns": ((93, 323, 234, 454, 177, 401), 0.011),
}
"""Soft areas: landmarks in their middle, and their radius in metres."""

HAIRLINE = ((10, 10), (67, 297), (54, 284), (162, 389), (234, 454))
"""Landmark pairs along the front hairline, from the middle to the sideburns."""


@dataclasses.dataclass(frozen=True)
class Eye:
    """One eyeball on the template.

    Attributes:
        angle: angle from the optical axis over the angle of the iris rim ``[P]``: 0 at the pupil, 1 at the rim.
        around: polar angle about the optical axis in radians ``[P]``.
        height: sine of the elevation on the eyeball ``[P]``: 1 at its top.
    """

    angle: Tensor
    around: Tensor
    height: Tensor


@dataclasses.dataclass(frozen=True)
class Atlas:
    """Fields over P points of the template (Gaussians or vertices), all float32 ``[P]`` unless said otherwise.

    Attributes:
        points: positions ``[P, 3]`` in metres.
        brow_u: place along the nearer brow, 0 at its inner and 1 at its outer end; runs on beyond both.
        brow_v: metres above the brow's middle line.
        lash_upper: distance to the upper lid margin in metres.
        lash_lower: distance to the lower lid margin in metres.
        lash_u: place along the upper lid margin, 0 at the inner corner and 1 at the outer.
        above_lid: 1 above the upper lid margin, else 0.
        under_eye: distance to the groove under the eye in metres.
        fold: distance to the fold from nose to mouth in metres.
        mouth_line: distance to the line between the lips in metres.
        spots: soft areas of :data:`SPOTS`, 0 to 1.
        elevation: degrees above the horizontal, seen from the middle of the skull.
        azimuth: degrees from the front, 0 to 180 on both sides.
        hairline: weights ``[P, 7]`` of the seven hairline anchors at the point's azimuth.
        base_hairline: elevations of the anchors in degrees ``[7]``.
        eyes: right and left eyeball.
        length: face height (landmark 10 to 152) in metres.
    """

    points: Tensor
    brow_u: Tensor
    brow_v: Tensor
    lash_upper: Tensor
    lash_lower: Tensor
    lash_u: Tensor
    above_lid: Tensor
    under_eye: Tensor
    fold: Tensor
    mouth_line: Tensor
    spots: dict[str, Tensor]
    elevation: Tensor
    azimuth: Tensor
    hairline: Tensor
    base_hairline: Tensor
    eyes: tuple[Eye, Eye]
    length: float


def measure(points: Tensor, landmarks: Tensor, centre: Tensor, eyeballs: tuple[Tensor, Tensor]) -> Atlas:
    """Measure all fields of ``points`` ``[P, 3]``.

    Args:
        points: positions on the neutral mean head in metres.
        landmarks: MediaPipe's landmarks on it ``[478, 3]``.
        centre: middle of the skull ``[3]``.
        eyeballs: points on the subject's right and left eyeball, ``[*, 3]`` each.
    """
    brow_u, brow_v, _ = _nearer(_brow(points, landmarks, 0), _brow(points, landmarks, 1))
    lash_u, above, lash_upper = _nearer(_lash(points, landmarks, 0), _lash(points, landmarks, 1))
    relative = points - centre
    elevation = torch.rad2deg(torch.atan2(relative[:, 1], relative[:, [0, 2]].norm(dim=-1)))
    azimuth = torch.rad2deg(torch.atan2(relative[:, 0].abs(), relative[:, 2]))
    anchors, base = _hairline_anchors(landmarks, centre)
    return Atlas(
        points=points,
        brow_u=brow_u,
        brow_v=brow_v,
        lash_upper=lash_upper,
        lash_lower=_chains(points, landmarks, LID_LOWER),
        lash_u=lash_u,
        above_lid=above,
        under_eye=_chains(points, landmarks, UNDER_EYE),
        fold=_chains(points, landmarks, FOLD),
        mouth_line=polyline(points, landmarks[list(MOUTH_LINE)])[1],
        spots={name: _spot(points, landmarks[list(ids)], radius) for name, (ids, radius) in SPOTS.items()},
        elevation=elevation,
        azimuth=azimuth,
        hairline=_hats(azimuth, anchors),
        base_hairline=base,
        eyes=(_eye(points, landmarks, eyeballs[0], 0), _eye(points, landmarks, eyeballs[1], 1)),
        length=float((landmarks[10] - landmarks[152]).norm()),
    )


def polyline(points: Tensor, chain: Tensor, extend: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest place on a chain of points.

    Args:
        points: ``[P, 3]``.
        chain: ``[K, 3]``.
        extend: prolong the first and the last piece without end.

    Returns:
        Place along the chain as a fraction of its length ``[P]``, distance in metres ``[P]``, nearest point ``[P, 3]``.
    """
    start, step = chain[:-1], chain[1:] - chain[:-1]
    lengths = step.norm(dim=-1)
    t = ((points[:, None] - start) * step).sum(-1) / lengths.square()
    low = torch.zeros_like(lengths)
    high = torch.ones_like(lengths)
    if extend:
        low[0], high[-1] = -math.inf, math.inf
    t = t.clamp(low, high)
    nearest = start + t[..., None] * step
    distance, piece = (points[:, None] - nearest).norm(dim=-1).min(1)
    row = torch.arange(len(points), device=points.device)
    before = torch.cumsum(lengths, 0) - lengths
    along = (before[piece] + t[row, piece] * lengths[piece]) / lengths.sum()
    return along, distance, nearest[row, piece]


def _brow(points: Tensor, landmarks: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    middle = (landmarks[list(BROW_UPPER[side])] + landmarks[list(BROW_LOWER[side])]) / 2.0
    along, distance, nearest = polyline(points, middle, extend=True)
    sign = torch.where(points[:, 1] >= nearest[:, 1], 1.0, -1.0)
    return along, sign * distance, distance


def _lash(points: Tensor, landmarks: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    along, distance, nearest = polyline(points, landmarks[list(LID_UPPER[side])])
    return along, (points[:, 1] >= nearest[:, 1]).float(), distance


def _nearer(right: tuple[Tensor, ...], left: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Fields of the nearer of two sides; the last field is the distance."""
    chosen = right[-1] <= left[-1]
    return tuple(torch.where(chosen, a, b) for a, b in zip(right, left, strict=True))


def _chains(points: Tensor, landmarks: Tensor, chains: tuple[Sequence[int], Sequence[int]]) -> Tensor:
    return torch.minimum(*(polyline(points, landmarks[list(chain)])[1] for chain in chains))


def _spot(points: Tensor, middles: Tensor, radius: float) -> Tensor:
    square = torch.cdist(points, middles).square() / (2.0 * radius * radius)
    return 1.0 - torch.prod(1.0 - 0.9 * torch.exp(-square), dim=1)


def _hairline_anchors(landmarks: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    relative = torch.stack([landmarks[list(pair)].mean(0) for pair in HAIRLINE]) - centre
    relative[:, 0] = torch.stack([landmarks[list(pair), 0].abs().mean() for pair in HAIRLINE])
    azimuth = torch.rad2deg(torch.atan2(relative[:, 0].abs(), relative[:, 2]))
    elevation = torch.rad2deg(torch.atan2(relative[:, 1], relative[:, [0, 2]].norm(dim=-1)))
    azimuth[0] = 0.0
    azimuth = torch.cummax(azimuth + torch.arange(len(azimuth), device=azimuth.device) * 1e-3, 0).values
    behind_ear = float(relative[4, 1] - 0.012)  # the line rises round the ear and sinks to the level of the mouth
    nape = float(landmarks[14, 1] - centre[1])
    extra = torch.tensor([[118.0, math.degrees(math.atan2(behind_ear, 0.085))],
                          [180.0, math.degrees(math.atan2(nape, 0.075))]], device=landmarks.device)  # fmt: skip
    return torch.cat([azimuth, extra[:, 0]]), torch.cat([elevation, extra[:, 1]])


def _hats(azimuth: Tensor, anchors: Tensor) -> Tensor:
    """Weights of linear interpolation between ``anchors`` ``[K]`` at ``azimuth`` ``[P]``: ``[P, K]``."""
    right = torch.searchsorted(anchors, azimuth.contiguous()).clamp(1, len(anchors) - 1)
    left = right - 1
    t = ((azimuth - anchors[left]) / (anchors[right] - anchors[left])).clamp(0.0, 1.0)
    weights = torch.zeros(len(azimuth), len(anchors), device=azimuth.device)
    row = torch.arange(len(azimuth), device=azimuth.device)
    weights[row, left] += 1.0 - t
    weights[row, right] += t
    return weights


def _eye(points: Tensor, landmarks: Tensor, eyeball: Tensor, side: int) -> Eye:
    centre = _sphere_centre(eyeball)
    axis = torch.nn.functional.normalize(landmarks[IRIS_CENTRE[side]] - centre, dim=0)
    radius = (eyeball - centre).norm(dim=-1).median()
    rim = (landmarks[list(IRIS_RIM[side])] - landmarks[IRIS_CENTRE[side]]).norm(dim=-1).mean() / radius
    direction = torch.nn.functional.normalize(points - centre, dim=-1)
    angle = torch.arccos((direction @ axis).clamp(-1.0, 1.0)) / torch.arcsin(rim.clamp(0.1, 0.9))
    up = torch.tensor([0.0, 1.0, 0.0], device=points.device)
    sideways = torch.nn.functional.normalize(torch.linalg.cross(up, axis), dim=0)
    around = torch.atan2(direction @ torch.linalg.cross(axis, sideways), direction @ sideways)
    return Eye(angle=angle, around=around, height=direction[:, 1])


def _sphere_centre(points: Tensor) -> Tensor:
    """Least-squares centre of the sphere through ``points`` ``[P, 3]``: 2 c . p + (r^2 - |c|^2) = |p|^2."""
    shift = points.mean(0)
    local = (points - shift).double()
    system = torch.cat([2.0 * local, torch.ones_like(local[:, :1])], dim=1)
    solution = torch.linalg.lstsq(system.cpu(), local.square().sum(-1, keepdim=True).cpu()).solution[:3, 0]
    return shift + solution.to(points)
