"""Register the canonical head's skin to another head mesh, so that what is known on the one can be read on the other.

The canonical head is a parametric model, so it is fitted first (similarity and identity), then bent on to the mesh:
every step pulls it along the surface's normals to the nearest place, keeps eyes, lids and lips on their edges, and
bends as little as that allows; bending is allowed on ever smaller scales.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.anatomy import Anatomy, along
from zero1toa.head.flame.mesh import Array, Index, nearest_on_mesh
from zero1toa.head.preview import vertex_normals
from zero1toa.head.sculpt.geometry import cotangent_laplacian, vertex_areas

N_FACE = 468

#: MediaPipe's landmarks along each edge, from corner to corner: lids of the subject's left and right eye (outer corner
#: first), lips (right corner first).
_LID_EDGES = (
    ((263, 466, 388, 387, 386, 385, 384, 398, 362), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
)
_LIP_EDGES = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
_EDGE_ERROR = 0.0015  # metres to which an edge is known
_SURFACE_ERROR = 0.003  # metres to which a fitted canonical head can follow another skin
_ROUNDS = 14
_SCALES = (0.040, 0.025, 0.016, 0.011, 0.008, 0.008, 0.006, 0.006)  # metres on which the skin may bend, round by round
_FARTHEST = 0.03  # metres to a place that still attracts


@dataclasses.dataclass(frozen=True)
class Registration:
    """The canonical head's skin on another mesh.

    Attributes:
        faces: the skin's triangles ``[Q, 3]``, numbered as the canonical head's vertices.
        points: its vertices on the other mesh ``[V, 3]`` (meaningless where no triangle of ``faces`` is).
        head_faces: index of each triangle in the canonical head ``[Q]``.
        scale: size of the other head over the canonical head's.
        turn: rotation from the canonical head's axes to the other's ``[3, 3]``.
        shift: with ``scale`` and ``turn``, the similarity ``scale * turn @ x + shift``, metres ``[3]``.
        identity: the canonical head's identity coefficients that come nearest ``[S]``.
    """

    faces: Index
    points: Array
    head_faces: Index
    scale: float
    turn: Array
    shift: Array
    identity: Array

    def carry(self, points: Array) -> Array:
        """Points of the canonical head's frame ``[..., 3]`` by the similarity alone."""
        return self.scale * points @ self.turn.T + self.shift

    def locate(self, points: Array, normals: Array) -> tuple[Index, Array]:
        """Canonical vertices ``[N, 3]`` around the places nearest to points of the other mesh, and their weights.

        Args:
            points: ``[N, 3]``.
            normals: the other mesh's at the points ``[N, 3]``.
        """
        face, weights = nearest_on_mesh(points, self.points, self.faces, normals)
        return self.faces[face], weights


def register(head: CanonicalHead, vertices: Array, faces: Index, anatomy: Anatomy) -> Registration:
    """Lay the canonical head's skin on a mesh.

    Args:
        head: the canonical head.
        vertices: neutral mesh ``[V, 3]``, metres.
        faces: ``[F, 3]``.
        anatomy: what was found on it.
    """
    target = _Target(vertices, faces[anatomy.outer])
    marks, pairs, weights = edge_landmarks(head, vertices, anatomy)
    edges = (marks, (vertices[pairs] * weights[..., None]).sum(1))
    scale, turn, shift, identity = _fit(head, target, edges, anatomy)
    shape = torch.from_numpy(identity).float()
    person = head.vertices(head.neutral().replace(shape=shape)).double().numpy()
    chosen = (head.regions["face"] | head.regions["scalp"] | head.regions["neck"]).numpy()
    chosen &= ~_skirts(head)
    skin = head.faces.numpy()[chosen]
    start = scale * person @ turn.T + shift
    points = _bend(start, skin, target, edges)
    return Registration(skin, points, np.flatnonzero(chosen), scale, turn, shift, identity)


def _skirts(head: CanonicalHead) -> np.ndarray:
    """Inner sides of the canonical lids ``[F]``: triangles that dip into an eyeball."""
    rest = head.template.double().numpy()
    eyes = [rest[head.faces[head.regions[f"eye_{side}"]].unique().numpy()] for side in ("left", "right")]
    dips = np.zeros(len(rest), bool)
    for eye in eyes:
        dips |= np.linalg.norm(rest - 0.5 * (eye.min(0) + eye.max(0)), axis=1) < 0.97 * head.eye_radius
    return dips[head.faces.numpy()].any(1)


