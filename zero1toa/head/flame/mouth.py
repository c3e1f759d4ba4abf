"""Teeth, tongue and mouth cavity, appended to a mesh that ends behind the lips.

The cavity is drawn backwards from the mouth's boundary loop; teeth and tongue are the canonical head's, placed by the
registration. Every new vertex is an affine function of the mesh's own, so it moves with all coefficients: the cavity's
front with the lips' inner sides, its back, the teeth and the tongue rigidly with skull and jaw.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.anatomy import Anatomy
from zero1toa.head.flame.importing import FlameArrays
from zero1toa.head.flame.mesh import Array, Index, Mask, parts
from zero1toa.head.flame.registration import Registration

#: The cavity's rings: metres behind the loop, metres above and below the seam, share of the loop's width.
_RINGS = ((0.004, 0.007, 1.00), (0.012, 0.013, 1.08), (0.025, 0.015, 1.00), (0.042, 0.012, 0.75))
_END = 0.052  # metres behind the loop
_NOSE_TIP, _CHIN = 4, 152
_JAW = 2  # index of the jaw joint
_AROUND_CHIN = 0.015  # metres around the chin of the skin whose motion is the jaw's
_AROUND_MOUTH = 0.035  # metres around the mouth of the skin that teeth grow with


@dataclasses.dataclass(frozen=True)
class MouthParts:
    """Vertices and triangles to append; ids go on after the mesh's own.

    Attributes:
        vertices: ``[N, 3]`` metres.
        faces: ``[M, 3]``.
        basis: displacement per coefficient ``[N, 3, S + E]``.
        weights: skinning weights ``[N, 5]``.
        regions: masks over the new triangles ``[M]``: ``mouth`` (cavity and tongue), ``tongue``, ``teeth``.
    """

    vertices: Array
    faces: Index
    basis: Array
    weights: Array
    regions: dict[str, Mask]


def make_mouth(
    arrays: FlameArrays, anatomy: Anatomy, head: CanonicalHead, registration: Registration, has_jaw: bool
) -> MouthParts:
    """Build the inside of the mouth.

    Args:
        arrays: the mesh and its bases.
        anatomy: what was found on it.
        head: the canonical head, for its teeth and tongue.
        registration: the canonical skin on this mesh.
        has_jaw: whether the jaw turns about its joint; otherwise the expression basis moves it, and the lower teeth
            follow the chin.
    """
    rigid = _RigidParts(arrays, registration, has_jaw)
    vertices, faces, basis, weights = _cavity(arrays, anatomy, rigid, len(arrays.template))
    points, triangles, is_teeth, lower = _inside(head, registration, anatomy, arrays)
    faces = np.concatenate([faces, triangles + len(arrays.template) + len(vertices)])
    n_cavity = len(faces) - len(triangles)
    basis = np.concatenate(
        [basis, np.where(lower[:, None, None], rigid.basis(points, True), rigid.basis(points, False))]
    )
    weights = np.concatenate([weights, np.where(lower[:, None], rigid.jaw_weights, rigid.skull_weights)])
    teeth = np.concatenate([np.zeros(n_cavity, bool), is_teeth])
    tongue = np.concatenate([np.zeros(n_cavity, bool), ~is_teeth])
    regions = {"mouth": ~teeth, "tongue": tongue, "teeth": teeth}
    return MouthParts(np.concatenate([vertices, points]), faces, basis, weights, regions)


class _RigidParts:
    """How skull and jaw move with the coefficients."""

    def __init__(self, arrays: FlameArrays, registration: Registration, has_jaw: bool) -> None:
        template = arrays.template
        self.n_shape, self.has_jaw = arrays.n_shape, has_jaw
        nose = int(np.linalg.norm(template - registration.points[_NOSE_TIP], axis=1).argmin())
        chin_mark = registration.points[_CHIN]
        chin = np.flatnonzero(np.linalg.norm(template - chin_mark, axis=1) < _AROUND_CHIN)
        self.skull_weights = arrays.weights[nose]
        self.jaw_weights = arrays.weights[chin[arrays.weights[chin, _JAW].argmax()]]
        mouth = registration.points[[13, 14]].mean(0)
        around = np.flatnonzero(np.linalg.norm(template - mouth, axis=1) < _AROUND_MOUTH)
        self._middle = template[around].mean(0)
        self._growth = _similarity_motion(template[around] - self._middle, arrays.basis[around, :, : self.n_shape])
        self._chin = template[chin].mean(0)
        self._swing = _rigid_motion(template[chin] - self._chin, arrays.basis[chin, :, self.n_shape :])

    def basis(self, points: Array, lower: bool) -> Array:
        """Displacement per coefficient of points fixed to skull or jaw ``[N, 3, S + E]``."""
        shift, size = self._growth
        local = points - self._middle
        identity = shift[None] + local[:, :, None] * size
        if lower and not self.has_jaw:
            shift, turn = self._swing
            expression = shift[None] + np.cross(turn.T[None], (points - self._chin)[:, None]).transpose(0, 2, 1)
        else:
            expression = np.zeros((len(points), 3, self._swing[0].shape[1]))
        return np.concatenate([identity, expression], axis=2)


def _similarity_motion(local: Array, moves: Array) -> tuple[Array, Array]:
    """Shift ``[3, K]`` and growth ``[K]`` about the middle that best explain displacements ``[N, 3, K]``."""
    return moves.mean(0), (local[:, :, None] * moves).sum((0, 1)) / (local**2).sum()


def _rigid_motion(local: Array, moves: Array) -> tuple[Array, Array]:
    """Shift ``[3, K]`` and small rotation ``[3, K]`` about the middle that best explain displacements ``[N, 3, K]``."""
    shift = moves.mean(0)
    cross = np.cross(local[:, :, None], (moves - shift).transpose(0, 1, 2), axisa=1, axisb=1, axisc=1).sum(0)
    inertia = (local**2).sum() * np.eye(3) - local.T @ local
    return shift, np.linalg.solve(inertia + 1e-3 * np.trace(inertia) * np.eye(3), cross)


def _cavity(arrays: FlameArrays, anatomy: Anatomy, rigid: _RigidParts, first: int) -> tuple[Array, Index, Array, Array]:
    loop, upper = anatomy.mouth_loop, anatomy.upper_loop
    start = arrays.template[loop]
    middle = start.mean(0)
    half_width = np.ptp(start[:, 0]) / 2
    arch = np.sqrt(np.clip(1 - ((start[:, 0] - middle[0]) / half_width) ** 2, 0, 1))
    up = np.where(upper, arch, -arch)
    rings: list[Array] = []
    bases, weights = [arrays.basis[loop]], [arrays.weights[loop]]
    for step, (back, height, width) in enumerate(_RINGS, start=1):
        # Behind a curved row of teeth the cavity is as deep at its corners as at its middle.
        flat = step / len(_RINGS)
        z = (1 - flat) * start[:, 2] + flat * start[:, 2].min() - back
        y = (1 - flat) * start[:, 1] + flat * middle[1] + up * height
        ring = np.stack([middle[0] + width * (start[:, 0] - middle[0]), y, z], axis=1)
        rings.append(ring)
        fixed = np.where(upper[:, None, None], rigid.basis(ring, False), rigid.basis(ring, True))
        bases.append((1 - flat) * arrays.basis[loop] + flat * fixed)
        weights.append(arrays.weights[loop])
    end = np.array([[middle[0], middle[1], start[:, 2].min() - _END]])
    vertices = np.concatenate([*rings, end])
    basis = np.concatenate([*bases[1:], bases[-1].mean(0, keepdims=True)])
    weight = np.concatenate([*weights[1:], weights[-1].mean(0, keepdims=True)])
    n = len(loop)
    ids = [loop] + [first + i * n + np.arange(n) for i in range(len(_RINGS))]
    faces = []
    for a, b in itertools.pairwise(ids):
        for i in range(n):
            j = (i + 1) % n
            faces += [(a[j], a[i], b[i]), (a[j], b[i], b[j])]
    tip = first + len(_RINGS) * n
    faces += [(ids[-1][(i + 1) % n], ids[-1][i], tip) for i in range(n)]
    return vertices, np.array(faces, np.int64), basis, weight


def _inside(
    head: CanonicalHead, registration: Registration, anatomy: Anatomy, arrays: FlameArrays
) -> tuple[Array, Index, Mask, Mask]:
    """The canonical head's teeth and tongue on this mesh: vertices, triangles, which are teeth, what the jaw moves."""
    person = head.neutral()
    rest = head.vertices(person.replace(shape=person.shape + person.shape.new_tensor(registration.identity)))
    source = rest.double().numpy()
    chosen = (head.regions["teeth"] | head.regions["tongue"]).numpy()
    used, own = np.unique(head.faces.numpy()[chosen], return_inverse=True)
    faces = own.reshape(-1, 3)
    points = registration.carry(source[used])
    # The similarity is the whole head's; the lips' seam tells where this mouth is.
    seam = np.concatenate([anatomy.seam.upper, anatomy.seam.lower])
    points += arrays.template[seam].mean(0) - registration.carry(source[:468][list(_SEAM)]).mean(0)
    is_teeth = head.regions["teeth"].numpy()[chosen]
    part = parts(faces, len(points))
    teeth_parts = np.unique(part[faces[is_teeth]])
    heights = {int(p): points[part == p, 1].mean() for p in np.unique(part)}
    highest = max(teeth_parts.tolist(), key=lambda p: heights[int(p)])
    return points, faces, is_teeth, part != highest


_SEAM = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324)
