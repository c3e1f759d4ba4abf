"""Closing the lids of any edition: skin turns about the eyeball's centre until its edges meet.

FLAME has no lid parameter; its expression basis spreads a blink over many coefficients. A rotation about the eyeball
keeps every point of a lid at its distance, so a lid never enters the eyeball on its way.

The eye's opening is cut into columns between its corners. In each, the upper and the lower edge have an elevation about
the axis through the eyeball that is parallel to the line of the corners, measured on the shape at hand, and both go to
a common elevation. Skin above, below and behind follows, the less the farther it is from the edge.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from zero1toa.head.canonical import MEETING_LINE
from zero1toa.head.flame.anatomy import Eye, along
from zero1toa.head.flame.mesh import Array, Index

COLUMNS = 17
OVERLAP = 0.03
"""Radians by which closed lids pass the meeting line: edges are polylines, which would leave slits between columns."""
_FADE_UP, _FADE_DOWN = 0.9, 0.7  # radians above and below the edges in which the skin follows
_FADE_OUT = (1.15, 1.75)  # radii from the eyeball's centre at which the skin follows fully, and no more
_CLEARANCE = 0.0003  # metres between a closed lid and the front of the eyeball


@dataclasses.dataclass(frozen=True)
class LidRig:
    """What closes the lids of one eye; every tensor is constant, all angles come from the shape at hand.

    Attributes:
        ball: vertex ids of the eyeball ``[B]``.
        shares: the ball's vertices' weights in its centre ``[B]``.
        largest: largest distance of the eyeball's front from its centre over the mean one.
        frame: rows are the corners' axis, up and forward ``[3, 3]``.
        edges: two vertex ids per column and edge ``[2, K, 2]``, upper edge first.
        edge_weights: their weights ``[2, K, 2]``.
        skin: vertex ids of the skin that follows ``[L]``.
        follow: how far it follows the upper and the lower edge's columns ``[2, L, K]``.
        rising: how far it rises over the eyeball's front where it lies lower, 0 on the lids' inner sides ``[L]``.
    """

    ball: Tensor
    shares: Tensor
    largest: Tensor
    frame: Tensor
    edges: Tensor
    edge_weights: Tensor
    skin: Tensor
    follow: Tensor
    rising: Tensor

    def close(self, rest: Tensor, closure: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement of the lids.

        Args:
            rest: vertices before skinning ``[..., V, 3]``.
            closure: ``[...]``, 0 as the shape is, 1 closed.

        Returns:
            Vertex ids ``[L]`` and their displacements ``[..., L, 3]``.
        """
        ball = rest[..., self.ball, :]
        center = (self.shares[:, None] * ball).sum(-2, keepdim=True)
        radius = self.largest * (self.shares * (ball - center).norm(dim=-1)).sum(-1)[..., None]
        edge = (rest[..., self.edges, :] * self.edge_weights[..., None]).sum(-2) - center.unsqueeze(-2)
        upper, lower = _elevation(edge, self.frame).unbind(-2)
        meeting = (1 - MEETING_LINE) * upper + MEETING_LINE * lower
        opening = (upper - lower).clamp(min=0)
        overlap = OVERLAP * (opening / (opening + OVERLAP))  # none where there is nothing to close
        moves = (meeting - overlap - upper) @ self.follow[0].T + (meeting + overlap - lower) @ self.follow[1].T
        share = closure.clamp(0, 1)[..., None]
        away = rest[..., self.skin, :] - center
        turned = _turn(away, share * moves, self.frame[0])
        # Some shapes have lids that cut into the eyeball, or a cornea that bulges: closing, skin rises over its front.
        distance = turned.norm(dim=-1)
        missing = (radius + _CLEARANCE - distance).clamp(min=0) * self.rising
        turned = turned * (1 + share * missing / distance.clamp(min=1e-6))[..., None]
        return self.skin, turned - away


def _elevation(points: Tensor, frame: Tensor) -> Tensor:
    local = points @ frame.T
    return torch.atan2(local[..., 1], local[..., 2])


def _turn(points: Tensor, angle: Tensor, axis: Tensor) -> Tensor:
    """Rotate points ``[..., L, 3]`` about an axis so that their elevation grows by ``angle`` ``[..., L]``."""
    cosine, sine = torch.cos(angle)[..., None], -torch.sin(angle)[..., None]
    along_axis = (points * axis).sum(-1, keepdim=True)
    return (
        points * cosine + torch.linalg.cross(axis.expand_as(points), points) * sine + axis * along_axis * (1 - cosine)
    )


