"""Hair volume: lift the skin of the fitted head to the portrait's outline.

The mesh of a head model ends at the skull. Hair stands off it, so a portrait projected on the bare mesh would paint the
outer hair onto the background. Here every vertex of the skin gets a lift along its smoothed normal, such that the
mesh's silhouette in the portrait's camera follows the matte. Only vertices on the silhouette see the matte; the lift
of all others follows biharmonically (smoothest in bending), is made symmetric where the portrait says nothing, and is
held at zero on the face. Lifts become per-vertex offsets in the rest pose (``HeadParams.offset``), metres.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from zero1toa.avatar.portrait_ears import SIDES, PortraitEars
from zero1toa.avatar.portrait_frame import SIZE, Mask, PortraitFrame, ramp, sample, signed_distance
from zero1toa.avatar.surface import Array, Skin, laplacian, mirror, vertex_mask, vertex_normals
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import project
from zero1toa.types import Portrait

ROUNDS = 8
"""Times that the silhouette is measured and the lift solved again."""
HAIRLINE = 0.02
"""The face is held with full weight from this distance to the scalp on, metres."""
LARGEST = 0.14
"""Largest lift, metres: beyond it the matte is no head."""
SHRINK = 0.004
"""Largest inward lift, metres: a skull that is fitted too large."""
AROUND_EARS = 0.012
"""Reach of an ear on the skin, metres: hair lies close around an ear that shows, and buries what is around another."""
BARE_EARS = 0.006
"""Hair rises from this distance on around an ear that shows, metres."""
STEEPEST = 1.2
"""Largest lift over the distance to the hairline: hair rises from the face, it does not start as a wall."""
NECK = 0.06
"""Largest lift of the neck, metres: hair that hangs beside it."""
FLARE = 3
"""Rows per pixel by which hair below the ears may widen downwards; clothes widen faster."""
CLOSED = 0.75
"""Matte from which hair is a closed mass; what is thinner is loose hair."""
WISPS = 2
"""Half the width in pixels up to which what sticks out is loose hair."""
RIM = 2.2
"""Pixels by which Gaussians of the scalp reach beyond the silhouette, or loose hair does."""
BARE_RIM = 1.2
"""The same of a bald head, which has no loose hair."""
SKIN_RIM = -0.6
"""The same of the smaller ones on the face."""
NECK_RIM = 1.0
"""The same of those on the neck."""
BENDING = 2e-8
"""Weight of bending, metres^4: its fourth root, 12 mm, is how far the outline is smoothed."""
TENSION = 3e-5
"""Weight of slopes, metres^2: beyond 26 mm it outweighs bending, so that a lift does not swing past its rim."""
GRAZED = 0.9
"""Share by which a face is held less where it is seen from the side."""
OUTLINE = 20.0
"""Weight of the outline where it is seen: the rim is a thin band that has to carry what lies between."""


@dataclasses.dataclass(frozen=True)
class HairVolume:
    """The lift found for one head.

    Attributes:
        params: the head with its ``offset`` ``[V, 3]``.
        thickness: mean lift of the scalp, metres.
        covered: whether hair covers the left and the right ear.
        mismatch: area between the silhouette and the matte over the matte's area, head and hair only.
    """

    params: HeadParams
    thickness: float
    covered: tuple[bool, bool]
    mismatch: float


def fit_hair(head: HeadModel, portrait: Portrait) -> HairVolume:
    """Lift the portrait's head to the outline of its matte.

    A bald head keeps its skull. Ears under hair are drawn into the head, because the hair that hides them has no
    surface of its own there.

    Args:
        head: head model, on CPU.
        portrait: its parameters, camera and matte; lifts come on top of an ``offset`` that its parameters have.

    Returns:
        The head with its offset; deterministic.
    """
    fit = _Fit(head, portrait)
    lift = np.zeros(len(fit.skin.ids))
    for _ in range(ROUNDS):
        lift = fit.improve(lift)
    offset, covered = fit.offset(lift), fit.ears.covered
    scalp = fit.area * fit.on_scalp
    return HairVolume(
        params=portrait.params.replace(offset=fit.frame.base + offset),
        thickness=float((lift * scalp).sum() / scalp.sum()),
        covered=covered,
        mismatch=fit.mismatch(offset),
    )


class _Fit:
    """What stays the same over all rounds."""

    def __init__(self, head: HeadModel, portrait: Portrait) -> None:
        self.head, self.frame = head, PortraitFrame(head, portrait)
        self.skin = skin = Skin.of(head)
        rest, template = self.frame.rest, self.frame.template
        faces, n = head.faces.numpy(), head.n_vertices
        on = {name: vertex_mask(faces, head.regions[name].numpy(), n) for name in ("scalp", "neck", "face")}
        self.on_scalp = on["scalp"][skin.ids]
        on_neck = on["neck"][skin.ids] & ~self.on_scalp
        points = rest[skin.ids]
        L, self.area = laplacian(points, skin.faces)
        self.stiffness = (BENDING * (L @ sparse.diags(1 / self.area) @ L) + TENSION * L).tocsr()
        self.directions = self._directions(torch.from_numpy(rest).float(), L)
        self.mirror = mirror(template[skin.ids], np.zeros(len(skin.ids), np.int64))

        self.ears = PortraitEars(self.frame)
        self.on_neck = on_neck
        # Clothes begin at the neck's base.
        low, high = points[on_neck, 1].min(), points[on_neck, 1].max()
        self.above_base = ramp((points[:, 1] - low) / (0.3 * (high - low)) - 0.2)
        self.on_face = on["face"][skin.ids] & ~self.on_scalp
        # Skin around an ear that hair covers is under that hair too.
        bare = self.on_face & (self.ears.from_covered(points) >= AROUND_EARS)
        distance, _ = cKDTree(points[self.on_scalp | (self.on_face & ~bare)]).query(points)
        hairline, _ = cKDTree(points[bare]).query(points)
        self.hold = np.where(bare, 1e-3 + ramp(distance / HAIRLINE) ** 2, 1e-5)
        # The throat and the neck's base stay where they are; hair hangs beside and behind a neck.
        front = np.maximum(ramp((self.directions[:, 2] + 0.1) / 0.6), ramp((-self.directions[:, 1] - 0.3) / 0.4))
        self.hold = np.where(on_neck, 1e-3 + front, self.hold)
        bare_ears = self.ears.from_shown(points)
        self.hold = self.hold + 0.3 * (bare_ears < AROUND_EARS)
        self.high = np.minimum(np.where(on_neck, NECK, LARGEST), 0.004 + STEEPEST * hairline)
        # What lies close around an ear that shows would push it aside.
        self.high = np.minimum(self.high, 0.001 + STEEPEST * (bare_ears - BARE_EARS).clip(0))
        self.low = np.where(self.on_scalp | on_neck, -SHRINK, -0.003)

        alpha = self.frame.picture[..., 3]
        self.matte, self.strength = self._matte(alpha, CLOSED)
        skin_matte, _ = self._matte(alpha, 0.5)
        self.inside_hair = signed_distance(self.matte) - (BARE_RIM if self.ears.bald else RIM)
        to_skin = signed_distance(skin_matte)
        self.inside_skin, self.inside_neck = to_skin - SKIN_RIM, to_skin - NECK_RIM

    def _directions(self, rest: torch.Tensor, L: sparse.csr_matrix) -> Array:
        """Normals smoothed over some centimetres, so that a large lift does not fold."""
        normals = vertex_normals(rest, self.head.faces[torch.from_numpy(self.skin.chosen)])[self.skin.ids]
        heat = sparse.diags(self.area) + 4e-4 * L
        smooth = spsolve(heat.tocsc(), self.area[:, None] * normals.double().numpy())
        return smooth / np.linalg.norm(smooth, axis=1, keepdims=True)

    def _matte(self, alpha: Array, closed: float) -> tuple[Mask, Array]:
        """The outline to follow, where the matte is ``closed``, and how far each row of it can be trusted ``[H]``.

        Below the ears hair hangs down: a pixel counts if those above it do, with a little flare; so what is left of
        collars and shoulders is not taken for hair.
        """
        mask = ndimage.binary_opening(ndimage.binary_fill_holes(alpha > closed), iterations=WISPS)
        posed = self.frame.posed()
        pixels = self.frame.pixels(posed)
        neck = np.unique(self.head.faces[self.head.regions["neck"]].numpy())
        bare = self.frame.mask(posed, self.head.faces)
        start = int(np.clip(np.median(pixels[self.skin.ids[self.on_face], 1]), 0, SIZE - 1))
        for y in range(start + 1, SIZE):
            above = mask[y - 1] | bare[y - 1]
            if (y - start) % FLARE == 0:
                above = ndimage.binary_dilation(above)
            mask[y] &= above
        left, right = np.clip([pixels[neck, 0].min(), pixels[neck, 0].max()], 0, SIZE - 1).astype(int)
        strength = ramp((alpha[:, left : right + 1].max(1, initial=0.0) - 0.7) / 0.2)
        strength[:start] = 1.0
        return mask, strength

    def offset(self, lift: Array) -> torch.Tensor:
        """Offsets ``[V, 3]`` float32 of a lift ``[P]`` of the skin; ears that were not placed go with the skin beside
        them, and those that hair covers sink into it.
        """
        offset = np.zeros((self.head.n_vertices, 3))
        offset[self.skin.ids] = lift[:, None] * self.directions
        ears = np.setdiff1d(self.ears.ids, self.skin.ids)
        if len(ears):
            rest = self.frame.rest
            _, nearest = cKDTree(rest[self.skin.ids]).query(rest[ears])
            root = rest[self.skin.ids][nearest] - 0.006 * self.directions[nearest]
            for sign, covered in zip(SIDES, self.ears.covered, strict=True):
                side = np.isin(ears, self.ears.of_side(sign))
                if covered:
                    offset[ears[side]] = (root - rest[ears])[side]
                elif self.ears.offsets[ears[side]].any():
                    offset[ears[side]] = self.ears.offsets[ears[side]]
                elif side.any():
                    offset[ears[side]] = offset[self.skin.ids[nearest[side]]].mean(0)
        return torch.from_numpy(offset).float()

    def improve(self, lift: Array) -> Array:
        """Measure the silhouette of a lift ``[P]`` and solve for a better one."""
        posed = self.frame.posed(self.offset(lift))
        skin_faces = self.head.faces[torch.from_numpy(self.skin.chosen)]
        outline = signed_distance(self.frame.mask(posed, skin_faces))
        pixels, depth = (
            t[0, self.skin.ids].double().numpy() for t in project(posed[None], self.frame.viewmat, self.frame.K)
        )
        normals = vertex_normals(posed, skin_faces)[self.skin.ids].double().numpy()
        camera = np.linalg.inv(self.frame.viewmat[0].double().numpy())[:3, 3]
        towards = camera - posed[self.skin.ids].double().numpy()
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        grazing = np.exp(-0.5 * ((normals * towards).sum(1) / 0.25) ** 2)
        depth_inside = sample(outline, pixels)
        rim = grazing * np.exp(-0.5 * (depth_inside / 2.0) ** 2)
        within = ((pixels > 1) & (pixels < SIZE - 1)).all(1)
        row = np.clip(pixels[:, 1].astype(int), 0, SIZE - 1)
        rim *= within * np.where(self.on_neck, self.strength[row] * self.above_base, 1.0)
        rim *= self.ears.beside(pixels)
        metre = depth / float(self.frame.K[0, 0, 0])
        # From outline to outline: a vertex just behind the silhouette lies inside both.
        inside = np.select(
            [self.on_scalp, self.on_neck],
            [sample(self.inside_hair, pixels), sample(self.inside_neck, pixels)],
            sample(self.inside_skin, pixels),
        )
        gap = inside - depth_inside
        wanted = lift + np.clip(gap * metre, -0.03, 0.03)
        wanted = np.clip(wanted, self.low, self.high)

        data = OUTLINE * rim * self.area
        # Landmarks tell where a face lies that faces the camera; its outline is the matte's to tell.
        hold = self.hold * (1 - GRAZED * grazing) * self.area
        solved = spsolve((self.stiffness + sparse.diags(data + hold)).tocsc(), data * wanted)
        # Where the portrait sees no outline (the back), both sides of the head are alike.
        share = 0.5 * (1 - rim)
        solved = (1 - share) * solved + share * solved[self.mirror]
        return np.clip(solved, self.low, self.high)

    def mismatch(self, offset: torch.Tensor) -> float:
        """Area between silhouette and matte over the matte's, above the chin."""
        posed = self.frame.posed(offset)
        face = np.unique(self.head.faces[self.head.regions["face"]].numpy())
        chin = int(np.clip(self.frame.pixels(posed)[face, 1].max(), 1, SIZE))
        mask = self.frame.mask(posed, self.head.faces)[:chin]
        return float((mask ^ self.matte[:chin]).sum() / max(self.matte[:chin].sum(), 1))
