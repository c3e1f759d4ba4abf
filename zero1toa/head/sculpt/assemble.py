"""Puts skin and parts together, with bases, weights, regions and landmarks: everything the data file holds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.protocol import N_LANDMARKS
from zero1toa.head.sculpt import identity, parts
from zero1toa.head.sculpt.expressions import JAW_HINGE, JAW_SLIDE, Sculptor, jaw_weights
from zero1toa.head.sculpt.geometry import SmoothInterpolator, Splitter
from zero1toa.head.sculpt.shapes import LOWER_LID, UPPER_LID
from zero1toa.head.sculpt.skin import Skin, close_loop
from zero1toa.head.sculpt.template import Template
from zero1toa.head.sculpt.topology import (
    EYE_LEFT_INNER,
    EYE_LEFT_OUTER,
    EYE_RIGHT_INNER,
    EYE_RIGHT_OUTER,
    LEFT_IRIS,
    LOWER_LIP,
    N_FACE,
    RIGHT_IRIS,
    UPPER_LIP,
    boundary_loops,
)

Array = NDArray[np.float64]
Index = NDArray[np.int64]

NECK_JOINT = np.array([0.0, -108.0, -100.0])
#: The ring of landmarks around the right eye at which the lid ends; it follows a closing lid, the next ring does not.
LID_RING = (130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)
#: Power by which the skin near the lids' margins follows them more closely than a smooth falloff.
LID_PLATE = 4
LIP_ROWS = (
    (61, 76, 62, 78), (185, 184, 183, 191), (40, 74, 42, 80), (39, 73, 41, 81), (37, 72, 38, 82), (0, 11, 12, 13),
    (146, 77, 96, 95), (91, 90, 89, 88), (181, 180, 179, 178), (84, 85, 86, 87), (17, 16, 15, 14),
)  # fmt: skip


@dataclasses.dataclass
class Head:
    """The whole head; lengths in millimetres around the face's centroid.

    Attributes:
        template: ``[V, 3]``.
        faces: ``[F, 3]``.
        shape_basis: ``[S, V, 3]``.
        expressions: displacement by ARKit name, each ``[V, 3]``.
        weights: skinning weights ``[V, 5]``.
        joints: ``[5, 3]`` and their shape basis ``[S, 5, 3]``.
        eye_centres: left, right ``[2, 3]`` and their shape basis ``[S, 2, 3]``.
        lid_edges: vertex ids of the lid edges ``[2, 30]``: upper from the inner corner, then lower.
        lid_vertices: left and right ids of all vertices that follow a lid edge.
        lid_weights: their interpolation weights from the 30 edge vertices.
        skirt_vertices: ids of the inner rims ``[2, 32]`` and of the lid loops they hang from.
        regions: face masks by name.
        landmark_vertices: vertex of each landmark ``[478]``.
    """

    template: Array
    faces: Index
    shape_basis: Array
    expressions: dict[str, Array]
    weights: Array
    joints: Array
    joint_basis: Array
    eye_centres: Array
    eye_basis: Array
    lid_edges: Index
    lid_vertices: list[Index]
    lid_weights: list[Array]
    skirt_vertices: Index
    skirt_loops: Index
    regions: dict[str, NDArray[np.bool_]]
    landmark_vertices: Index


class _Mesh:
    """Collects pieces and remembers which vertices and faces are whose."""

    def __init__(self, points: Array, faces: Index) -> None:
        self.points, self.faces = [points], [faces]
        self.vertex_slices: dict[str, slice] = {"skin": slice(0, len(points))}
        self.face_slices: dict[str, slice] = {"skin": slice(0, len(faces))}
        self.n_vertices, self.n_faces = len(points), len(faces)

    def add(self, name: str, points: Array, faces: Index) -> Index:
        """Append a piece whose faces already use global ids; returns the ids of its vertices."""
        ids = np.arange(self.n_vertices, self.n_vertices + len(points))
        self.vertex_slices[name] = slice(self.n_vertices, self.n_vertices + len(points))
        self.face_slices[name] = slice(self.n_faces, self.n_faces + len(faces))
        self.points.append(points)
        self.faces.append(faces)
        self.n_vertices += len(points)
        self.n_faces += len(faces)
        return ids

    def add_part(self, name: str, part: parts.Part) -> Index:
        return self.add(name, part.points, part.faces + self.n_vertices)


def assemble(template: Template, skin: Skin) -> Head:
    """Build every array of the head from the measured face and its grown skin."""
    splitter = Splitter(skin.faces, len(skin.points))
    fine = splitter.phong(skin.points)
    loops = boundary_loops(splitter.faces)
    lips = _rotated(next(loop for loop in loops if UPPER_LIP in loop), UPPER_LIP)
    fine = close_loop(fine, lips)
    left_loop = _rotated(next(loop for loop in loops if EYE_LEFT_OUTER in loop), EYE_LEFT_OUTER)
    right_loop = _rotated(next(loop for loop in loops if EYE_RIGHT_OUTER in loop), EYE_RIGHT_OUTER)
    eye_loops = np.stack([left_loop, right_loop])
    mouth = 0.5 * (skin.points[UPPER_LIP] + skin.points[LOWER_LIP])
    centre_left = parts.eye_centre(fine[left_loop], template.points[LEFT_IRIS])
    centres = np.stack([centre_left, centre_left * np.array([-1.0, 1.0, 1.0])])

    mesh = _Mesh(fine, splitter.faces)
    skirts = []
    for name, loop, centre in (("skirt_left", left_loop, centres[0]), ("skirt_right", right_loop, centres[1])):
        direction = fine[loop] - centre
        rim = centre + (parts.EYE_RADIUS - parts.SKIRT_DEPTH) * direction / np.linalg.norm(
            direction, axis=1, keepdims=True
        )
        skirts.append(mesh.add(name, rim, _strip(loop, mesh.n_vertices)))
    eye = parts.eyeball(centres[0])
    mesh.add_part("eye_left", eye)
    # A turn of the sphere is its own mirror image, so the right eye is the same sphere moved, not reflected.
    mesh.add_part("eye_right", parts.Part(eye.points - centres[0] + centres[1], eye.faces))
    lining, follow = parts.mouth_lining(fine[lips], mouth)
    n = len(lips)
    relabel = np.concatenate([lips, mesh.n_vertices + np.arange(len(lining.points) - n)])
    mesh.add("lining", lining.points[n:], relabel[lining.faces])
    follow = follow[n:]
    mesh.add_part("teeth_upper", parts.teeth(mouth, True))
    mesh.add_part("teeth_lower", parts.teeth(mouth, False))
    mesh.add_part("tongue", parts.tongue(mouth))
    ear = parts.ear(_ear_base(skin))
    mesh.add_part("ear_left", ear)
    mesh.add_part("ear_right", ear.mirrored())
    points, faces = np.concatenate(mesh.points), np.concatenate(mesh.faces)

    builder = _Fields(mesh, points, skin, splitter, lips, eye_loops, centres, follow)
    shape_basis, eye_basis = builder.shapes()
    jaw = jaw_weights(skin)
    weights = builder.weights(jaw)
    joints = np.stack([np.array([0.0, -150.0, -102.0]), NECK_JOINT, JAW_HINGE, centres[0], centres[1]])
    joint_basis = identity.displacements(joints)
    joint_basis[:, 3:] = eye_basis
    expressions = builder.expressions(Sculptor(skin, jaw).all(), weights[:, 2])
    upper = np.array(UPPER_LID)
    lid_edges = np.stack(
        [
            _lid_edges(left_loop, EYE_LEFT_INNER, skin.mirror[upper]),
            _lid_edges(right_loop, EYE_RIGHT_INNER, upper),
        ]
    )
    lid_vertices, lid_weights = [], []
    for side in range(2):
        ids, w = _lid_field(skin, splitter, fine, lid_edges[side], eye_loops[side], left=side == 0)
        lid_vertices.append(ids)
        lid_weights.append(w)
    return Head(
        template=points,
        faces=faces,
        shape_basis=shape_basis,
        expressions=expressions,
        weights=weights,
        joints=joints,
        joint_basis=joint_basis,
        eye_centres=centres,
        eye_basis=eye_basis,
        lid_edges=lid_edges,
        lid_vertices=lid_vertices,
        lid_weights=lid_weights,
        skirt_vertices=np.stack(skirts),
        skirt_loops=eye_loops,
        regions=_regions(mesh, points, faces, skin, splitter),
        landmark_vertices=_landmark_vertices(mesh),
    )


class _Fields:
    """Extends fields on the skin's coarse vertices to all vertices of the head."""

    def __init__(
        self,
        mesh: _Mesh,
        points: Array,
        skin: Skin,
        splitter: Splitter,
        lips: Index,
        eye_loops: Index,
        centres: Array,
        follow: Array,
    ) -> None:
        self.mesh, self.points, self.skin, self.splitter = mesh, points, skin, splitter
        self.lips, self.eye_loops, self.centres, self.follow = lips, eye_loops, centres, follow

    def _fine(self, field: Array, both_ways: bool) -> Array:
        """Displacement of the split skin; ``both_ways`` takes the derivative at the mean instead of the full step."""
        p = self.skin.points
        if both_ways:
            return 0.5 * (self.splitter.phong(p + field) - self.splitter.phong(p - field))
        return self.splitter.phong(p + field) - self.splitter.phong(p)

    def _set(self, out: Array, name: str, value: Array) -> None:
        out[self.mesh.vertex_slices[name]] = value

    def shapes(self) -> tuple[Array, Array]:
        """Identity basis of all vertices ``[S, V, 3]`` and of the eye centres ``[S, 2, 3]``."""
        coarse = identity.displacements(self.skin.points)
        out = np.zeros((len(coarse), len(self.points), 3))
        eyes = np.zeros((len(coarse), 2, 3))
        ear = {s: self.points[self.mesh.vertex_slices[f"ear_{s}"]].mean(0) for s in ("left", "right")}
        at_ears = identity.displacements(np.stack([ear["left"], ear["right"]]))
        for k, field in enumerate(coarse):
            fine = self._fine(field, both_ways=True)
            self._set(out[k], "skin", fine)
            for i, side in enumerate(("left", "right")):
                eyes[k, i] = fine[self.eye_loops[i]].mean(0)
                self._set(out[k], f"eye_{side}", eyes[k, i])
                self._set(out[k], f"skirt_{side}", fine[self.eye_loops[i]])
                self._set(out[k], f"ear_{side}", at_ears[k, i])
            mouth = fine[[UPPER_LIP, LOWER_LIP, 61, 291]].mean(0)
            for name in ("teeth_upper", "teeth_lower", "tongue"):
                self._set(out[k], name, mouth)
            self._set(out[k], "lining", self._lining(fine, mouth))
        return out, eyes

    def _lining(self, fine: Array, mouth: Array) -> Array:
        rings = -(-len(self.follow) // len(self.lips))
        edge = np.tile(fine[self.lips], (rings, 1))[: len(self.follow)]
        return self.follow[:, None] * edge + (1 - self.follow[:, None]) * mouth

    def weights(self, jaw: Array) -> Array:
        """Skinning weights ``[V, 5]`` for root, neck, jaw and the two eyes."""
        mesh, p = self.mesh, self.points
        follow_jaw = np.zeros(len(p))
        follow_jaw[mesh.vertex_slices["skin"]] = self.splitter.linear(jaw)
        follow_jaw[mesh.vertex_slices["teeth_lower"]] = 1.0
        follow_jaw[mesh.vertex_slices["tongue"]] = 1.0
        part = mesh.vertex_slices["lining"]
        mouth_y = 0.5 * (p[UPPER_LIP, 1] + p[LOWER_LIP, 1])
        lower = np.clip(0.5 - (p[part, 1] - mouth_y) / 10.0, 0, 1)
        edge = np.tile(follow_jaw[self.lips], -(-len(self.follow) // len(self.lips)))[: len(self.follow)]
        throat = np.clip((p[part, 2] + 52.0) / 25.0, 0, 1)
        follow_jaw[part] = self.follow * edge + (1 - self.follow) * lower * throat
        for side in ("left", "right"):
            follow_jaw[mesh.vertex_slices[f"skirt_{side}"]] = 0.0
        # The head turns about the neck; the skin of the neck follows less and less towards its base.
        height = p[:, 1] + 0.12 * (p[:, 2] + 100.0)
        t = np.clip((height + 150.0) / 78.0, 0, 1)
        head = t * t * (3 - 2 * t)
        out = np.zeros((len(p), 5))
        out[:, 0] = 1 - head
        out[:, 1] = head * (1 - follow_jaw)
        out[:, 2] = head * follow_jaw
        for joint, side in ((3, "left"), (4, "right")):
            out[mesh.vertex_slices[f"eye_{side}"]] = np.eye(5)[joint]
        for name in ("ear_left", "ear_right", "teeth_upper"):
            out[mesh.vertex_slices[name]] = np.eye(5)[1]
        for name in ("teeth_lower", "tongue"):
            out[mesh.vertex_slices[name]] = np.eye(5)[2]
        return out

    def expressions(self, coarse: dict[str, Array], jaw: Array) -> dict[str, Array]:
        """Expression displacements of all vertices ``[V, 3]`` by ARKit name."""
        out = {}
        for name, field in coarse.items():
            full = np.zeros_like(self.points)
            fine = self._fine(field, both_ways=False)
            self._set(full, "skin", fine)
            slide = np.array(JAW_SLIDE.get(name, (0.0, 0.0, 0.0)))
            for piece in ("teeth_lower", "tongue"):
                self._set(full, piece, slide)
            part = self.mesh.vertex_slices["lining"]
            full[part] = self._lining(fine, np.zeros(3)) + (1 - self.follow[:, None]) * jaw[part, None] * slide
            for i, side in enumerate(("left", "right")):
                self._set(full, f"skirt_{side}", fine[self.eye_loops[i]])
            out[name] = full
        tongue = np.zeros_like(self.points)
        part = self.mesh.vertex_slices["tongue"]
        z = self.points[part, 2]
        forward = np.clip((z - z.min()) / (z.max() - z.min()), 0, 1)
        # Out over the lower teeth, then down; the narrow rest shape widens a little on the way.
        rise = 11.0 * np.sin(np.pi * np.clip(forward, 0, 1)) ** 0.8 + 4.0 * forward**3
        tongue[part] = np.stack([0.1 * self.points[part, 0], rise, 30.0 * forward], axis=1)
        out["tongueOut"] = tongue
        return out


def _strip(loop: Index, first: int) -> Index:
    n = len(loop)
    ids = np.concatenate([loop, first + np.arange(n)])
    return ids[parts.grid_triangles(2, n, True)]


def _rotated(loop: Index, start: int) -> Index:
    return np.roll(loop, -int(np.flatnonzero(loop == start)[0]))


def _ear_base(skin: Skin) -> Array:
    """Point of the head's left side behind the cheek, where the ear's middle sits."""
    y, z = 19.0, -90.0
    grown = skin.points[N_FACE:]
    near = np.argsort((grown[:, 1] - y) ** 2 + (grown[:, 2] - z) ** 2 + 1e6 * (grown[:, 0] < 30))[:4]
    return np.array([grown[near, 0].mean() - 1.0, y, z])


def _lid_edges(loop: Index, inner: int, upper: Index) -> Index:
    """Upper lid edge from the inner corner, then the lower one, without the corners ``[30]``.

    Args:
        loop: lid loop that starts at the outer corner.
        inner: vertex of the inner corner.
        upper: landmarks on the upper edge.
    """
    half = int(np.flatnonzero(loop == inner)[0])
    if half != len(loop) // 2:
        raise RuntimeError("upper and lower lid edges have different numbers of vertices")
    first, second = loop[1:half][::-1], loop[half + 1 :]
    return np.concatenate([first, second] if np.isin(upper, first).all() else [second, first])


def _lid_field(
    skin: Skin, splitter: Splitter, fine: Array, edges: Index, loop: Index, left: bool
) -> tuple[Index, Array]:
    """Vertices that move with a closing lid and their weights from its 30 edge vertices."""
    ring = np.array(LID_RING)
    ring = skin.mirror[ring] if left else ring
    coarse_free = np.zeros(len(skin.points), dtype=bool)
    coarse_free[ring] = True
    free = np.concatenate([coarse_free, coarse_free[splitter.ends].any(1)])
    free[loop] = False
    known = np.flatnonzero(~free)
    values = np.zeros((len(known), len(edges)))
    position = {int(v): i for i, v in enumerate(known)}
    for column, edge in enumerate(edges):
        values[position[int(edge)], column] = 1.0
    field = SmoothInterpolator(fine, splitter.faces, known)(values)
    ids = np.concatenate([edges, np.flatnonzero(free)])
    # Skin beside the lashes follows them as one plate, as the tarsal plate does, and the fold above it unfolds: a lid
    # that stretched evenly would smear the lashes that are painted on it.
    follows = field[ids].sum(1, keepdims=True)
    plate = 1 - (1 - follows.clip(0, 1)) ** LID_PLATE
    return ids, np.where(follows > 0.01, field[ids] / follows.clip(0.01) * plate, field[ids])


def _regions(mesh: _Mesh, points: Array, faces: Index, skin: Skin, splitter: Splitter) -> dict[str, NDArray[np.bool_]]:
    n = len(faces)

    def block(*names: str) -> NDArray[np.bool_]:
        mask = np.zeros(n, dtype=bool)
        for name in names:
            mask[mesh.face_slices[name]] = True
        return mask

    coarse_face = np.repeat(np.arange(len(skin.faces)), 4)

    def coarse_mask(vertices: Index) -> NDArray[np.bool_]:
        inside = np.zeros(len(skin.points), dtype=bool)
        inside[vertices] = True
        mask = np.zeros(n, dtype=bool)
        mask[: len(splitter.faces)] = inside[skin.faces].all(1)[coarse_face]
        return mask

    measured = np.zeros(n, dtype=bool)
    measured[: len(splitter.faces)] = coarse_face < 852
    lips = np.array(LIP_ROWS).ravel()
    right_lid = np.array([*LID_RING, *UPPER_LID, *LOWER_LID, EYE_RIGHT_OUTER, EYE_RIGHT_INNER])
    middle = points[faces].mean(1)
    grown = block("skin") & ~measured
    y, z = middle[:, 1], middle[:, 2]
    # The hairline starts above the forehead, comes down in front of the ear, runs behind it and along the nape.
    behind = np.clip((-62.0 - z) / 30.0, 0, 1)
    front_line = 102.0 + (20.0 - 102.0) * np.clip((-6.0 - z) / 70.0, 0, 1) ** 1.3
    back_line = 20.0 + (-46.0 - 20.0) * np.clip((-88.0 - z) / 30.0, 0, 1)
    line = np.where(behind > 0.85, back_line, front_line)
    scalp = grown & (y > line)
    # Under the jaw: the neck begins below a line from the chin to behind the ear.
    jaw_line = -92.0 + (-30.0 + 92.0) * np.clip((-20.0 - z) / 70.0, 0, 1)
    neck = grown & ~scalp & ((y < jaw_line) | (z < -95.0))
    eye_left, eye_right = block("eye_left"), block("eye_right")
    regions = {
        "lips": coarse_mask(np.concatenate([lips, skin.mirror[lips]])),
        "lids_left": coarse_mask(skin.mirror[right_lid]) | block("skirt_left"),
        "lids_right": coarse_mask(right_lid) | block("skirt_right"),
        "eye_left": eye_left,
        "eye_right": eye_right,
        "iris_left": eye_left & _iris_faces(mesh, faces, "eye_left"),
        "iris_right": eye_right & _iris_faces(mesh, faces, "eye_right"),
        "mouth": block("lining", "tongue"),
        "teeth": block("teeth_upper", "teeth_lower"),
        "ears": block("ear_left", "ear_right"),
        "scalp": scalp,
        "neck": neck,
        "tongue": block("tongue"),
        "measured": measured,
    }
    regions["face"] = (block("skin") & ~scalp & ~neck) | block("skirt_left", "skirt_right")
    return regions


def _iris_faces(mesh: _Mesh, faces: Index, name: str) -> NDArray[np.bool_]:
    first = mesh.vertex_slices[name].start
    last = first + (parts.IRIS_RING + 1) * parts.EYE_SEGMENTS
    return ((faces >= first) & (faces <= last)).all(1)


def _landmark_vertices(mesh: _Mesh) -> Index:
    """The mesh landmarks are the first vertices; the irises' are the pole and the limbus on either eyeball."""
    out = np.arange(N_LANDMARKS)
    quarter = parts.EYE_SEGMENTS // 4
    for first, name in ((RIGHT_IRIS, "eye_right"), (LEFT_IRIS, "eye_left")):
        start = mesh.vertex_slices[name].start
        limbus = start + 1 + parts.IRIS_RING * parts.EYE_SEGMENTS
        out[first] = start
        # Detector order: the subject's left, up, the subject's right, down.
        for k in range(4):
            out[first + 1 + k] = limbus + k * quarter
    return out