def rig_lids(vertices: Array, faces: Index, eye: Eye) -> LidRig:
    """Measure the lids of one eye.

    Args:
        vertices: neutral mesh ``[V, 3]``, eyes open.
        faces: ``[F, 3]``.
        eye: its parts.
    """
    frame = _frame(vertices, eye)
    shares = np.linspace(0, 1, COLUMNS)
    pairs, weights = zip(*(along(vertices, edge, shares) for edge in (eye.margin.upper, eye.margin.lower)), strict=True)
    edge_points = np.stack([(vertices[p] * w[..., None]).sum(1) for p, w in zip(pairs, weights, strict=True)])
    local_edge = (edge_points - eye.center) @ frame.T
    elevation = np.arctan2(local_edge[..., 1], local_edge[..., 2])  # [2, K]
    position = local_edge[0, :, 0]
    order = np.argsort(position)

    away = np.linalg.norm(vertices - eye.center, axis=1)
    near = (away < _FADE_OUT[1] * eye.radius) & (vertices[:, 2] > eye.center[2] - 0.3 * eye.radius)
    near[eye.ball] = False
    near &= np.isin(np.arange(len(vertices)), faces)
    skin = np.flatnonzero(near)
    local = (vertices[skin] - eye.center) @ frame.T
    angle = np.arctan2(local[:, 1], local[:, 2])
    columns = np.stack([np.interp(local[:, 0], position[order], np.eye(COLUMNS)[order, k]) for k in range(COLUMNS)], 1)
    upper, lower = columns @ elevation[0], columns @ elevation[1]
    split = (1 - MEETING_LINE) * upper + MEETING_LINE * lower
    radial = 1 - _smooth((away[skin] / eye.radius - _FADE_OUT[0]) / (_FADE_OUT[1] - _FADE_OUT[0]))
    beyond = np.maximum(position.min() - local[:, 0], local[:, 0] - position.max()) / (0.3 * eye.radius)
    reach = radial * (1 - _smooth(np.clip(beyond, 0, None)))
    follow_up = np.where(angle > split, 1 - _smooth((angle - upper) / _FADE_UP), 0) * reach
    follow_down = np.where(angle <= split, 1 - _smooth((lower - angle) / _FADE_DOWN), 0) * reach
    edge_ids = np.isin(skin, np.concatenate([eye.margin.upper, eye.margin.lower]))
    follow_up[edge_ids & (follow_up > 0)] = 1
    follow_down[edge_ids & (follow_down > 0)] = 1
    follow = np.stack([follow_up[:, None] * columns, follow_down[:, None] * columns])
    moved = np.flatnonzero(follow.sum((0, 2)) > 1e-4)
    center_shares = _center_shares(vertices[eye.ball], eye.center)

    def tensor(value: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value))

    return LidRig(
        ball=tensor(eye.ball),
        shares=tensor(center_shares),
        largest=torch.tensor(eye.largest / float(center_shares @ away[eye.ball]), dtype=torch.float64),
        frame=tensor(frame),
        edges=tensor(np.stack(pairs)),
        edge_weights=tensor(np.stack(weights)),
        skin=tensor(skin[moved]),
        follow=tensor(follow[:, moved]),
        rising=tensor(np.clip(2.5 * follow[:, moved].sum((0, 2)), 0, 1) * (away[skin[moved]] > 0.985 * eye.radius)),
    )


def _frame(vertices: Array, eye: Eye) -> Array:
    """Rows: axis of the corners towards the subject's left, up, forward."""
    axis = vertices[eye.margin.corners[1]] - vertices[eye.margin.corners[0]]
    axis = axis * np.sign(axis[0]) * np.array([1.0, 1.0, 0.0])  # the eyeball looks along +z
    axis /= np.linalg.norm(axis)
    forward = np.array([0.0, 0.0, 1.0])
    up = np.cross(forward, axis)
    return np.stack([axis, up, forward])


def _center_shares(ball: Array, center: Array) -> Array:
    """Weights of the ball's vertices, as even as possible, whose mean is its centre."""
    system = np.concatenate([(ball - center).T / 0.01, np.ones((1, len(ball)))])
    even = np.full(len(ball), 1 / len(ball))
    return even + np.linalg.lstsq(system, np.array([0.0, 0, 0, 1]) - system @ even, rcond=None)[0]


def _smooth(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
