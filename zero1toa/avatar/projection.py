"""Colour the Gaussians from the portrait (an addition to the paper: the first render already looks like the person).

What the portrait shows is copied. What it does not show takes, in this order and with soft weights between: the other
side of the head, corrected by the difference that both sides have where both are seen; the nearest colours along the
surface, hair from hair and skin from skin; a default. Eyes, lids and mouth have rules of their own
(:mod:`zero1toa.avatar.features`). Everything works on a batch of identities, and devices differ by rounding only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zero1toa.avatar import features
from zero1toa.avatar.facing import facing_weight
from zero1toa.avatar.gaussians import SH_C0, GaussianAvatar
from zero1toa.avatar.hair_color import HairColor
from zero1toa.avatar.hair_ends import HairEnds
from zero1toa.avatar.hair_texture import HairTexture
from zero1toa.avatar.lid_skin import LidSkin
from zero1toa.avatar.picture_sampling import CarvedPictures, is_colorful, smooth_step
from zero1toa.avatar.portrait_teeth import like_teeth
from zero1toa.avatar.rigging import triangle_frames
from zero1toa.avatar.surface import hollowness, mirror, vertex_normals
from zero1toa.avatar.surface_fill import SurfaceFill
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import camera_centers, project, resize_intrinsics

DEPTH_SIZE = 256
"""Largest side of the depth map that decides what the portrait sees."""
SKIN, HAIR, NECK, TEETH = "skin", "hair", "neck", "teeth"
"""Parts within which colours spread."""
PRIORS = {SKIN: (0.74, 0.56, 0.48), HAIR: (0.24, 0.18, 0.14), NECK: (0.74, 0.56, 0.48), TEETH: (0.90, 0.87, 0.80)}
"""Their colours where a portrait shows none of them; a neck's is the face's."""
ANCHORS = {SKIN: 1e-5, HAIR: 3e-3, NECK: 1e-5, TEETH: 0.02}
"""How soon spreading colours give way: hair's to its mean within ten centimetres, teeth's to ivory; skin's do not."""
EAR_SHADE = 0.45
"""Darkening of the hollows of an ear where the portrait does not show it."""
EAR_TOLERANCE = 0.25
"""Difference from the face's mean colour (norm of sRGB) up to which a sample on an ear is taken for its skin."""
SQUARE = (0.25, 0.5)
"""Cosines between normal and view from which a picture tells a face's colour a little, and whatever it is."""
CHEEK_TOLERANCE = 0.25
"""Difference from what is seen squarely (norm of sRGB) up to which a face seen from the side takes a sample."""


class Projection(NamedTuple):
    """What portraits tell of the Gaussians.

    Attributes:
        colors: ``[I, N, 3]`` sRGB in [0, 1].
        seen: how well the portrait shows each of them ``[I, N]``, 0 to 1.
        margin: how far its place on the face lets a picture tell its colour ``[I, N]``
            (:meth:`features.FeaturePainter.margin_confidence`).
    """

    colors: Tensor
    seen: Tensor
    margin: Tensor