class _Target:
    """The outer skin to be followed."""

    def __init__(self, vertices: Array, faces: Index) -> None:
        self.vertices, self.faces = vertices, faces
        self.normals = vertex_normals(vertices, faces)

    def nearest(self, points: Array, normals: Array) -> tuple[Array, Array, Array]:
        """Nearest places ``[N, 3]``, their normals and how far to trust them ``[N]``."""
        face, weights = nearest_on_mesh(points, self.vertices, self.faces)
        corners = self.faces[face]
        place = (self.vertices[corners] * weights[..., None]).sum(1)
        normal = (self.normals[corners] * weights[..., None]).sum(1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        away = np.linalg.norm(place - points, axis=1)
        trust = np.clip((normal * normals).sum(1), 0, 1) ** 2 * (away < _FARTHEST) / (1 + (away / 0.008) ** 2)
        return place, normal, trust


def edge_landmarks(head: CanonicalHead, vertices: Array, anatomy: Anatomy) -> tuple[Index, Index, Array]:
    """Landmarks whose places are known from the edges of lids and lips.

    Args:
        head: the canonical head, for how they are spaced.
        vertices: neutral mesh ``[V, 3]``.
        anatomy: what was found on it.

    Returns:
        The landmarks ``[K]``, and for each two vertices of the mesh ``[K, 2]`` with their weights ``[K, 2]``.
    """
    rest = head.template.double().numpy()
    ids, pairs, weights = [], [], []
    slits = (
        (anatomy.eyes[0].margin, _LID_EDGES[0]),
        (anatomy.eyes[1].margin, _LID_EDGES[1]),
        (anatomy.seam, _LIP_EDGES),
    )
    for slit, lines in slits:
        for edge, line in zip((slit.upper, slit.lower), lines, strict=True):
            start, end = rest[line[0]], rest[line[-1]]
            shares = (rest[list(line)] - start) @ (end - start) / ((end - start) ** 2).sum()
            pair, weight = along(vertices, edge, np.clip(shares, 0, 1))
            ids.append(line)
            pairs.append(pair)
            weights.append(weight)
    unique, first = np.unique(np.concatenate(ids), return_index=True)
    return unique, np.concatenate(pairs)[first], np.concatenate(weights)[first]


def _fit(
    head: CanonicalHead, target: _Target, edges: tuple[Index, Array], anatomy: Anatomy
) -> tuple[float, Array, Array, Array]:
    """Similarity and identity by Gauss-Newton on edges, eyeballs and the surface around the landmarks."""
    n_shape = head.n_shape
    neutral = head.neutral(n_shape + 1)
    shapes = torch.cat([torch.zeros(1, n_shape), torch.eye(n_shape)])
    moved = head.vertices(neutral.replace(shape=shapes)).double().numpy()
    template, basis = moved[0], moved[1:] - moved[0]
    balls = [head.faces[head.regions[f"eye_{side}"]].unique().numpy() for side in ("left", "right")]
    face = np.arange(N_FACE)
    face_triangles = head.faces.numpy()[head.regions["measured"].numpy()]
    centers = np.stack([eye.center for eye in anatomy.eyes])

    def points_of(vertices: Array) -> Array:
        eyes = np.stack([0.5 * (vertices[b].min(0) + vertices[b].max(0)) for b in balls])
        return np.concatenate([vertices[face], vertices[edges[0]], eyes])

    base = points_of(template)
    slopes = np.stack([points_of(template + b) for b in basis]) - base
    known = np.concatenate([edges[1], centers])
    identity, turn = np.zeros(n_shape), np.eye(3)
    source = base[N_FACE:]
    scale = float(np.linalg.norm(centers[0] - centers[1]) / np.linalg.norm(source[-2] - source[-1]))
    shift = known.mean(0) - scale * source.mean(0)
    for _ in range(_ROUNDS):
        local = base + np.tensordot(identity, slopes, 1)
        world = scale * local @ turn.T + shift
        vertices = scale * (template + np.tensordot(identity, basis, 1)) @ turn.T + shift
        normals = vertex_normals(vertices, face_triangles)[face]
        place, normal, trust = target.nearest(world[face], normals)
        # Columns: rotation, shift, log of the scale, identity.
        cross = np.zeros((len(world), 3, 3))
        about = world - shift
        for i, axis in enumerate(np.eye(3)):
            cross[:, :, i] = np.cross(axis, about)
        jacobian = np.concatenate(
            [
                cross,
                np.tile(np.eye(3), (len(world), 1, 1)),
                about[:, :, None],
                scale * (turn @ slopes.transpose(1, 2, 0)),
            ],
            axis=2,
        )
        root = np.sqrt(trust) / _SURFACE_ERROR / 2
        rows = [root[:, None] * np.einsum("ni,nij->nj", normal, jacobian[face])]
        values = [root * (normal * (place - world[face])).sum(1)]
        rows.append(jacobian[N_FACE:].reshape(-1, jacobian.shape[2]) / _EDGE_ERROR)
        values.append((known - world[N_FACE:]).ravel() / _EDGE_ERROR)
        prior = np.zeros((n_shape, jacobian.shape[2]))
        prior[:, 7:] = np.eye(n_shape)
        rows.append(prior)
        values.append(-identity)
        step = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
        turn = Rotation.from_rotvec(step[:3]).as_matrix() @ turn
        shift = shift + step[3:6]
        scale *= float(np.exp(step[6]))
        identity = np.clip(identity + step[7:], -2.5, 2.5)
    return scale, turn, shift, identity


def _bend(start: Array, skin: Index, target: _Target, edges: tuple[Index, Array]) -> Array:
    """Bend a fitted skin on to the target; free vertices stay where they are."""
    used, own = np.unique(skin, return_inverse=True)
    faces = own.reshape(-1, 3)
    points = start[used].copy()
    rest = points.copy()
    laplacian, area = cotangent_laplacian(rest, faces), vertex_areas(rest, faces)
    bending = laplacian @ sp.diags(1 / area) @ laplacian
    held = np.searchsorted(used, edges[0])
    for scale in _SCALES:
        place, normal, trust = target.nearest(points, vertex_normals(points, faces))
        gap = ((place - points) * normal).sum(1, keepdims=True) * normal
        weight = area * trust
        weight[held] = area.mean() * 20
        goal = points + gap
        goal[held] = edges[1]
        system = (sp.diags(weight) + scale**4 * bending + 1e-9 * sp.identity(len(points))).tocsc()
        points = rest + splu(system).solve(weight[:, None] * (goal - rest))
    out = start.copy()
    out[used] = points
    return out
