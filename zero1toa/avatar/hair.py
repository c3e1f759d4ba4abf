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
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.ears import place_ear
from zero1toa.avatar.surface import Array, Skin, laplacian, mirror, vertex_mask, vertex_normals
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import project, resize_intrinsics
from zero1toa.types import Portrait

Mask = NDArray[np.bool_]

SIZE = 256
"""Silhouettes are compared at this picture size."""
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
"""Pixels by which Gaussians of the scalp reach beyond the silhouette."""
SKIN_RIM = -0.6
"""The same of the smaller ones on face and neck."""
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
    offset, covered = fit.offset(lift), fit.covered
    scalp = fit.area * fit.on_scalp
    return HairVolume(
        params=portrait.params.replace(offset=fit.base + offset),
        thickness=float((lift * scalp).sum() / scalp.sum()),
        covered=covered,
        mismatch=fit.mismatch(offset),
    )


class _Fit:
    """What stays the same over all rounds."""

    def __init__(self, head: HeadModel, portrait: Portrait) -> None:
        self.head, self.params = head, portrait.params
        base = self.params.offset
        self.base = torch.zeros(head.n_vertices, 3) if base is None else base
        self.viewmat = torch.from_numpy(portrait.viewmat)[None]
        self.K = resize_intrinsics(torch.from_numpy(portrait.K)[None], portrait.size, SIZE)
        self.skin = skin = Skin.of(head)
        neutral = head.neutral().replace(shape=self.params.shape, offset=self.base)
        with torch.no_grad():
            rest = head.vertices(neutral)
            self.template = head.vertices(head.neutral()).double().numpy()
        self.rest = rest.double().numpy()
        faces, n = head.faces.numpy(), head.n_vertices
        on = {name: vertex_mask(faces, head.regions[name].numpy(), n) for name in ("scalp", "neck", "face")}
        self.on_scalp = on["scalp"][skin.ids]
        on_neck = on["neck"][skin.ids] & ~self.on_scalp
        points = self.rest[skin.ids]
        L, self.area = laplacian(points, skin.faces)
        self.stiffness = (BENDING * (L @ sparse.diags(1 / self.area) @ L) + TENSION * L).tocsr()
        self.directions = self._directions(rest, L)
        self.mirror = mirror(self.template[skin.ids], np.zeros(len(skin.ids), np.int64))

        sides = self.template[faces].mean(1)[:, 0]
        self.ear_faces = [head.regions["ears"] & torch.from_numpy(sign * sides > 0) for sign in (1.0, -1.0)]
        picture = _resize(portrait.image)
        self.covered, self.ears, self.ears_shown = self._place_ears(picture)
        self.on_neck = on_neck
        # Clothes begin at the neck's base.
        low, high = points[on_neck, 1].min(), points[on_neck, 1].max()
        self.above_base = _ramp((points[:, 1] - low) / (0.3 * (high - low)) - 0.2)
        self.on_face = on["face"][skin.ids] & ~self.on_scalp
        # Skin around an ear that hair covers is under that hair too.
        bare = self.on_face & (self._from_covered_ears(points) >= AROUND_EARS)
        distance, _ = cKDTree(points[self.on_scalp | (self.on_face & ~bare)]).query(points)
        hairline, _ = cKDTree(points[bare]).query(points)
        self.hold = np.where(bare, 1e-3 + _ramp(distance / HAIRLINE) ** 2, 1e-5)
        # The throat and the neck's base stay where they are; hair hangs beside and behind a neck.
        front = np.maximum(_ramp((self.directions[:, 2] + 0.1) / 0.6), _ramp((-self.directions[:, 1] - 0.3) / 0.4))
        self.hold = np.where(on_neck, 1e-3 + front, self.hold)
        bare_ears = self._from_shown_ears(points)
        self.hold = self.hold + 0.3 * (bare_ears < AROUND_EARS)
        self.high = np.minimum(np.where(on_neck, NECK, LARGEST), 0.004 + STEEPEST * hairline)
        # What lies close around an ear that shows would push it aside.
        self.high = np.minimum(self.high, 0.001 + STEEPEST * (bare_ears - BARE_EARS).clip(0))
        self.low = np.where(self.on_scalp | on_neck, -SHRINK, -0.003)

        self.matte, self.strength = self._matte(picture[..., 3], CLOSED)
        skin_matte, _ = self._matte(picture[..., 3], 0.5)
        self.inside_hair = _signed_distance(self.matte) - RIM
        self.inside_skin = _signed_distance(skin_matte) - SKIN_RIM

    def _directions(self, rest: torch.Tensor, L: sparse.csr_matrix) -> Array:
        """Normals smoothed over some centimetres, so that a large lift does not fold."""
        normals = vertex_normals(rest, self.head.faces[torch.from_numpy(self.skin.chosen)])[self.skin.ids]
        heat = sparse.diags(self.area) + 4e-4 * L
        smooth = spsolve(heat.tocsc(), self.area[:, None] * normals.double().numpy())
        return smooth / np.linalg.norm(smooth, axis=1, keepdims=True)

    def _posed(self, offset: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return self.head.vertices(self.params.replace(offset=self.base if offset is None else self.base + offset))

    def _mask(self, vertices: torch.Tensor, faces: torch.Tensor) -> Mask:
        depth = depth_map(vertices[None], faces, self.viewmat, self.K, (SIZE, SIZE))[0]
        return torch.isfinite(depth).numpy()

    def _picture_parts(self, picture: Array) -> tuple[tuple[bool, bool], Mask]:
        """Whether the left and the right ear have the hair's colour and not the skin's; and where the picture shows
        the skin's colour ``[H, W]``, everywhere on a bald person.
        """
        posed = self._posed(None)
        faces = self.head.faces
        pixels = project(posed[None], self.viewmat, self.K)[0][0].numpy()
        opaque = ndimage.binary_erosion(picture[..., 3] > 0.95, iterations=2)
        skin = self._mask(posed, faces[self.head.regions["face"]]) & opaque
        everything = self._mask(posed, faces)
        # Outside of the bare head and above the chin there is nothing but hair; a bald head has none.
        chin = pixels[np.unique(faces[self.head.regions["face"]].numpy()), 1].max()
        rows = np.arange(SIZE)[:, None] + 0.5
        hair = ~ndimage.binary_dilation(everything, iterations=3) & opaque & (rows < chin)
        if hair.sum() < 40 or skin.sum() < 40:
            return (False, False), picture[..., 3] > 0.5
        skin_color = np.median(picture[skin][:, :3], axis=0)
        hair_color = np.median(picture[hair][:, :3], axis=0)
        to_hair, to_skin = (np.linalg.norm(picture[..., :3] - color, axis=-1) for color in (hair_color, skin_color))
        result = []
        for side in self.ear_faces:
            ear = self._mask(posed, faces[side]) & opaque
            ear &= ~self._mask(posed, faces[~side]) if side.any() else False
            like_hair = (to_hair < to_skin)[ear]
            result.append(float(like_hair.mean()) if len(like_hair) > 10 else np.nan)
        if np.isnan(result).all():
            result = [0.0, 0.0]
        # Hair is much the same on both sides: one ear under hair speaks for the other, and for one behind the head.
        enough = 0.6 if np.nanmax(result) < 0.6 else 0.3
        left, right = (share > enough for share in np.nan_to_num(result, nan=np.nanmax(result)))
        return (bool(left), bool(right)), (picture[..., 3] > 0.5) & (to_skin < to_hair)

    def _place_ears(self, picture: Array) -> tuple[tuple[bool, bool], Array, Mask]:
        """Which ears hair covers, the offsets ``[V, 3]`` that bring those that show to where the picture has their
        skin (zero on all else), and where they show ``[H, W]``.
        """
        like_hair, skin = self._picture_parts(picture)
        offsets = np.zeros((self.head.n_vertices, 3))
        shown = np.zeros((SIZE, SIZE), bool)
        covered = []
        posed = self._posed(None).double()
        depth = project(posed[None], self.viewmat.double(), self.K.double())[1][0]
        axes = self.viewmat[0, :2, :3].double()  # right and down in the picture
        for own, hairy in zip(self.ear_faces, like_hair, strict=True):
            covered.append(hairy)
            if not own.any():
                continue
            ids = torch.unique(self.head.faces[own])
            middle = posed[ids].mean(0)

            metre = float(self.K[0, 0, 0] / depth[ids].mean())
            ear = self._mask(posed.float(), self.head.faces[own])
            head = self._mask(posed.float(), self.head.faces[~own])
            found = place_ear(ear, head, skin, picture[..., 3] > 0.5, metre)
            if found is None:
                if not hairy:
                    shown |= ear
                continue
            covered[-1] = False
            change = torch.from_numpy(found.linear) - torch.eye(2)
            across = (posed[ids] - middle) @ axes.T
            placed = posed.clone()
            placed[ids] += (across @ change.T + torch.tensor(found.shift) / metre) @ axes
            shown |= self._mask(placed.float(), self.head.faces[own]) & skin & ~head
            turn = _rotation(self.rest[ids], posed[ids].numpy())
            offsets[ids] = (placed - posed)[ids].numpy() @ turn
        return (covered[0], covered[1]), offsets, shown

    def _from_covered_ears(self, points: Array) -> Array:
        """Distance of vertices of the skin ``[P]`` from the nearest ear that hair covers, metres; infinite without."""
        ears = np.unique(self.head.faces[self.head.regions["ears"]].numpy())
        distance = np.full(len(points), np.inf)
        for sign, hidden in zip((1.0, -1.0), self.covered, strict=True):
            ear = ears[sign * self.template[ears, 0] > 0]
            if len(ear) and hidden:
                distance = np.minimum(distance, cKDTree(self.rest[ear]).query(points)[0])
        return distance

    def _from_shown_ears(self, points: Array) -> Array:
        """Distance of vertices of the skin ``[P]`` from what shows of the nearest ear, metres; infinite without."""
        ears = np.unique(self.head.faces[self.head.regions["ears"]].numpy())
        posed = self._posed(torch.from_numpy(self.ears).float())
        pixels = project(posed[None], self.viewmat, self.K)[0][0].double().numpy()
        near = ndimage.binary_dilation(self.ears_shown).astype(float)
        ears = ears[_sample(near, pixels[ears]) > 0.5]
        if not len(ears):
            return np.full(len(points), np.inf)
        return np.asarray(cKDTree((self.rest + self.ears)[ears]).query(points)[0])

    def _matte(self, alpha: Array, closed: float) -> tuple[Mask, Array]:
        """The outline to follow, where the matte is ``closed``, and how far each row of it can be trusted ``[H]``.

        Below the ears hair hangs down: a pixel counts if those above it do, with a little flare; so what is left of
        collars and shoulders is not taken for hair.
        """
        mask = ndimage.binary_opening(ndimage.binary_fill_holes(alpha > closed), iterations=WISPS)
        posed = self._posed(None)
        pixels = project(posed[None], self.viewmat, self.K)[0][0].numpy()
        neck = np.unique(self.head.faces[self.head.regions["neck"]].numpy())
        bare = self._mask(posed, self.head.faces)
        start = int(np.clip(np.median(pixels[self.skin.ids[self.on_face], 1]), 0, SIZE - 1))
        for y in range(start + 1, SIZE):
            above = mask[y - 1] | bare[y - 1]
            if (y - start) % FLARE == 0:
                above = ndimage.binary_dilation(above)
            mask[y] &= above
        left, right = np.clip([pixels[neck, 0].min(), pixels[neck, 0].max()], 0, SIZE - 1).astype(int)
        strength = _ramp((alpha[:, left : right + 1].max(1, initial=0.0) - 0.7) / 0.2)
        strength[:start] = 1.0
        return mask, strength

    def offset(self, lift: Array) -> torch.Tensor:
        """Offsets ``[V, 3]`` float32 of a lift ``[P]`` of the skin; ears that were not placed go with the skin beside
        them, and those that hair covers sink into it.
        """
        offset = np.zeros((self.head.n_vertices, 3))
        offset[self.skin.ids] = lift[:, None] * self.directions
        ears = np.unique(self.head.faces[self.head.regions["ears"]].numpy())
        ears = np.setdiff1d(ears, self.skin.ids)
        if len(ears):
            _, nearest = cKDTree(self.rest[self.skin.ids]).query(self.rest[ears])
            root = self.rest[self.skin.ids][nearest] - 0.006 * self.directions[nearest]
            for sign, covered in zip((1.0, -1.0), self.covered, strict=True):
                side = sign * self.template[ears, 0] > 0
                if covered:
                    offset[ears[side]] = (root - self.rest[ears])[side]
                elif self.ears[ears[side]].any():
                    offset[ears[side]] = self.ears[ears[side]]
                elif side.any():
                    offset[ears[side]] = offset[self.skin.ids[nearest[side]]].mean(0)
        return torch.from_numpy(offset).float()

    def improve(self, lift: Array) -> Array:
        """Measure the silhouette of a lift ``[P]`` and solve for a better one."""
        posed = self._posed(self.offset(lift))
        skin_faces = self.head.faces[torch.from_numpy(self.skin.chosen)]
        outline = _signed_distance(self._mask(posed, skin_faces))
        pixels, depth = (t[0, self.skin.ids].double().numpy() for t in project(posed[None], self.viewmat, self.K))
        normals = vertex_normals(posed, skin_faces)[self.skin.ids].double().numpy()
        camera = np.linalg.inv(self.viewmat[0].double().numpy())[:3, 3]
        towards = camera - posed[self.skin.ids].double().numpy()
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        grazing = np.exp(-0.5 * ((normals * towards).sum(1) / 0.25) ** 2)
        depth_inside = _sample(outline, pixels)
        rim = grazing * np.exp(-0.5 * (depth_inside / 2.0) ** 2)
        within = ((pixels > 1) & (pixels < SIZE - 1)).all(1)
        row = np.clip(pixels[:, 1].astype(int), 0, SIZE - 1)
        rim *= within * np.where(self.on_neck, self.strength[row] * self.above_base, 1.0)
        rim *= self._beside_ears(pixels)
        metre = depth / float(self.K[0, 0, 0])
        # From outline to outline: a vertex just behind the silhouette lies inside both.
        inside = np.where(self.on_scalp, _sample(self.inside_hair, pixels), _sample(self.inside_skin, pixels))
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

    def _beside_ears(self, pixels: Array) -> Array:
        """0 where an ear that shows, not hair, makes the outline ``[P]``."""
        if not self.ears_shown.any():
            return np.ones(len(pixels))
        away = ndimage.distance_transform_edt(~self.ears_shown)
        return _ramp((_sample(away, pixels) - 3) / 6)

    def mismatch(self, offset: torch.Tensor) -> float:
        """Area between silhouette and matte over the matte's, above the chin."""
        posed = self._posed(offset)
        face = np.unique(self.head.faces[self.head.regions["face"]].numpy())
        chin = int(np.clip(project(posed[None], self.viewmat, self.K)[0][0, face, 1].max(), 1, SIZE))
        mask = self._mask(posed, self.head.faces)[:chin]
        return float((mask ^ self.matte[:chin]).sum() / max(self.matte[:chin].sum(), 1))


def _rotation(a: Array, b: Array) -> Array:
    """Rotation ``[3, 3]`` that turns points ``[N, 3]`` of ``a`` (as columns) into those of ``b``, least squares."""
    u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def _ramp(x: Array) -> Array:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _resize(image: NDArray[np.uint8]) -> Array:
    """The carved portrait at :data:`SIZE`, floats in [0, 1], averaged with its alpha."""
    picture = torch.from_numpy(np.asarray(image, np.float64) / 255).permute(2, 0, 1)[None]
    premultiplied = torch.cat([picture[:, :3] * picture[:, 3:], picture[:, 3:]], 1)
    small = torch.nn.functional.interpolate(premultiplied, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    small[:3] /= small[3:].clamp_min(1e-6)
    return small.permute(1, 2, 0).numpy()


def _signed_distance(mask: Mask) -> Array:
    """Pixels to the outline of ``mask`` at pixel centres, inside positive; the picture's border is no outline."""
    inside = ndimage.distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, float(max(mask.shape)))
    outside = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, float(max(mask.shape)))
    return np.where(mask, inside - 0.5, 0.5 - outside)


def _sample(field: Array, pixels: Array) -> Array:
    """Bilinear values ``[P]`` of a map ``[H, W]`` at ``pixels`` ``[P, 2]`` (x, y; centres at +0.5)."""
    return np.asarray(ndimage.map_coordinates(field, (pixels[:, 1] - 0.5, pixels[:, 0] - 0.5), order=1, mode="nearest"))
