"""Skull and neck: a smooth solid fitted to the face oval, and the grid of skin that grows over it from the oval."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse.linalg import spsolve

from zero1toa.head.sculpt.geometry import cotangent_laplacian, vertex_areas

Array = NDArray[np.float64]

SPACING = 13.0  # millimetres between grown vertices along a column
#: Cranium centre y, z and radii; jaw centre y, z and radii; neck radii (x, z) and its axis' z at jaw height and at the
#: base. Millimetres from the centroid of the face; adult anthropometry, moved as little as the person's oval asks.
PRIOR = np.array([46.0, -86.0, 77.0, 98.0, 98.0, -38.0, -42.0, 60.0, 46.0, 50.0, 53.0, 54.0, -96.0, -104.0])
STIFFNESS = np.array([8.0, 8.0, 5.0, 6.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0, 4.0, 4.0, 6.0, 6.0])
#: The cranium is fuller than an ellipsoid (exponent) and wider behind than in front (taper).
CRANIUM_EXPONENT, CRANIUM_TAPER = 2.4, 0.10
NECK_TOP, NECK_BASE = -20.0, -152.0
NECK_FLARE = 0.16  # widening towards the shoulders
BLEND = 26.0
CROWDING = 0.6


@dataclasses.dataclass(frozen=True)
class Solid:
    """Smooth union of cranium, jaw and neck; ``parameters`` in the order of :data:`PRIOR`."""

    parameters: Array

    def distance(self, points: Array) -> Array:
        """Approximate signed distance in millimetres ``[N]``, negative inside."""
        q = self.parameters
        head = points - np.array([0.0, q[0], q[1]])
        head[:, 0] *= 1 + CRANIUM_TAPER * np.clip(head[:, 2] / q[4], -1, 1)
        cranium = _ellipsoid(head, q[2:5], CRANIUM_EXPONENT)
        jaw = _ellipsoid(points - np.array([0.0, q[5], q[6]]), q[7:10])
        t = (points[:, 1] - NECK_TOP) / (NECK_BASE - NECK_TOP)
        axis = q[12] + (q[13] - q[12]) * np.clip(t, 0.0, None)
        above = np.clip(points[:, 1] - NECK_TOP, 0.0, None)
        flare = 1 + NECK_FLARE * np.clip(t, 0.0, 1.0) ** 3
        column = np.stack([points[:, 0] / flare, above, (points[:, 2] - axis) / np.sqrt(flare)], axis=1)
        neck = _ellipsoid(column, np.array([q[10], 40.0, q[11]]))
        return _smooth_min(_smooth_min(cranium, jaw, BLEND), neck, BLEND)

    def gradient(self, points: Array) -> Array:
        """Central differences ``[N, 3]``."""
        step = 0.05
        out = np.empty_like(points)
        for i in range(3):
            move = np.zeros(3)
            move[i] = step
            out[:, i] = (self.distance(points + move) - self.distance(points - move)) / (2 * step)
        return out

    def project(self, points: Array, iterations: int = 4) -> Array:
        """Move points to the surface by Newton steps along the gradient."""
        for _ in range(iterations):
            g = self.gradient(points)
            points = points - g * (self.distance(points) / np.maximum((g**2).sum(1), 0.05))[:, None]
        return points


def fit(oval: Array, outward_tangent: Array) -> Solid:
    """Fit the solid to the face's rim: it passes through the oval and continues the face's direction there.

    Args:
        oval: ``[36, 3]`` millimetres.
        outward_tangent: unit directions in which the face surface leaves the oval ``[36, 3]``.
    """

    def residual(q: Array) -> Array:
        solid = Solid(q)
        gradient = solid.gradient(oval)
        gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
        crease = 12.0 * (gradient * outward_tangent).sum(1)
        return np.concatenate([solid.distance(oval), crease, 2.0 * (q - PRIOR) / STIFFNESS])

    return Solid(least_squares(residual, PRIOR).x)


@dataclasses.dataclass(frozen=True)
class Growth:
    """Skin grown from the oval to the neck's base.

    Attributes:
        points: ``[G, 3]``: column by column from the oval outwards (the oval itself is not repeated), then the middle
            of the neck's base.
        faces: ``[F, 3]`` wound outwards over ``oval ids + grown ids``; the last 36 close the neck's base.
        column: column of every grown vertex ``[G]``, -1 for the middle of the base.
        rim: ids of the neck's rim ``[36]``.
        mirror: mirror partner of every grown vertex ``[G]``, as grown index.
    """

    points: Array
    faces: NDArray[np.int64]
    column: NDArray[np.int64]
    rim: NDArray[np.int64]
    mirror: NDArray[np.int64]


def grow(oval: Array, oval_ids: NDArray[np.int64], first: int, outward_tangent: Array, solid: Solid) -> Growth:
    """Lay columns of skin from the oval over the skull to the neck's base, evenly spaced whatever their length.

    Args:
        oval: ``[36, 3]`` starting at the forehead's midline, mirror symmetric.
        oval_ids: vertex ids of the oval ``[36]``.
        first: id of the first grown vertex.
        outward_tangent: direction in which the face leaves the oval ``[36, 3]``.
        solid: the surface to lie on.
    """
    n = len(oval)
    curves = _curves(oval, solid)
    length = np.linalg.norm(np.diff(curves, axis=0), axis=-1).sum(0)
    length = 0.5 * (length + length[(-np.arange(n)) % n])
    counts = np.maximum(np.rint(length / SPACING).astype(int), 4)
    columns = [_equal_steps(curves[:, c], counts[c] + 1)[1:] for c in range(n)]
    starts = first + np.concatenate([[0], np.cumsum(counts)])
    ids = [np.concatenate([[oval_ids[c]], np.arange(starts[c], starts[c + 1])]) for c in range(n)]
    mirror = np.concatenate([ids[(-c) % n][1:] for c in range(n)] + [starts[-1:]]) - first
    rim = np.array([i[-1] for i in ids])
    half = [t for c in range(n // 2) for t in _zip(ids[c], ids[c + 1])]
    partner = {first + v: first + int(m) for v, m in enumerate(mirror)}
    partner |= {int(oval_ids[c]): int(oval_ids[-c % n]) for c in range(n)}
    other = [(partner[a], partner[c], partner[b]) for a, b, c in half]
    cap = [(int(rim[(c + 1) % n]), int(rim[c]), int(starts[-1])) for c in range(n)]
    points = np.concatenate([*columns, [np.stack([c[-1] for c in columns]).mean(0)]])
    faces = np.array(half + other, dtype=np.int64)
    points = _relax(points, faces, ids, oval, oval_ids, first, outward_tangent, solid)
    column = np.concatenate([np.full(counts[c], c) for c in range(n)] + [np.array([-1])])
    return Growth(points, np.concatenate([faces, np.array(cap, dtype=np.int64)]), column, rim, mirror)


def _curves(oval: Array, solid: Solid, samples: int = 161) -> Array:
    """Densely sampled columns on the solid ``[samples, 36, 3]``.

    Seen in stereographic projection from the face's middle the skull is a ring between the oval (outside) and the
    neck's rim (inside); the columns are ordered curves there that never cross.
    """
    n = len(oval)
    # Column 0 starts at the forehead and ends at the nape; half way round is the chin, which ends at the throat.
    angle = 2 * np.pi * np.arange(n) / n
    side = np.sign(oval[n // 4, 0])
    q = solid.parameters
    ring = np.stack([side * q[10] * np.sin(angle), np.full(n, NECK_BASE), q[13] - q[11] * np.cos(angle)], axis=1)
    rim = solid.project(ring)
    rim[:, 1] = NECK_BASE
    centre = np.array([0.0, 20.0, q[1]])
    pole = _unit(np.array([0.0, -5.0, 20.0]) - centre)
    across = np.array([1.0, 0.0, 0.0])
    up = np.cross(pole, across)

    def to_plane(points: Array) -> Array:
        d = points - centre
        d = d / np.linalg.norm(d, axis=1, keepdims=True)
        return np.stack([d @ across, d @ up], axis=1) / (1 - d @ pole)[:, None]

    s = np.linspace(0, 1, samples)[:, None, None]
    # Drawing the columns to the midline early keeps them close together over the crown.
    share = np.concatenate([s**CROWDING, s], axis=-1)
    plane = ((1 - share) * to_plane(oval) + share * to_plane(rim)).reshape(-1, 2)
    r2 = (plane**2).sum(1, keepdims=True)
    directions = (2 * plane[:, :1] * across + 2 * plane[:, 1:] * up + (r2 - 1) * pole) / (1 + r2)
    curves = (centre + directions * _ray_hit(solid, centre, directions)[:, None]).reshape(samples, n, 3)
    curves[0], curves[-1] = oval, rim
    return curves


def _zip(left: NDArray[np.int64], right: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Triangles between two neighbouring columns with different numbers of vertices."""
    i = j = 0
    out = []
    while i < len(left) - 1 or j < len(right) - 1:
        # Advance on the side whose next vertex comes first, as a fraction of its column.
        if j == len(right) - 1 or (i < len(left) - 1 and (i + 1) / (len(left) - 1) <= (j + 1) / (len(right) - 1)):
            out.append((int(right[j]), int(left[i]), int(left[i + 1])))
            i += 1
        else:
            out.append((int(right[j]), int(left[i]), int(right[j + 1])))
            j += 1
    return out


