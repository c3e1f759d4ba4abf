"""A portrait's ears: which ones hair covers, and where those that show are."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from zero1toa.avatar.ears import place_ear
from zero1toa.avatar.portrait_frame import SIZE, Mask, PortraitFrame, ramp, sample
from zero1toa.avatar.surface import Array
from zero1toa.render.cameras import project

SIDES = (1.0, -1.0)
"""Sign of x on the left and on the right side."""
HAIR = 80
"""Pixels around the bare head from which there is hair: fewer are a skull that was fitted too small, in its shade."""


class PortraitEars:
    """Both ears of one portrait.

    Attributes:
        covered: whether hair covers the left and the right ear.
        offsets: what brings those that show to where the picture has their skin ``[V, 3]``, metres at rest; zero on
            all other vertices.
        shown: where the picture shows them ``[SIZE, SIZE]``.
        bald: whether the picture shows no hair around the bare head.
    """

    def __init__(self, frame: PortraitFrame) -> None:
        """Find them."""
        self._frame, head = frame, frame.head
        sides = frame.template[head.faces.numpy()].mean(1)[:, 0]
        self._faces = [head.regions["ears"] & torch.from_numpy(sign * sides > 0) for sign in SIDES]
        self.ids = np.unique(head.faces[head.regions["ears"]].numpy())
        like_hair, skin = self._colors()
        self.bald = like_hair is None
        self.covered, self.offsets, self.shown = self._place(like_hair or (False, False), skin)

    def of_side(self, sign: float) -> Array:
        """Vertices of the ear on the side of ``sign``."""
        return self.ids[sign * self._frame.template[self.ids, 0] > 0]

    def from_covered(self, points: Array) -> Array:
        """Distance of vertices of the skin ``[P]`` from the nearest ear that hair covers, metres; infinite without."""
        distance = np.full(len(points), np.inf)
        for sign, hidden in zip(SIDES, self.covered, strict=True):
            ear = self.of_side(sign)
            if len(ear) and hidden:
                distance = np.minimum(distance, cKDTree(self._frame.rest[ear]).query(points)[0])
        return distance

    def from_shown(self, points: Array) -> Array:
        """Distance of vertices of the skin ``[P]`` from what shows of the nearest ear, metres; infinite without."""
        frame = self._frame
        pixels = frame.pixels(frame.posed(torch.from_numpy(self.offsets).float()))
        near = ndimage.binary_dilation(self.shown).astype(float)
        ears = self.ids[sample(near, pixels[self.ids]) > 0.5]
        if not len(ears):
            return np.full(len(points), np.inf)
        return np.asarray(cKDTree((frame.rest + self.offsets)[ears]).query(points)[0])

    def beside(self, pixels: Array) -> Array:
        """0 at ``pixels`` ``[P, 2]`` where an ear that shows, not hair, makes the outline, 1 away from it ``[P]``."""
        if not self.shown.any():
            return np.ones(len(pixels))
        away = ndimage.distance_transform_edt(~self.shown)
        return ramp((sample(away, pixels) - 3) / 6)

    def _colors(self) -> tuple[tuple[bool, bool] | None, Mask]:
        """Whether the left and the right ear have the hair's colour and not the skin's, None for a bald person; and
        where the picture shows the skin's colour ``[H, W]``, everywhere on a bald person.
        """
        frame, picture = self._frame, self._frame.picture
        posed, faces, regions = frame.posed(), frame.head.faces, frame.head.regions
        opaque = ndimage.binary_erosion(picture[..., 3] > 0.95, iterations=2)
        skin = frame.mask(posed, faces[regions["face"]]) & opaque
        everything = frame.mask(posed, faces)
        # Outside of the bare head and above the chin there is nothing but hair; a bald head has none.
        chin = frame.pixels(posed)[np.unique(faces[regions["face"]].numpy()), 1].max()
        rows = np.arange(SIZE)[:, None] + 0.5
        hair = ~ndimage.binary_dilation(everything, iterations=3) & opaque & (rows < chin)
        if hair.sum() < HAIR or skin.sum() < 40:
            return None, picture[..., 3] > 0.5
        skin_color = np.median(picture[skin][:, :3], axis=0)
        hair_color = np.median(picture[hair][:, :3], axis=0)
        to_hair, to_skin = (np.linalg.norm(picture[..., :3] - color, axis=-1) for color in (hair_color, skin_color))
        result = []
        for side in self._faces:
            ear = frame.mask(posed, faces[side]) & opaque
            ear &= ~frame.mask(posed, faces[~side]) if side.any() else False
            like_hair = (to_hair < to_skin)[ear]
            result.append(float(like_hair.mean()) if len(like_hair) > 10 else np.nan)
        if np.isnan(result).all():
            result = [0.0, 0.0]
        # Hair is much the same on both sides: one ear under hair speaks for the other, and for one behind the head.
        enough = 0.6 if np.nanmax(result) < 0.6 else 0.3
        left, right = (share > enough for share in np.nan_to_num(result, nan=np.nanmax(result)))
        return (bool(left), bool(right)), (picture[..., 3] > 0.5) & (to_skin < to_hair)

    def _place(self, like_hair: tuple[bool, bool], skin: Mask) -> tuple[tuple[bool, bool], Array, Mask]:
        """Which ears hair covers, the offsets ``[V, 3]`` that bring those that show to where the picture has their
        skin (zero on all else), and where they show ``[H, W]``.
        """
        frame, faces = self._frame, self._frame.head.faces
        offsets = np.zeros((frame.head.n_vertices, 3))
        shown = np.zeros((SIZE, SIZE), bool)
        covered = []
        posed = frame.posed().double()
        depth = project(posed[None], frame.viewmat.double(), frame.K.double())[1][0]
        axes = frame.viewmat[0, :2, :3].double()  # right and down in the picture
        for own, hairy in zip(self._faces, like_hair, strict=True):
            covered.append(hairy)
            if not own.any():
                continue
            ids = torch.unique(faces[own])
            middle = posed[ids].mean(0)
            metre = float(frame.K[0, 0, 0] / depth[ids].mean())
            ear = frame.mask(posed.float(), faces[own])
            head = frame.mask(posed.float(), faces[~own])
            found = place_ear(ear, head, skin, frame.picture[..., 3] > 0.5, metre)
            if found is None:
                if not hairy:
                    shown |= ear
                continue
            covered[-1] = False
            change = torch.from_numpy(found.linear) - torch.eye(2)
            across = (posed[ids] - middle) @ axes.T
            placed = posed.clone()
            placed[ids] += (across @ change.T + torch.tensor(found.shift) / metre) @ axes
            shown |= frame.mask(placed.float(), faces[own]) & skin & ~head
            turn = _rotation(frame.rest[ids], posed[ids].numpy())
            offsets[ids] = (placed - posed)[ids].numpy() @ turn
        return (covered[0], covered[1]), offsets, shown


def _rotation(a: Array, b: Array) -> Array:
    """Rotation ``[3, 3]`` that turns points ``[N, 3]`` of ``a`` (as columns) into those of ``b``, least squares."""
    u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
