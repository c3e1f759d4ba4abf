"""The ARKit shapes: authored displacements of a few landmarks, spread over the skin with least bending."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from zero1toa.head.sculpt.geometry import SmoothInterpolator, edge_graph
from zero1toa.head.sculpt.shapes import (
    CENTRED,
    CORNERS,
    LOWER_INNER,
    LOWER_OUTER,
    SIDED,
    UPPER_INNER,
    UPPER_OUTER,
    Handles,
)
from zero1toa.head.sculpt.skin import Skin
from zero1toa.head.sculpt.topology import N_FACE, UPPER_LIP

Array = NDArray[np.float64]

JAW_HINGE = np.array([0.0, -48.0, -76.0])
JAW_ANGLE = np.radians(20.0)

MEETING_WEIGHT = 0.3  # how far down the jaw's way lips meet that close over an open jaw
SLIDE = 7.0  # mouthLeft and mouthRight, millimetres at the lips
SLIDE_AXIS = -45.0  # z of the upright axis about which the mouth slides
JAW_SLIDE = {"jawForward": (0.0, 0.0, 5.5), "jawLeft": (6.0, 0.0, 0.0), "jawRight": (-6.0, 0.0, 0.0)}


class Sculptor:
    """Spreads handles over a skin."""

    def __init__(self, skin: Skin, jaw_weight: Array) -> None:
        self.skin = skin
        self.jaw_weight = jaw_weight
        self._graph = edge_graph(skin.points, skin.faces)
        self._edges = np.concatenate([skin.eyes.ravel(), skin.lips])
        self._eyes = skin.eyes.ravel()

    def all(self) -> dict[str, Array]:
        """Every displacement shape of the skin ``[V, 3]`` in millimetres, by ARKit name."""
        out: dict[str, Array] = {}
        for name, shape in SIDED.items():
            right = self.spread(_absolute(shape.handles), shape.reach, sided=True)
            out[name + "Left"] = self._mirror(right)
            out[name + "Right"] = right
        for name, shape in CENTRED.items():
            handles = _absolute(shape.handles)
            for i, move in list(handles.items()):
                handles[int(self.skin.mirror[i])] = move * np.array([-1.0, 1.0, 1.0])
            out[name] = self.spread(handles, shape.reach)
        for name, vector in JAW_SLIDE.items():
            out[name] = self.jaw_weight[:, None] * np.array(vector)
        out["mouthLeft"] = self._slide()
        out["mouthRight"] = self._mirror(out["mouthLeft"])
        out["mouthClose"] = self._close()
        return out

    def spread(self, handles: dict[int, Array], reach: float, sided: bool = False) -> Array:
        """Least-bending displacement with the handles' values, zero beyond ``reach`` and at other free edges."""
        ids = np.array(sorted(handles))
        away = dijkstra(self._graph, indices=ids, min_only=True)
        still = away > reach
        held = np.setdiff1d(self._edges, ids)
        if sided:
            # The lips' other half follows by bending; only the eyes and an untouched mouth are held.
            held = np.setdiff1d(self._edges if not np.intersect1d(ids, self.skin.lips).size else self._eyes, ids)
        still[held] = True
        still[ids] = False
        known = np.concatenate([ids, np.flatnonzero(still)])
        values = np.zeros((len(known), 3))
        values[: len(ids)] = np.stack([handles[int(i)] for i in ids])
        return SmoothInterpolator(self.skin.points, self.skin.faces, known)(values)

    def _mirror(self, field: Array) -> Array:
        return field[self.skin.mirror] * np.array([-1.0, 1.0, 1.0])

    def _slide(self) -> Array:
        """The mouth moves to the subject's left around the dental arch."""
        handles = {}
        angle = SLIDE / (self.skin.points[UPPER_LIP, 2] - SLIDE_AXIS)
        c, s = np.cos(angle), np.sin(angle)
        for i in _lip_ids(self.skin):
            x, _, z = self.skin.points[i]
            # Turn about an axis behind the teeth, so that the leading corner goes back and the other comes forward.
            depth = z - SLIDE_AXIS
            handles[int(i)] = np.array([c * x + s * depth - x, 0.0, c * depth - s * x - depth])
        return self.spread(handles, 40)

    def _close(self) -> Array:
        """Bring the lips together under a fully open jaw: the inverse of the jaw's motion, shared between the lips."""
        c, s = np.cos(JAW_ANGLE), np.sin(JAW_ANGLE)
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) - np.eye(3)
        handles: dict[int, Array] = {}
        p, w, mirror = self.skin.points, self.jaw_weight, self.skin.mirror

        for borders in ((UPPER_INNER, UPPER_OUTER), (LOWER_INNER, LOWER_OUTER), (CORNERS, CORNERS)):
            for edge, *ids in zip(borders[0], *borders, strict=True):
                # The free edge goes where a point of the common weight would be; the outer border moves as it does.
                move = (MEETING_WEIGHT - w[edge]) * turn @ (p[edge] - JAW_HINGE)
                for i in ids:
                    handles[i] = np.linalg.solve(np.eye(3) + w[i] * turn, move)
                    handles[int(mirror[i])] = handles[i] * np.array([-1.0, 1.0, 1.0])
        # The furrow between lip and chin is drawn up as well, and forward over the lower teeth that stay below.
        for i, share, forward in ((18, 0.6, 7.0), (83, 0.6, 6.5), (182, 0.6, 6.0), (200, 0.3, 4.0), (201, 0.3, 4.0)):
            handles[i] = share * handles[LOWER_INNER[-1]] + np.array([0.0, 0.0, forward])
            handles[int(mirror[i])] = handles[i]
        for i in (175, 199):
            handles[i] = np.zeros(3)
        return self.spread(handles, 34)