def _relax(
    points: Array,
    faces: NDArray[np.int64],
    ids: list[NDArray[np.int64]],
    oval: Array,
    oval_ids: NDArray[np.int64],
    first: int,
    outward_tangent: Array,
    solid: Solid,
    rounds: int = 8,
) -> Array:
    """Even out the triangles on the solid.

    A few rounds only: smoothing shortens the columns, and over the crown they would slide down its sides.
    """
    total = first + len(points)
    everything = np.zeros((total, 3))
    everything[oval_ids] = oval
    everything[first:] = points
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    near = sp.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    degree = np.maximum(np.asarray(near.sum(1)).ravel(), 1)
    fixed = {int(i[-1]) for i in ids} | {total - 1}
    free = np.array([v for v in range(first, total) if v not in fixed])
    beside = np.array([i[1] for i in ids])
    reach = np.linalg.norm(everything[beside] - oval, axis=1, keepdims=True)
    for _ in range(rounds):
        moved = (near @ everything) / degree[:, None]
        # The first vertex of a column is held on the face's own continuation, or the first triangles fold.
        moved[beside] = 0.5 * moved[beside] + 0.5 * (oval + reach * outward_tangent)
        everything[free] = solid.project(0.5 * everything[free] + 0.5 * moved[free], 1)
    return everything[first:]


