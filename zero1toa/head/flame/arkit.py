"""The 52 ARKit units on an expression basis whose coefficients have no names.

Every unit is a displacement of the canonical head's skin, authored there; carried over by the registration it becomes a
wanted displacement of this mesh. The coefficients that come nearest are found by least squares with a price on their
size, over the whole skin, so that what a unit does not move stays still. Jaw, eyes and lids move by joints and lid
closure where the edition has them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.optimize import brentq, lsq_linear

from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES, coefficients
from zero1toa.head.canonical import LIDS_FOLLOW_UP, CanonicalHead
from zero1toa.head.flame.importing import PARENTS, FlameArrays
from zero1toa.head.flame.mesh import Array, Index, Mask
from zero1toa.head.flame.registration import Registration
from zero1toa.head.preview import vertex_normals
from zero1toa.head.sculpt.geometry import vertex_areas
from zero1toa.head.skinning import joint_transforms, rotation_matrix

LIMIT = 3.0
"""Bound on an expression coefficient of one full unit, in standard deviations."""
_PRICE = 0.00012
"""Metres of error, over the moved skin, that one standard deviation must be worth."""
_FOCUS = 12.0  # weight of the skin that a unit moves most, over that of skin it leaves alone
_JAW_ANGLES = (0.2, 0.5)  # radians between which a full opening lies
_JAW_UNITS = ("jawLeft", "jawRight", "jawForward")
_STILL = 1e-5  # metres; a unit that moves no skin by more has nothing to be solved for
_CHIN = 152
_JAW = 2


@dataclasses.dataclass(frozen=True)
class ArkitMap:
    """Linear map from the 52 units.

    Attributes:
        expression: ``[52, E]``.
        jaw: rotation of the jaw joint in radians ``[52, 3]``.
        explained: share of each unit's wanted displacement that the basis reaches ``[52]``; NaN where none is wanted.
    """

    expression: Array
    jaw: Array
    explained: Array


def solve_arkit(
    arrays: FlameArrays, outer_vertices: Index, head: CanonicalHead, registration: Registration, has_jaw: bool
) -> ArkitMap:
    """Find the units.

    Args:
        arrays: mesh, bases and skinning.
        outer_vertices: skin whose motion counts ``[P]``.
        head: the canonical head.
        registration: its skin on this mesh.
        has_jaw: whether the jaw opens by its joint.
    """
    skin = _Skin(arrays, outer_vertices, head, registration)
    expression = np.zeros((len(ARKIT_NAMES), arrays.n_expression))
    jaw, explained = np.zeros((len(ARKIT_NAMES), 3)), np.full(len(ARKIT_NAMES), np.nan)
    opened = skin.wanted({"jawOpen": 1.0})
    turn = np.zeros(3)
    row = ARKIT_INDEX["jawOpen"]
    if has_jaw:
        turn = np.array([skin.jaw_angle(registration, opened), 0.0, 0.0])
        jaw[row] = turn
    else:
        expression[row], explained[row] = skin.solve(opened)
    for name in head.expression_names:
        row = ARKIT_INDEX[name]
        if name == "mouthClose":
            closed = skin.wanted({"jawOpen": 1.0, "mouthClose": 1.0})
            field = skin.unposed(closed, turn) if has_jaw else closed - opened
        else:
            field = skin.wanted({name: 1.0})
        if np.abs(field).max() < _STILL:
            continue  # the tongue's unit: no coefficient of FLAME moves a tongue
        if name in _JAW_UNITS and has_jaw:
            expression[row], jaw[row], explained[row] = skin.solve_with_jaw(field)
        else:
            expression[row], explained[row] = skin.solve(field)
    for side in ("Left", "Right"):
        expression[ARKIT_INDEX[f"eyeLookUp{side}"]] = LIDS_FOLLOW_UP * expression[ARKIT_INDEX[f"eyeWide{side}"]]
    return ArkitMap(expression, jaw, explained)


class _Skin:
    """Wanted displacements of this mesh's skin, and the coefficients that come near them."""

    def __init__(self, arrays: FlameArrays, ids: Index, head: CanonicalHead, registration: Registration) -> None:
        self.ids, self.arrays, self.head = ids, arrays, head
        normals = vertex_normals(arrays.template, arrays.faces)
        self._corners, self._weights = registration.locate(arrays.template[ids], normals[ids])
        self._linear = registration.scale * registration.turn
        self._area = vertex_areas(arrays.template, arrays.faces)[ids]
        self._neutral = head.vertices(head.neutral()).double().numpy()
        self._basis = arrays.basis[ids, :, arrays.n_shape :]
        self._joints = arrays.joint_regressor @ arrays.template

    def wanted(self, unit: dict[str, float]) -> Array:
        """Posed displacement ``[P, 3]`` that the canonical head makes with ARKit weights."""
        posed = self.head.vertices(self.head.arkit(coefficients(unit), self.head.neutral())).double().numpy()
        field = (posed - self._neutral) @ self._linear.T
        return (field[self._corners] * self._weights[..., None]).sum(1)

    def solve(self, field: Array) -> tuple[Array, float]:
        """Expression coefficients ``[E]`` for a displacement ``[P, 3]``, and the share of it that they reach."""
        solution, explained = self._least_squares(field, self._basis, np.full(self._basis.shape[2], _PRICE))
        return solution, explained

    def solve_with_jaw(self, field: Array) -> tuple[Array, Array, float]:
        """The same with small rotations of the jaw joint, which cost nothing by themselves."""
        lever = self.arrays.template[self.ids] - self._joints[_JAW]
        turns = np.stack([np.cross(axis, lever) for axis in np.eye(3)], -1)
        turns *= self.arrays.weights[self.ids, _JAW][:, None, None]
        tenth = 0.1 * turns  # a tenth of a radian counts as one standard deviation
        both = np.concatenate([self._basis, tenth], axis=2)
        price = np.full(both.shape[2], _PRICE)
        price[-3:] = 0.1 * _PRICE
        solution, explained = self._least_squares(field, both, price)
        return solution[:-3], 0.1 * solution[-3:], explained

    def _least_squares(self, field: Array, basis: Array, price: Array) -> tuple[Array, float]:
        size = np.linalg.norm(field, axis=1)
        weight = self._area * (1 + _FOCUS * (size / max(float(size.max()), 1e-9)))
        root = np.sqrt(weight / weight.sum())
        system = (root[:, None, None] * basis).reshape(-1, basis.shape[2])
        right = (root[:, None] * field).ravel()
        # The system is tall: its normal equations carry the same solution.
        normal = system.T @ system + np.diag(price**2)
        factor = np.linalg.cholesky(normal)
        found = lsq_linear(factor.T, np.linalg.solve(factor, system.T @ right), (-LIMIT, LIMIT)).x
        left = right - system @ found
        return found, 1 - float(left @ left) / max(float(right @ right), 1e-18)

    def jaw_angle(self, registration: Registration, opened: Array) -> float:
        """Rotation about x at which the chin drops as far as the canonical one."""
        at = int(np.linalg.norm(self.arrays.template[self.ids] - registration.points[_CHIN], axis=1).argmin())
        drop = float(opened[at, 1])

        def gap(angle: float) -> float:
            return float((self._posed(np.array([angle, 0.0, 0.0]))[at] - self.arrays.template[self.ids[at]])[1]) - drop

        low, high = _JAW_ANGLES
        if gap(low) * gap(high) > 0:
            return low if abs(gap(low)) < abs(gap(high)) else high
        return float(brentq(gap, low, high, xtol=1e-4))

    def unposed(self, field: Array, turn: Array) -> Array:
        """Displacement before skinning ``[P, 3]`` that becomes ``field`` under a jaw rotation."""
        transforms = self._transforms(turn)
        goal = self.arrays.template[self.ids] + field - transforms[..., 3]
        return np.linalg.solve(transforms[..., :3], goal[..., None])[..., 0] - self.arrays.template[self.ids]

    def _posed(self, turn: Array) -> Array:
        transforms = self._transforms(turn)
        return (transforms[..., :3] @ self.arrays.template[self.ids, :, None])[..., 0] + transforms[..., 3]

    def _transforms(self, turn: Array) -> Array:
        rotations = torch.eye(3, dtype=torch.float64).repeat(len(PARENTS), 1, 1)
        rotations[_JAW] = rotation_matrix(torch.from_numpy(turn))
        moved = joint_transforms(rotations, torch.from_numpy(self._joints), PARENTS).numpy()
        return np.einsum("pj,jab->pab", self.arrays.weights[self.ids], moved)


def outer_vertices(faces: Index, outer: Mask) -> Index:
    """Vertices of the triangles that show."""
    return np.unique(faces[outer])
