"""Regions of a registered mesh: eyeballs and irises by geometry, lids around them, ears where the skin stands off, the
rest as on the canonical skin that lies nearest.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.anatomy import Anatomy, Eye
from zero1toa.head.flame.mesh import Array, Index, Mask, face_parts, nearest_on_mesh
from zero1toa.head.flame.registration import Registration
from zero1toa.head.sculpt.geometry import cotangent_laplacian, vertex_areas

IRIS_RADIUS = 0.00585
"""Metres; the visible iris of an adult measures 11.7 mm across, with very little variation."""
_LID_BAND = 0.0045  # metres of skin around the margin that belong to the lids
_EAR_SCALE = 0.020  # metres of detail that is smoothed away to find what stands off
_EAR_HEIGHT = 0.0035  # metres from which it does
_EAR_MARKS = (454, 234)  # MediaPipe's landmarks in front of the left and right ear


def find_regions(
    vertices: Array, faces: Index, anatomy: Anatomy, head: CanonicalHead, registration: Registration
) -> dict[str, Mask]:
    """Masks over the triangles ``[F]`` of a mesh, without mouth and teeth, which have none yet.

    Args:
        vertices: neutral mesh ``[V, 3]``.
        faces: ``[F, 3]``.
        anatomy: what was found on it.
        head: the canonical head.
        registration: the canonical skin on this mesh.
    """
    middle = vertices[faces].mean(1)
    nearest = nearest_regions(middle, head, registration)
    label = {name: mask & anatomy.skin for name, mask in nearest.items()}
    out: dict[str, Mask] = {}
    hidden = anatomy.lining.copy()
    for side, eye in zip(("left", "right"), anatomy.eyes, strict=True):
        out[f"eye_{side}"] = np.isin(faces[:, 0], eye.ball)
        away = middle - eye.center
        forward = away[:, 2] / np.maximum(np.linalg.norm(away, axis=1), 1e-9)
        rim = min(IRIS_RADIUS / eye.radius, 0.8)
        out[f"iris_{side}"] = out[f"eye_{side}"] & (forward > np.sqrt(1 - rim**2))
        out[f"lids_{side}"] = eye.socket | (_near_margin(vertices, middle, eye) & anatomy.outer)
        hidden |= out[f"lids_{side}"]
    out["ears"] = _ears(vertices, faces, anatomy, registration) & ~hidden
    out["lips"] = (label["lips"] & anatomy.outer | anatomy.lining) & ~out["lids_left"] & ~out["lids_right"]
    out["face"] = (label["face"] & ~out["ears"]) | hidden | out["lips"]
    out["scalp"] = label["scalp"] & ~out["ears"] & ~out["face"]
    out["neck"] = anatomy.skin & ~out["face"] & ~out["scalp"] & ~out["ears"]
    return out


def nearest_regions(points: Array, head: CanonicalHead, registration: Registration) -> dict[str, Mask]:
    """Which of face, lips, scalp and neck is nearest on the registered canonical skin, for each point ``[N, 3]``."""
    nearest, _ = nearest_on_mesh(points, registration.points, registration.faces)
    canonical = registration.head_faces[nearest]
    return {name: head.regions[name].numpy()[canonical] for name in ("face", "lips", "scalp", "neck")}


def _near_margin(vertices: Array, middle: Array, eye: Eye) -> Mask:
    margin = vertices[np.concatenate([eye.margin.upper, eye.margin.lower])]
    away, _ = cKDTree(margin).query(middle)
    return (away < _LID_BAND) & (middle[:, 2] > eye.center[2])


def _ears(vertices: Array, faces: Index, anatomy: Anatomy, registration: Registration) -> Mask:
    """Skin beside the face that stands off the smoothed head, the largest piece on each side."""
    used, own = np.unique(faces[anatomy.skin], return_inverse=True)
    skin = own.reshape(-1, 3)
    points = vertices[used]
    area = sp.diags(vertex_areas(points, skin))
    smooth = splu((area + _EAR_SCALE**2 * cotangent_laplacian(points, skin)).tocsc()).solve(area @ points)
    height = np.zeros(len(vertices))
    height[used] = np.abs(points[:, 0]) - np.abs(smooth[:, 0])
    middle, raised = vertices[faces].mean(1), height[faces].mean(1)
    out = np.zeros(len(faces), bool)
    for mark, side in zip(_EAR_MARKS, (1.0, -1.0), strict=True):
        front = registration.points[mark]
        box = (side * middle[:, 0] > 0.6 * abs(front[0])) & (np.abs(middle[:, 1] - front[1]) < 0.045)
        box &= (middle[:, 2] < front[2] + 0.004) & (middle[:, 2] > front[2] - 0.060)
        part = face_parts(faces, box & anatomy.outer & (raised > _EAR_HEIGHT))
        if (part >= 0).any():
            out |= part == np.bincount(part[part >= 0]).argmax()
    return out
