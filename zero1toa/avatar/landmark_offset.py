"""Lay a fitted head on the portrait's landmarks.

A head model's coefficients reach a person's landmarks to about half a percent of the face height. At the jaw that is
enough to paint a collar on a chin, or a chin on the neck. What is left is taken up by an offset of the vertices
(``HeadParams.offset``) in the picture's plane, as smooth as the landmarks allow. Eyes move as wholes with their lids,
which have to close over them. The jaw's line is where the picture has an edge between the landmarks and the mesh's own
outline, which a chin that is modelled too deep has beyond them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.jaw_line import JawLine
from zero1toa.avatar.surface import Array, Skin, laplacian, vertex_mask
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import project
from zero1toa.types import Portrait

ROUNDS = 3
"""Times that the landmarks are measured again: the jaw turns what is found in the picture's plane."""
BENDING = 1e-5
"""Weight of bending beside one landmark, metres^2: a face has 15 000 of them on a square metre, so that what is finer
than three centimetres is smoothed."""
TENSION = 0.025
"""Weight of slopes, which end an offset beyond the landmarks without swinging past zero."""
HOLD = 12.0
"""Weight of the offset itself, per square metre."""
RIGID = 100.0
"""Weight of a lid's vertices, which all take their eye's movement."""
LARGEST = 0.006
"""A landmark that lies further off, metres, is followed less and less: it is one that the fit did not believe."""
_FAR_YAW = 30.0
"""Yaw in degrees from which the far side's landmarks do not count: the detector slides them along the outline."""
_EYES = (("lids_left", "eye_left"), ("lids_right", "eye_right"))


@torch.no_grad()
def lay_on_landmarks(head: HeadModel, portrait: Portrait) -> HeadParams:
    """Offset the portrait's head such that its landmarks are where the portrait has them.

    Args:
        head: head model, on CPU.
        portrait: its parameters, camera and landmarks; an ``offset`` that its parameters have already is kept.

    Returns:
        The head with its offset; deterministic.
    """
    params = portrait.params
    start = head.vertices(head.neutral().replace(shape=params.shape)).double().numpy()
    surface = _Surface(head, start)
    viewmat, K = torch.from_numpy(portrait.viewmat), torch.from_numpy(portrait.K)
    target = torch.from_numpy(portrait.landmarks)
    line = JawLine(portrait.landmarks, portrait.image)
    axes = viewmat[:2, :3]  # right and down in the picture
    template = head.vertices(head.neutral())
    marks = head.landmarks.positions(template, head.faces)
    believed, near = (_near_side(x, portrait.yaw) for x in (marks[:, 0], template[surface.face, 0]))
    total = np.zeros((head.n_vertices, 3))
    if params.offset is not None:
        total += params.offset.double().numpy()
    for _ in range(ROUNDS):
        vertices = head.vertices(params.replace(offset=torch.from_numpy(total).float()))
        points = head.landmarks.positions(vertices, head.faces)
        seen, depth = project(points, viewmat, K)
        gap = (target - seen) * (depth / K[0, 0])[:, None]  # metres
        wanted = (gap @ axes).double().numpy()
        wanted *= (believed / (1 + (np.linalg.norm(wanted, axis=1) / LARGEST) ** 2))[:, None]
        pixels, depth = project(vertices[surface.face], viewmat, K)
        beyond = torch.from_numpy(line.beyond(pixels.double().numpy())).float() * (depth / K[0, 0])[:, None]
        total += surface.follow(wanted, -(beyond @ axes).double().numpy() * near[:, None])
    return params.replace(offset=torch.from_numpy(total).float())


def _near_side(x: Tensor, yaw: float) -> Array:
    """Belief ``[P]`` in points ``x`` metres to the left of a head's middle, which is turned to its left by ``yaw``."""
    far = 1 / (1 + np.exp(-math.copysign(1.0, yaw) * x.double().numpy() / 0.01))
    return 1 - min(abs(yaw) / _FAR_YAW, 1.0) * far


class _Surface:
    """The skin as an elastic sheet with eyes, mouth and ears hung on it."""

    def __init__(self, head: HeadModel, rest: Array) -> None:
        self.n_vertices = head.n_vertices
        self.skin = skin = Skin.of(head)
        faces = head.faces.numpy()
        L, area = laplacian(rest[skin.ids], skin.faces)
        self.stiffness = (BENDING * (L @ sparse.diags(1 / area) @ L) + TENSION * L + HOLD * sparse.diags(area)).tocsc()

        self.local = local = np.full(head.n_vertices, -1)
        local[skin.ids] = np.arange(len(skin.ids))
        corners = local[faces[head.landmarks.triangles.numpy()]]
        self.eyes = []
        on_eye = np.zeros(len(corners), bool)
        for names in _EYES:
            lid, ball = (vertex_mask(faces, head.regions[name].numpy(), head.n_vertices) for name in names)
            of_lid = (lid | ball)[faces[head.landmarks.triangles.numpy()]].all(1)
            self.eyes.append((of_lid, local[lid & (local >= 0)], np.flatnonzero((lid | ball) & (local < 0))))
            on_eye |= of_lid
        self.free = np.flatnonzero((corners >= 0).all(1) & ~on_eye)
        rows = np.repeat(np.arange(len(self.free)), 3)
        values = head.landmarks.barycentric.double().numpy()[self.free].ravel()
        shape = (len(self.free), len(skin.ids))
        self.landmarks = sparse.csr_matrix((values, (rows, corners[self.free].ravel())), shape)
        face = vertex_mask(faces, (head.regions["face"] & ~head.regions["lips"]).numpy(), head.n_vertices)
        self.face = skin.ids[face[skin.ids]]
        # What hangs on the skin follows what it is nearest to: teeth the lips, ears the side of the head.
        hung = np.setdiff1d(np.arange(head.n_vertices), skin.ids)
        self.hung = np.setdiff1d(hung, np.concatenate([inner for _, _, inner in self.eyes]))
        ears = vertex_mask(faces, head.regions["ears"].numpy(), head.n_vertices)[self.hung]
        lips = local[vertex_mask(faces, head.regions["lips"].numpy(), head.n_vertices) & (local >= 0)]
        sides = ears * np.sign(rest[self.hung, 0]).astype(int)
        self.groups = [
            (self.hung[sides == side], lips if side == 0 else self._beside(rest, self.hung[sides == side]))
            for side in (-1, 0, 1)
            if (sides == side).any()
        ]

    def _beside(self, rest: Array, ids: Array) -> Array:
        return np.unique(cKDTree(rest[self.skin.ids]).query(rest[ids])[1])

    def follow(self, wanted: Array, pulled: Array) -> Array:
        """Displacements ``[V, 3]`` that move landmarks by ``wanted`` ``[478, 3]``, and the vertices of the face by
        ``pulled`` ``[Q, 3]`` where that is not zero, metres.
        """
        right = self.landmarks.T @ wanted[self.free]
        pull = np.zeros(len(self.skin.ids))
        on_face = self.local[self.face]
        pull[on_face] = (pulled != 0).any(1)
        right[on_face] += pulled
        result = np.zeros((self.n_vertices, 3))
        for of_lid, lid, inner in self.eyes:
            if not of_lid.any():
                continue
            moved = wanted[of_lid].mean(0)
            pull[lid] += RIGID
            right[lid] += RIGID * moved
            result[inner] = moved
        matrix = self.stiffness + self.landmarks.T @ self.landmarks + sparse.diags(pull)
        solved = splu(matrix.tocsc()).solve(right)
        result[self.skin.ids] = solved
        for ids, beside in self.groups:
            result[ids] = solved[beside].mean(0)
        return result