def jaw_weights(skin: Skin) -> Array:
    """How much each skin vertex follows the jaw ``[V]``."""
    right: dict[int, float] = {}
    right |= dict.fromkeys((*LOWER_INNER[1:], *LOWER_OUTER[1:]), 1.0)
    right |= (
        dict.fromkeys((95, 96, 77, 146), 0.72)
        | dict.fromkeys((191, 183, 184, 185), 0.22)
        | dict.fromkeys((*CORNERS, 57), 0.45)
    )
    right |= dict.fromkeys((*UPPER_INNER[1:], *UPPER_OUTER[1:]), 0.0)
    right |= {80: 0.04, 40: 0.04}
    right |= dict.fromkeys((152, 148, 176, 149, 150, 175, 199, 200, 18, 171, 140, 170), 1.0)
    right |= {136: 0.95, 172: 0.85, 58: 0.6, 132: 0.32, 93: 0.12, 234: 0.0, 127: 0.0}
    right |= dict.fromkeys((1, 2, 98, 64, 48, 50, 101, 117, 116, 123, 203), 0.0)
    right |= {205: 0.15, 207: 0.42, 187: 0.30, 206: 0.10, 216: 0.25, 212: 0.6, 214: 0.6, 192: 0.6}
    known = dict(right)
    for i, value in right.items():
        known[int(skin.mirror[i])] = value
    off_chin = np.abs(skin.column - len(skin.oval) // 2)
    for vertex in range(N_FACE, len(skin.points)):
        if skin.distance[vertex] > 42 or off_chin[vertex] >= 11:
            known[vertex] = 0.0
        elif off_chin[vertex] <= 6 and skin.distance[vertex] < 14:
            known[vertex] = 0.95
    known[len(skin.points) - 1] = 0.0
    upper_face = np.flatnonzero((skin.points[:N_FACE, 1] > 20) | (skin.points[:N_FACE, 2] > 20))
    known |= {int(i): 0.0 for i in upper_face}
    ids = np.array(sorted(known))
    field = SmoothInterpolator(skin.points, skin.faces, ids)(np.array([known[int(i)] for i in ids]))
    field = np.clip(field, 0, 1)
    return 0.5 * (field + field[skin.mirror])


def _absolute(handles: Handles) -> dict[int, Array]:
    """Right-side handles in head coordinates: outwards is -x there."""
    return {i: np.array([-move[0], move[1], move[2]]) for i, move in handles.items()}


def _lip_ids(skin: Skin) -> NDArray[np.int64]:
    right = np.array([*UPPER_OUTER, *UPPER_INNER, *LOWER_OUTER, *LOWER_INNER, *CORNERS])
    return np.unique(np.concatenate([right, skin.mirror[right]]))