class PortraitProjector:
    """Projects portraits on one layout of Gaussians, any number of identities at once.

    Construction measures the layout on the neutral head (mirror partners, distances along the surface); calls are
    plain tensor arithmetic.
    """

    def __init__(self, head: HeadModel, avatar: GaussianAvatar, rest: Tensor) -> None:
        """Prepare a layout.

        Args:
            head: head model.
            avatar: its local positions and bindings, on the head's device.
            rest: vertices ``[V, 3]`` on which the avatar was initialised.
        """
        self.faces, self.binding, self.landmarks = head.faces, avatar.binding, head.landmarks
        self.corners = head.faces[avatar.binding]
        self.weights = _barycentric(avatar, rest)
        with torch.no_grad():
            template = head.vertices(head.neutral())
        points = (template[self.corners] * self.weights[..., None]).sum(-2)
        region = {name: mask[avatar.binding] for name, mask in head.regions.items()}
        self.features = features.FeaturePainter(head, avatar.binding, self.weights)
        self.lid_skin = LidSkin(head, avatar.binding, self.weights)
        self.on_scalp = region["scalp"]
        self.on_teeth, self.on_face = region["teeth"], region["face"]
        self.in_mouth = region["mouth"] & ~region["teeth"]
        self.on_tongue = region.get("tongue", torch.zeros_like(self.on_scalp)) & self.in_mouth
        self.inner = self.in_mouth | self.on_teeth | self.features.eyeball
        self.counts = torch.bincount(avatar.binding, minlength=head.faces.shape[0]).clamp_min(1)

        group = self.on_scalp.long() + 2 * self.on_teeth + 3 * self.in_mouth + 4 * self.features.eyeball
        partners = mirror(points.double().cpu().numpy(), group.cpu().numpy())
        self.partner = torch.from_numpy(partners).to(points.device)
        vertices, faces = template.double().cpu().numpy(), head.faces.cpu().numpy()
        masks = {name: mask.cpu().numpy() for name, mask in head.regions.items()}
        areas = {SKIN: masks["face"] | masks["ears"], HAIR: masks["scalp"], NECK: masks["neck"], TEETH: masks["teeth"]}
        # Clothes may cover a neck, and end below the jaw: what is not seen of it is the face's above, theirs below.
        sources = areas | {NECK: masks["neck"] | masks["face"]}
        self.fills = {
            name: SurfaceFill(vertices, faces[sources[name]], self.corners, self.weights)
            for name, mask in areas.items()
            if mask.any()
        }
        self.on = {name: torch.from_numpy(areas[name]).to(points.device)[avatar.binding] for name in self.fills}
        self.hair_color = HairColor(points, self.on_scalp, self.on_face)
        self.texture = HairTexture(points, self.on_scalp)
        self.hair_ends = HairEnds(points, self.on_scalp, ~self.on_scalp & ~self.inner & ~region["ears"])
        self.on_ears = region["ears"]
        hollow = torch.from_numpy(hollowness(vertices, faces, masks["ears"])).float().to(points.device)
        self.hollow = (hollow[self.corners] * self.weights).sum(-1) * self.on_ears
        # The cavity is darker towards the throat.
        depth = points[:, 2]
        front = depth[self.in_mouth].amax() if bool(self.in_mouth.any()) else depth.new_zeros(())
        self.gloom = smooth_step((front - depth) / 0.05)

    @torch.no_grad()
    def __call__(self, vertices: Tensor, images: Tensor, viewmats: Tensor, Ks: Tensor) -> Projection:
        """Colour all Gaussians of I identities.

        Args:
            vertices: heads in their portraits' own expression ``[I, V, 3]``, metres.
            images: carved portraits, straight alpha ``[I, H, W, 4]`` float in [0, 1].
            viewmats: the portraits' world-to-camera ``[I, 4, 4]``.
            Ks: the portraits' intrinsics in pixels ``[I, 3, 3]``.
        """
        size = (images.shape[2], images.shape[1])
        pictures = CarvedPictures(images)
        points = (vertices[:, self.corners] * self.weights[..., None]).sum(-2)
        pixels, depth = project(points, viewmats, Ks)
        cosine = self._cosine(vertices, points, viewmats)
        seen = self._clear(vertices, points, depth, cosine, viewmats, Ks, size) * pictures.confidence(pixels)
        scale = triangle_frames(vertices, self.faces).scale[:, self.binding]
        spacing = scale / self.counts[self.binding].sqrt()
        sampled = pictures.colors(pixels, 0.7 * spacing * Ks[:, :1, 0] / depth)
        seen = seen * facing_weight(cosine) * self._own_cheeks(sampled, seen, cosine)

        light = self._light(sampled, seen)
        clear = self.features.clear_of_lids(points, self.landmarks.positions(vertices, self.faces))
        margin = self.features.margin_confidence().expand_as(seen)
        known = seen * margin * ~self.inner * self._own_ears(sampled, seen)
        teeth = seen * self.on_teeth * like_teeth(sampled)
        colors, confidence = self._mirrored(sampled, known + teeth)
        filled = torch.zeros_like(colors)
        skin = None
        unseen = self.hair_color(colors, confidence, colors.new_tensor(PRIORS[HAIR]) * light[:, 0])
        for name, fill in self.fills.items():
            prior = skin if name == NECK and skin is not None else colors.new_tensor(PRIORS[name]) * light[:, 0]
            mean = unseen.color if name == HAIR else _mean(colors, confidence * fill.inside, prior)
            skin = mean if name == SKIN else skin
            part = fill(colors, confidence * fill.inside, prior if name == TEETH else mean, ANCHORS[name])
            filled = torch.where(self.on[name][:, None], part, filled)
        filled = filled * (self.texture(colors, confidence) ** unseen.presence[:, None])[..., None]
        filled = filled * (1 - EAR_SHADE * self.hollow)[:, None]
        ends = self.hair_ends
        share = (ends.share * unseen.presence[:, None])[..., None]
        filled[:, ends.covered] = torch.lerp(filled[:, ends.covered], filled[:, ends.hair], share)
        result = filled + confidence[..., None] * (colors - filled)
        result = self.features.lashes(self.lid_skin(result), sampled, seen)
        eyeballs = self.features.eyeballs(sampled, seen, light, clear)
        result = torch.where(self.features.eyeball[:, None], eyeballs, result)
        result = torch.where(self.in_mouth[:, None], self._mouth(light), result)
        # What a photo without colours does not show has none either.
        grey = result.mean(-1, keepdim=True)
        result = torch.where(is_colorful(images)[:, None, None], result, grey)
        return Projection(result.clamp(0, 1), seen, margin)

    def _cosine(self, vertices: Tensor, points: Tensor, viewmats: Tensor) -> Tensor:
        """Cosine ``[I, N]`` between the surface's normal at each Gaussian and the way to the camera."""
        towards = torch.nn.functional.normalize(camera_centers(viewmats)[:, None] - points, dim=-1)
        normals = vertex_normals(vertices, self.faces)[:, self.corners]
        normals = torch.nn.functional.normalize((normals * self.weights[..., None]).sum(-2), dim=-1)
        return (normals * towards).sum(-1)

    def _clear(
        self,
        vertices: Tensor,
        points: Tensor,
        depth: Tensor,
        cosine: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """1 where nothing is between the camera and a Gaussian ``[I, N]``, 0 where something is."""
        shrink = min(DEPTH_SIZE / max(size), 1.0)
        small = (round(size[0] * shrink), round(size[1] * shrink))
        small_Ks = resize_intrinsics(Ks, size, small)
        surface = depth_map(vertices, self.faces, viewmats, small_Ks, small)
        at = project(points, viewmats, small_Ks)[0]
        nearest = _farthest_neighbour(surface, at)
        # A slanted surface changes its depth within a pixel of the map.
        pixel = depth / small_Ks[:, :1, 0]
        slope = (1 / cosine.clamp_min(0.2) ** 2 - 1).clamp_min(0).sqrt()
        margin = 0.0015 + 0.7 * pixel * slope
        return smooth_step((nearest + 2 * margin - depth) / margin)

    def _own_cheeks(self, colors: Tensor, clear: Tensor, cosine: Tensor) -> Tensor:
        """Factor ``[I, N]`` on samples of a face seen from the side: there a small error of the fit puts hair, ears or
        the background on a cheek, which the colours that are seen squarely, continued, do not expect.
        """
        fill = self.fills[SKIN]
        squarely = smooth_step((cosine - SQUARE[0]) / (SQUARE[1] - SQUARE[0]))
        known = clear * squarely * self.on_face * fill.inside
        mean = _mean(colors, known, colors.new_tensor(PRIORS[SKIN]))
        away = (colors - fill(colors, known, mean, ANCHORS[SKIN])).norm(dim=-1)
        likely = torch.exp(-((away / CHEEK_TOLERANCE) ** 2))
        return torch.where(self.on_face, torch.lerp(likely, torch.ones_like(likely), squarely), 1.0)

    def _light(self, colors: Tensor, seen: Tensor) -> Tensor:
        """Brightness of the picture ``[I, 1, 1]``, 1 for a well lit face: what scales the defaults."""
        weight = seen * self.on_face
        luminance = colors.mean(-1)
        total = weight.sum(1).clamp_min(1e-6)
        mean = (weight * luminance).sum(1) / total
        spread = ((weight * (luminance - mean[:, None]) ** 2).sum(1) / total).sqrt()
        brightest = torch.where(weight.sum(1) > 1, mean + 1.5 * spread, 0.8)
        return (brightest / 0.8).clamp(0.65, 1.05)[:, None, None]

    def _own_ears(self, colors: Tensor, seen: Tensor) -> Tensor:
        """Factor ``[I, N]`` on the samples of the ears: hair that hangs over an ear must not become its skin."""
        skin = _mean(colors, seen * self.on_face, colors.new_tensor(PRIORS[SKIN]))
        away = (colors - skin[:, None]).norm(dim=-1)
        return torch.where(self.on_ears, torch.exp(-((away / EAR_TOLERANCE) ** 2)), 1.0)

    def _mirrored(self, colors: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Colours and confidence with the other side's where a side is not seen.

        Light comes from somewhere, so the sides differ; their difference, continued from where both are seen, is added
        to what is taken over, and no seam shows.
        """
        other, other_confidence = colors[:, self.partner], confidence[:, self.partner]
        both = (confidence * other_confidence).sqrt()
        difference = torch.zeros_like(colors)
        nothing = colors.new_zeros(colors.shape[0], 3)
        for name in (SKIN, HAIR, NECK):
            if name not in self.fills:
                continue
            fill = self.fills[name]
            part = fill(colors - other, both * fill.inside, nothing, 1e-3)
            difference = torch.where(self.on[name][:, None], part, difference)
        borrowed = (other + difference).clamp(0, 1)
        share = (1 - confidence) * other_confidence
        total = confidence + share
        mixed = (confidence[..., None] * colors + share[..., None] * borrowed) / total[..., None].clamp_min(1e-6)
        return torch.where(total[..., None] > 1e-6, mixed, colors), total

    def _mouth(self, light: Tensor) -> Tensor:
        cavity = light * light.new_tensor(features.CAVITY) * (1 - 0.75 * self.gloom[:, None])
        tongue = light * light.new_tensor(features.TONGUE) * (1 - 0.6 * self.gloom[:, None])
        return torch.where(self.on_tongue[:, None], tongue, cavity)


def project_portrait(
    avatar: GaussianAvatar, head: HeadModel, rest: Tensor, posed: Tensor, image: Tensor, viewmat: Tensor, K: Tensor
) -> tuple[Tensor, Tensor]:
    """Colour one avatar in place.

    Args:
        avatar: freshly initialised.
        head: its head model.
        rest: vertices on which it was initialised ``[V, 3]``.
        posed: vertices in the portrait's expression ``[V, 3]``.
        image: carved portrait ``[H, W, 4]`` float in [0, 1].
        viewmat: the portrait's camera ``[4, 4]``.
        K: its intrinsics in pixels ``[3, 3]``.

    Returns:
        ``seen`` and ``margin`` of :class:`Projection`, ``[N]`` each.
    """
    projector = PortraitProjector(head, avatar, rest)
    found = projector(posed[None], image[None], viewmat[None], K[None])
    with torch.no_grad():
        avatar.sh0.copy_((found.colors[0] - 0.5) / SH_C0)
    return found.seen[0], found.margin[0]


def _barycentric(avatar: GaussianAvatar, rest: Tensor) -> Tensor:
    """Barycentric coordinates ``[N, 3]`` of the Gaussians' feet on their triangles."""
    frames = triangle_frames(rest, avatar.faces)
    corners = (rest[avatar.faces] - frames.center[:, None]) @ frames.rotation / frames.scale[:, None, None]
    a, b, c = (corners[avatar.binding][:, i][:, [0, 2]] for i in range(3))
    p = avatar.means.detach()[:, [0, 2]]
    area = _cross(b - a, c - a)
    flat = area.abs() < 1e-6
    safe = torch.where(flat, 1.0, area)
    u, v = _cross(b - p, c - p) / safe, _cross(c - p, a - p) / safe
    # On slivers rounding can throw the foot far outside.
    weights = torch.stack([u, v, 1 - u - v], -1).clamp(0, 1)
    weights = torch.where(flat[:, None], 1 / 3, weights)
    return weights / weights.sum(-1, keepdim=True)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _farthest_neighbour(surface: Tensor, pixels: Tensor) -> Tensor:
    """Largest of the depths of the four pixels around each point ``[I, P]``; beside the head nothing hides."""
    H, W = surface.shape[1:]
    low = (pixels - 0.5).floor().nan_to_num(0)
    result = torch.zeros(pixels.shape[:2], dtype=surface.dtype, device=surface.device)
    flat = surface.flatten(1)
    for dy in (0, 1):
        for dx in (0, 1):
            x = (low[..., 0] + dx).clamp(0, W - 1).long()
            y = (low[..., 1] + dy).clamp(0, H - 1).long()
            result = torch.maximum(result, flat.gather(1, y * W + x))
    return result


def _mean(colors: Tensor, weight: Tensor, otherwise: Tensor) -> Tensor:
    """Weighted mean ``[I, 3]``; ``otherwise`` ``[I, 3]`` counts as half a sample."""
    return ((weight[..., None] * colors).sum(1) + 0.5 * otherwise) / (weight.sum(1)[:, None] + 0.5)
