"""Cut a person's matte down to what the head model has: head, hair and neck, without clothes and shoulders.

The cut is soft everywhere: the neck fades out above its base instead of ending in a line, hair beside it thins out, and
collars are recognised by colour. All distances are metres in the head's rest frame, seen in the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import rgb2lab

from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.fitting import HeadFit
from zero1toa.portrait.landmarks import CHIN
from zero1toa.render.cameras import project

Map = NDArray[np.float32]

_JAW_CORNERS = (58, 288)
_EARS = (234, 454)
_REACH = 0.24  # hair further than this from the neck's axis is cut: shoulders of a person seen from above
_BINS = 20  # colour histogram bins per Lab axis
_COVERED = 0.5  # share of clothes in the upper neck from which it counts as covered (a polo neck, a scarf)


@dataclasses.dataclass(frozen=True)
class NeckGuide:
    """Where the neck of the fitted head lies in a picture.

    Attributes:
        height: metres above the neck's base ``[H, W]``.
        level: metres above the neck's base around the neck ``[H, W]``: a cut across it is an arc in the picture.
        left: metres from the neck's left outline in the picture, inside positive ``[H, W]``.
        right: the same from the right outline.
        outline: whether the head without its neck covers the pixel ``[H, W]``.
        tube: whether the neck covers the pixel ``[H, W]``.
        skin: whether the face covers the pixel ``[H, W]``.
        scalp: whether scalp, seen from outside the face, covers the pixel ``[H, W]``.
        chin: height of the chin above the neck's base in metres.
        jaw: height of the corners of the jaw, likewise.
        ear: height of the ears' middle, likewise.
        metre: pixels per metre.
    """

    height: Map
    level: Map
    left: Map
    right: Map
    outline: NDArray[np.bool_]
    tube: NDArray[np.bool_]
    skin: NDArray[np.bool_]
    scalp: NDArray[np.bool_]
    chin: float
    jaw: float
    ear: float
    metre: float


def neck_guide(head: HeadModel, fit: HeadFit, size: int) -> NeckGuide:
    """Project the fitted head into a ``size`` x ``size`` picture taken with ``fit.K``."""
    with torch.no_grad():
        vertices = head.vertices(fit.params)
        pixels, depth = project(vertices, fit.viewmat, fit.K)
        landmarks = head.landmarks.positions(vertices, head.faces)
        landmark_pixels = project(landmarks, fit.viewmat, fit.K)[0].double().numpy()
    neck = torch.unique(head.faces[head.regions["neck"]])
    rest, seen = vertices[neck].double().numpy(), pixels[neck].double().numpy()
    metre = float(fit.K[0, 0]) / float(depth[neck].mean())
    # Up in the picture at the neck: the projected rest-frame y axis.
    middle = vertices[neck].mean(0)
    ends = torch.stack([middle, middle + torch.tensor([0.0, 0.05, 0.0])])
    low, high = project(ends, fit.viewmat, fit.K)[0].double().numpy()
    up = (high - low) / np.linalg.norm(high - low)
    side = np.array([-up[1], up[0]])
    # Height above the base of a pixel, exact for the part of the neck that faces the camera.
    near = _towards_camera(rest, fit)
    near = near if near.any() else np.ones(len(rest), bool)
    floor = float((seen[near] @ up).min())
    y, x = np.mgrid[0:size, 0:size] + 0.5
    height = ((x * up[0] + y * up[1]) - floor) / metre
    across = (x * side[0] + y * side[1]) / metre
    beside, above = seen @ side / metre, (seen @ up - floor) / metre
    low_edge, high_edge = _outline(beside, above, height)
    # Seen from above the sides of a level lie higher in the picture than its front.
    arc = _arc(*_outline(beside, above, above[near]), beside[near])
    rise = np.linalg.lstsq(np.stack([np.ones(near.sum()), rest[near, 1], arc], 1), above[near], rcond=None)[0][2]
    level = height - rise * _arc(low_edge, high_edge, across)
    faces = head.faces.numpy()
    points = pixels.double().numpy()
    in_neck = head.regions["neck"].numpy()
    face = head.regions["face"].numpy()
    heights = (landmark_pixels @ up - floor) / metre
    skin = fill(points, faces[face], size)
    return NeckGuide(
        height=height.astype(np.float32),
        level=level.astype(np.float32),
        left=(across - low_edge).astype(np.float32),
        right=(high_edge - across).astype(np.float32),
        outline=fill(points, faces[~in_neck], size),
        tube=fill(points, faces[in_neck], size),
        skin=skin,
        scalp=fill(points, faces[head.regions["scalp"].numpy() & _front(points, faces)], size) & ~skin,
        chin=float(heights[CHIN]),
        jaw=float(heights[list(_JAW_CORNERS)].mean()),
        ear=float(heights[list(_EARS)].mean()),
        metre=metre,
    )


def carve(alpha: Map, colors: Map, guide: NeckGuide, inside_photo: NDArray[np.bool_]) -> tuple[Map, bool]:
    """Take shoulders and clothes out of a person's matte.

    Args:
        alpha: matte of the whole person ``[H, W]``.
        colors: the person's colours ``[H, W, 3]`` in [0, 1].
        guide: the fitted neck in the same picture.
        inside_photo: which pixels the photo covers ``[H, W]``; a neck that it cuts off fades out towards its border.

    Returns:
        Matte of head, hair and neck ``[H, W]``, never above ``alpha``; and whether clothes cover the neck, in which
        case they are kept as its colour.
    """
    below_chin = guide.height < guide.chin - 0.01
    shown = alpha
    inside = np.minimum(guide.left, guide.right)
    lab = rgb2lab(colors)
    person = alpha > 0.9
    clothes = person & below_chin & ((guide.height < 0) | (inside < -0.02)) & ~guide.outline
    hair = person & guide.scalp
    skin = _middle_tones(lab[..., 0], person & guide.skin)
    blur = 0.003 * guide.metre  # colour decisions are smoothed over 3 mm

    fade = smooth_step(guide.level / (0.62 * guide.chin))
    tube = fade * smooth_step((inside + 0.003) / 0.006)
    if skin.any() and hair.any():
        # Skin ends in a line. A matte that is soft there took a background of its colour for a part of it.
        skin_odds = _odds(lab, skin, hair, blur)
        like_skin = smooth_step((skin_odds - 0.4) / 0.3)
        shown = alpha + like_skin * (smooth_step((alpha - 0.25) / 0.5) - alpha)
    hair_like, covered = np.ones_like(alpha), False
    if clothes.sum() > 30 and skin.any() and hair.any():
        cloth = _odds(lab, clothes, skin, blur)
        throat = person & below_chin & (guide.height > 0.45 * guide.chin) & (inside > 0.005)
        covered = bool(throat.any() and cloth[throat].mean() > _COVERED)
        if not covered:
            # Close under the jaw shadowed skin looks like anything; colour decides from there down.
            from_jaw = ndimage.distance_transform_edt(~guide.outline) / guide.metre
            gate = smooth_step((from_jaw - 0.005) / 0.012)
            # What lies above skin that shows is neck in the shadow of the head.
            bare = (cloth < 0.3) & person & below_chin & (guide.height > 0) & (inside > 0)
            bare = ndimage.binary_opening(bare, iterations=max(1, round(0.004 * guide.metre)))
            above_bare = _soft_mask(np.logical_or.accumulate(bare[::-1])[::-1], 0.004 * guide.metre)
            tube = tube * np.maximum(1 - gate * smooth_step((cloth - 0.55) / 0.25), above_bare)
        # The person's neck may be wider than the model's: skin beside it stays too.
        wide = fade * smooth_step((inside + 0.03) / 0.015) * smooth_step((0.4 - cloth) / 0.3)
        tube = np.maximum(tube, wide)
        hair_like = smooth_step((0.45 - _odds(lab, clothes, hair, blur)) / 0.3)
        hair_like = hair_like * smooth_step((0.75 - skin_odds) / 0.25)
        hair_like = hair_like * _hanging(hair_like * alpha, guide, blur)

    # Above the ears everything is hair; below, only what has its colour and hangs from above, less and less towards the
    # neck's base and only beside the neck: on it the neck's own rule counts.
    upper = smooth_step((guide.height - guide.jaw) / max(guide.ear - guide.jaw, 0.01))
    # A faint matte beside the neck is a doubtful segmentation, not hair.
    beside = fade * smooth_step((inside + 0.08) / 0.05) * smooth_step(-inside / 0.01) * smooth_step((alpha - 0.3) / 0.4)
    sides = hair_like * np.maximum(beside, smooth_step((guide.height - guide.chin) / 0.02))
    reach = smooth_step((_REACH + inside) / 0.04)
    head = _soft_mask(guide.outline & (guide.height > guide.chin - 0.03), 0.004 * guide.metre)
    keep = np.maximum.reduce([head, tube, reach * (upper + (1 - upper) * sides)])
    if not inside_photo.all():
        to_border = ndimage.distance_transform_edt(inside_photo) / guide.metre
        keep = keep * np.where(below_chin, smooth_step(to_border / 0.03), inside_photo)
    return (shown * np.clip(keep, 0, 1)).astype(np.float32), covered


def reach_mask(guide: NeckGuide) -> NDArray[np.bool_]:
    """Where hair and head may be ``[H, W]``: above the jaw and not too far to the side."""
    return (guide.height > guide.jaw) & (np.minimum(guide.left, guide.right) > -_REACH)


def fill(points: NDArray[np.floating], triangles: NDArray[np.integer], size: int) -> NDArray[np.bool_]:
    """Pixels of a ``size`` x ``size`` picture under ``triangles`` ``[F, 3]`` of ``points`` ``[V, 2]`` (x, y)."""
    canvas = Image.new("1", (size, size))
    draw = ImageDraw.Draw(canvas)
    for corners in points[triangles] - 0.5:
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(canvas, dtype=bool)


def smooth_step(x: NDArray[np.floating]) -> Map:
    """0 below 0, 1 above 1, ``3 x^2 - 2 x^3`` between."""
    t = np.clip(x, 0.0, 1.0)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _front(points: NDArray[np.float64], faces: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which triangles ``[F, 3]`` of projected ``points`` ``[V, 2]`` show their outside ``[F]``."""
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    # Counter-clockwise in the world is clockwise in pixels, whose y axis points down.
    return np.cross(b - a, c - a) < 0


