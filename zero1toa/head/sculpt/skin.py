"""The skin: the measured face, grown over skull and neck, at the detector's resolution (before the split)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.sculpt import skull
from zero1toa.head.sculpt.template import Template
from zero1toa.head.sculpt.topology import FOREHEAD, N_FACE, UPPER_LIP, boundary_loops

Array = NDArray[np.float64]
Index = NDArray[np.int64]


#: The lips' rows next to the right corner are spread by so many millimetres: as measured they lie on one line there,
#: and the flat triangles between them would fold under every mouth shape.
CORNER_LIFT = {183: 0.45, 184: 0.30, 96: -0.45, 77: -0.30}


@dataclasses.dataclass(frozen=True)
class Skin:
    """Coarse skin in millimetres from the face's centroid.

    Attributes:
        points: ``[V, 3]``, the first 468 are the detector's landmarks.
        faces: ``[F, 3]``, the first 852 are the face.
        oval: ids of the face's rim ``[36]``, from the forehead's midline.
        mirror: mirror partner of every vertex ``[V]``.
        lips: ids of the inner lip loop ``[20]``, in the face's boundary direction.
        eyes: ids of the left and the right eye loop ``[2, 16]``.
        distance: straight distance of every vertex from the oval in millimetres ``[V]``.
        column: column of every grown vertex, counted from the forehead ``[V]``; -1 elsewhere.
    """

    points: Array
    faces: Index
    oval: Index
    mirror: Index
    lips: Index
    eyes: Index
    distance: Array
    column: Index


def grow_skin(template: Template) -> Skin:
    """Build the neutral skin from the measured face."""
    faces = template.faces
    oval, lips, *eyes = boundary_loops(faces)
    lips = np.roll(lips, -int(np.flatnonzero(lips == UPPER_LIP)[0]))
    face_points = close_loop(template.points[:N_FACE], lips)
    for vertex, lift in CORNER_LIFT.items():
        face_points[[vertex, template.mirror[vertex]], 1] += lift
    oval = np.roll(oval, -int(np.flatnonzero(oval == FOREHEAD)[0]))
    left, right = sorted(eyes, key=lambda loop: -face_points[loop, 0].mean())
    tangent = _rim_tangent(face_points, faces, oval)
    solid = skull.fit(face_points[oval], tangent)
    growth = skull.grow(face_points[oval], oval, N_FACE, tangent, solid)
    points = np.concatenate([face_points, growth.points])
    all_faces = np.concatenate([faces, growth.faces])
    face_mirror = template.mirror[:N_FACE]
    if not np.array_equal(face_mirror[oval], oval[(-np.arange(len(oval))) % len(oval)]):
        raise RuntimeError("the face's rim is not symmetric about its first vertex")
    mirror = np.concatenate([face_mirror, N_FACE + growth.mirror])
    points = 0.5 * (points + (points * np.array([-1.0, 1.0, 1.0]))[mirror])
    distance = np.linalg.norm(points[:, None] - points[oval][None], axis=-1).min(1)
    free = np.setdiff1d(np.arange(N_FACE, len(points) - 1), growth.rim)
    # The solid is trusted more the further a vertex is from the measured face.
    ramp = np.clip((distance[free] - 4.0) / 28.0, 0, 1)
    weight = 1e-4 + 30.0 * (ramp * ramp * (3 - 2 * ramp)) ** 2
    closed = all_faces[: len(all_faces) - len(oval)]
    faired = skull.fair(points, closed, free, points[free], weight)
    faired = 0.5 * (faired + (faired * np.array([-1.0, 1.0, 1.0]))[mirror])
    column = np.concatenate([np.full(N_FACE, -1), growth.column])
    return Skin(faired, all_faces, oval, mirror, lips, np.stack([left, right]), distance, column)


def close_loop(points: Array, lips: Index) -> Array:
    """Bring opposite points of the lips' loop (which starts at its upper middle) together: a closed mouth is closed.

    The detector leaves a third of a millimetre between the lips, enough to show a line of teeth.
    """
    opposite = lips[(len(lips) // 2 - np.arange(len(lips))) % len(lips)]
    out = points.copy()
    out[lips] = 0.5 * (points[lips] + points[opposite])
    return out


def _rim_tangent(points: Array, faces: Index, oval: Index) -> Array:
    """Unit directions in which the face surface leaves its rim, at right angles to the rim ``[36, 3]``."""
    on_rim = np.zeros(len(points), dtype=bool)
    on_rim[oval] = True
    out = np.zeros((len(oval), 3))
    along = points[np.roll(oval, -1)] - points[np.roll(oval, 1)]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    for i, v in enumerate(oval):
        ring = np.unique(faces[(faces == v).any(1)])
        inner = ring[~on_rim[ring]]
        away = points[v] - points[inner].mean(0)
        away -= along[i] * (away @ along[i])
        out[i] = away / np.linalg.norm(away)
    return out