def fair(points: Array, faces: NDArray[np.int64], free: NDArray[np.int64], target: Array, weight: Array) -> Array:
    """Minimise bending of the free vertices, tied to ``target`` by ``weight`` (relative to a 10 mm patch).

    Args:
        points: ``[V, 3]``; vertices that are not free stay.
        faces: ``[F, 3]``.
        free: ids of free vertices ``[N]``.
        target: where the data term pulls them ``[N, 3]``.
        weight: strength of the data term ``[N]``.
    """
    laplacian = cotangent_laplacian(points, faces)
    area = vertex_areas(points, faces)
    bending = (laplacian @ sp.diags(1 / area) @ laplacian).tocsr()
    # 1 / (10 mm)^4 makes the two energies equal for features of that size.
    data = sp.diags(weight * area[free] / 10.0**4)
    fixed = np.setdiff1d(np.arange(len(points)), free)
    system = bending[free][:, free] + data
    right = data @ target - bending[free][:, fixed] @ points[fixed]
    out = points.copy()
    out[free] = spsolve(system.tocsc(), right)
    return out


def _ellipsoid(points: Array, radii: Array, exponent: float = 2.0) -> Array:
    """First-order distance to a superellipsoid: its norm minus one, over the norm's gradient."""
    scaled = np.abs(points / radii)
    norm = np.maximum((scaled**exponent).sum(1), 1e-12) ** (1 / exponent)
    slope = np.linalg.norm((scaled / norm[:, None]) ** (exponent - 1) / radii, axis=1)
    return (norm - 1) / np.maximum(slope, 1e-9)


def _smooth_min(a: Array, b: Array, width: float) -> Array:
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b * (1 - h) + a * h - width * h * (1 - h)


def _ray_hit(solid: Solid, origin: Array, directions: Array) -> Array:
    """Distance along each ray to the outermost surface crossing."""
    steps = np.linspace(20, 260, 241)
    inside = np.stack([solid.distance(origin + s * directions) < 0 for s in steps])
    return steps[len(steps) - 1 - np.argmax(inside[::-1], axis=0)]


def _equal_steps(curve: Array, count: int) -> Array:
    """Resample a polyline ``[N, 3]`` to ``count`` points at equal arc length."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, curve[:, i]) for i in range(3)], axis=1)


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