def _towards_camera(points: NDArray[np.float64], fit: HeadFit) -> NDArray[np.bool_]:
    """Points ``[N, 3]`` on the near side of their common axis."""
    depth = points @ fit.viewmat[2, :3].double().numpy()
    return depth < depth.mean()


def _outline(across: NDArray[np.float64], height: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[Map, Map]:
    """Smallest and largest ``across`` of the points near each height, at the heights ``at`` ``[H, W]``."""
    levels = np.linspace(height.min(), height.max(), 24)
    step = 1.5 * (levels[1] - levels[0])
    near = [np.abs(height - level) <= step for level in levels]
    levels = np.array([level for level, n in zip(levels, near, strict=True) if n.any()])
    low = np.array([across[n].min() for n in near if n.any()])
    high = np.array([across[n].max() for n in near if n.any()])
    low, high = (ndimage.gaussian_filter1d(edge, 1.5, mode="nearest") for edge in (low, high))
    return np.interp(at, levels, low).astype(np.float32), np.interp(at, levels, high).astype(np.float32)


def _arc(low: NDArray[np.floating], high: NDArray[np.floating], across: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far back on a round neck a point is, over its radius: 0 in front, 1 on and beyond its outlines."""
    radius = np.maximum(0.5 * (high - low), 1e-6)
    return 1 - np.sqrt(1 - np.clip((across - 0.5 * (low + high)) / radius, -1, 1) ** 2)


def _odds(lab: NDArray[np.floating], this: NDArray[np.bool_], other: NDArray[np.bool_], blur: float) -> Map:
    """Probability ``[H, W]`` that a pixel's colour belongs to the pixels ``this`` rather than to ``other``.

    Smoothed Lab histograms: they need no random start, and clothes are rarely one blob of colour.
    """
    low, high = np.array([0.0, -80.0, -80.0]), np.array([100.0, 80.0, 80.0])
    index = np.clip((lab - low) / (high - low) * _BINS, 0, _BINS - 1).astype(int)

    def density(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = np.zeros((_BINS, _BINS, _BINS))
        np.add.at(counts, tuple(index[mask].T), 1.0)
        return ndimage.gaussian_filter(counts, 0.8) / max(mask.sum(), 1)

    a, b = (density(mask)[tuple(np.moveaxis(index, -1, 0))] for mask in (this, other))
    floor = 1e-5  # a colour that neither has decides nothing
    return ndimage.gaussian_filter((a + floor) / (a + b + 2 * floor), blur).astype(np.float32)


def _middle_tones(lightness: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A face's ``mask`` without its darkest fifth: brows, eyes and hair on the forehead are no skin."""
    return mask & (lightness >= np.quantile(lightness[mask], 0.2)) if mask.any() else mask


def _hanging(hair: Map, guide: NeckGuide, blur: float) -> Map:
    """1 where ``hair`` ``[H, W]`` is connected to hair above the jaw beside the head, 0 elsewhere, softly.

    A collar may have the hair's colour, but it does not hang from the head.
    """
    labels, _ = ndimage.label((hair > 0.3) & ~guide.outline)
    above = np.unique(labels[guide.height > (guide.jaw + guide.ear) / 2])
    held = np.isin(labels, above[above > 0])
    return np.asarray(ndimage.gaussian_filter(ndimage.binary_dilation(held, iterations=2).astype(np.float32), blur))


def _soft_mask(mask: NDArray[np.bool_], width: float) -> Map:
    """1 in ``mask``, falling to 0 over ``width`` pixels outside it."""
    return smooth_step(1 - ndimage.distance_transform_edt(~mask) / max(width, 1.0))
