"""Loose hair: Gaussians beyond the head's outline, so that hair ends in strands and not in a line.

The lifted scalp (:mod:`zero1toa.avatar.hair`) follows the closed mass of the hair. What the portrait's matte has
beyond it, wisps and the soft rim, becomes single Gaussians in the plane of the outline: bound to the nearest triangles
of scalp and neck, in the portrait's colours, with the opacity that the matte still lacks. Their depths are spread, so
that they stand as loose hair from the side and not as a sheet.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.hair_behind import behind
from zero1toa.avatar.round_gaussians import RoundGaussians, extended
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import project, resize_intrinsics

SIZE = 256
"""Side of the picture in which loose hair is looked for: one Gaussian a pixel."""
SPREAD = 0.55
"""Standard deviation over the spacing."""
LAYERS = 2 * math.pi * SPREAD**2
"""Gaussians that cover a pixel of a closed mass, by their summed weight."""
ROUNDS = 5
"""Rounds in which the opacities are fitted to each other."""
LEAST = 0.06
"""Opacity that is worth a Gaussian."""
ROOTS = 0.02
"""Metres from the nearest scalp or neck up to which there is hair: beside the cheeks there is no hold for it."""
REACH = 0.05
"""Metres from the outline up to which hair is taken for this head's."""
DEPTHS = (0.0015, 0.25)
"""Standard deviation of the depths: metres at the outline, and how much it grows with the distance from it."""
LIKE_HAIR = 0.25
"""Difference from the hair's mean colour (norm of sRGB) up to which a pixel beside face and neck is taken for hair."""
LOCK = 40
"""Pixels at least of a lock beside face and ears, which counts whatever its colour is: below a hat, or dyed."""
CLOSED = 0.6
"""Share of them at least that lie in squares of three pixels: the rim of a matte is thinner."""
CHIN = 152
"""Its landmark: collars end below it."""

HIDDEN = 3.0
"""Pixels by which loose hair of the back must lie inside the outline that the portrait's camera sees."""
BARE = 0.1
"""Difference between the scalp's and the face's mean colours (norm of sRGB) up to which a scalp may be bare."""


@torch.no_grad()
def is_bare(avatar: GaussianAvatar, head: HeadModel, lift: float) -> bool:
    """Whether a head has no hair: a scalp in the skin's colour, which the matte's outline has not lifted.

    What a matte has beyond a bare head is the rim of the photo's own sharpening, which stands as specks from the side.

    Args:
        avatar: coloured avatar without loose hair.
        head: its head model.
        lift: how far the scalp was lifted on average, metres.
    """
    scalp, face = (avatar.colors[head.regions[name][avatar.binding]].mean(0) for name in ("scalp", "face"))
    return lift <= 0 and float((scalp - face).norm()) < BARE


@torch.no_grad()
def add_loose_hair(
    avatar: GaussianAvatar, head: HeadModel, posed: Tensor, image: Tensor, viewmat: Tensor, K: Tensor
) -> GaussianAvatar:
    """The avatar with Gaussians for the hair that its own leave out in the portrait; deterministic.

    Args:
        avatar: coloured avatar without loose hair.
        head: its head model.
        posed: vertices in the portrait's pose, offset included ``[V, 3]``, metres.
        image: carved portrait, straight alpha ``[S, S, 4]`` float in [0, 1].
        viewmat: the portrait's world-to-camera ``[4, 4]``.
        K: its intrinsics in pixels ``[3, 3]``.

    Returns:
        An avatar whose first Gaussians are those of ``avatar``.
    """
    small = resize_intrinsics(K, image.shape[0], SIZE)
    _, covered, _ = avatar.render(posed[None], viewmat[None, None], small[None, None], SIZE, (0.0, 0.0, 0.0))
    have = covered[0, 0, ..., 0].clamp(0, 1).cpu().numpy()
    colors, matte = _shrunk(image)
    missing = np.clip((matte - have) / np.maximum(1 - have, 1e-3), 0, 1)
    surface = depth_map(posed[None], head.faces, viewmat[None], small[None], (SIZE, SIZE))[0].cpu().numpy()
    beside = ~np.isfinite(surface)
    y, x = np.nonzero((missing > LEAST) & beside)
    if not len(y) or beside.all():
        return avatar
    distance, (row, column) = ndimage.distance_transform_edt(beside, return_indices=True)
    depth = surface[row[y, x], column[y, x]]
    metre = depth / float(small[0, 0])  # of one pixel
    away = distance[y, x] * metre
    spread = DEPTHS[0] + DEPTHS[1] * away
    depth = depth + np.random.default_rng(0).standard_normal(len(y)) * spread
    points = _unproject(x + 0.5, y + 0.5, depth, viewmat, small)
    marks = head.landmarks.positions(posed, head.faces)
    chin = float(project(marks[None, [CHIN]], viewmat[None], small[None])[0][0, 0, 1])
    at_scalp, hair = _is_hair(avatar, head, posed, points, colors[y, x])
    anchors = (head.regions["scalp"] | head.regions["neck"]).nonzero().squeeze(1)
    nearest, from_roots = _nearest(posed, head.faces[anchors], points)
    chosen = (away < REACH) & hair & (from_roots - away < ROOTS)
    hangs = _hangs(y, x, chosen, at_scalp)
    chosen = hangs | ((away < REACH) & _is_lock(y, x, at_scalp, chin))
    if not chosen.any():
        return avatar
    y, x, points, binding = y[chosen], x[chosen], points[chosen], anchors[nearest[chosen]]
    wanted = np.zeros_like(missing)
    wanted[y, x] = missing[y, x]
    loose = RoundGaussians(binding, points, SPREAD * metre[chosen], _opacities(wanted)[y, x], colors[y, x])
    back = behind(avatar, head, posed, loose.only(hangs[chosen]))
    # The portrait must look as it does without them.
    inside = ndimage.distance_transform_edt(~beside)
    pixels, depth = (t[0].cpu().numpy() for t in project(back.points[None], viewmat[None], small[None]))
    column, row = pixels.astype(int).clip(0, SIZE - 1).T
    hidden = (inside[row, column] > HIDDEN) & (depth > surface[row, column])
    return extended(avatar, posed, loose, back.only(hidden))


def _opacities(matte: NDArray[np.floating]) -> NDArray[np.float64]:
    """Opacities ``[H, W]`` of one Gaussian a pixel that together leave as much uncovered as ``matte`` ``[H, W]`` wants.

    What passes several Gaussians is a product, so its logarithm is a sum: the matte's, undone of the Gaussians' blur by
    Richardson and Lucy's multiplicative rounds. A single strand needs more than one in a mass of hair.
    """
    thickness = -np.log1p(-np.minimum(matte, 0.98).astype(np.float64))
    each = thickness / LAYERS
    for _ in range(ROUNDS):
        each = each * thickness / np.maximum(LAYERS * ndimage.gaussian_filter(each, SPREAD), 1e-6)
    return np.clip(-np.expm1(-each), 1e-3, 0.99)


def _shrunk(image: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours ``[SIZE, SIZE, 3]`` and matte ``[SIZE, SIZE]`` of a carved picture, averaged by its matte."""
    premultiplied = torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], -1).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(premultiplied, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    colors = small[:3] / small[3:].clamp_min(1e-4)
    return colors.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), small[3].cpu().numpy()


def _unproject(
    x: NDArray[np.float64], y: NDArray[np.float64], depth: NDArray[np.float64], viewmat: Tensor, K: Tensor
) -> Tensor:
    """World points ``[P, 3]`` at pixels and camera depths, on the camera's device."""
    pixels = torch.from_numpy(np.stack([x, y, np.ones_like(x)], -1) * depth[:, None]).to(K)
    camera = pixels @ torch.linalg.inv(K).T
    return (camera - viewmat[:3, 3]) @ viewmat[:3, :3]


def _hangs(
    y: NDArray[np.integer], x: NDArray[np.integer], chosen: NDArray[np.bool_], at_scalp: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which pixels ``[P]`` are connected to one beside the scalp: a dark collar is no hair of a dark head."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y[chosen], x[chosen]] = True
    labels = ndimage.label(mask, np.ones((3, 3)))[0][y, x]
    return np.isin(labels, labels[chosen & at_scalp])


def _is_lock(
    y: NDArray[np.integer], x: NDArray[np.integer], at_scalp: NDArray[np.bool_], chin: float
) -> NDArray[np.bool_]:
    """Which pixels ``[P]`` belong to a closed mass beside face and ears that ends above row ``chin``."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y[~at_scalp], x[~at_scalp]] = True
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    numbers = np.arange(count + 1)
    pixels = ndimage.sum_labels(mask, labels, numbers)
    closed = ndimage.sum_labels(ndimage.binary_opening(mask, np.ones((3, 3))), labels, numbers)
    lowest = np.array([0, *(part[0].stop for part in ndimage.find_objects(labels))])
    lock = (pixels >= LOCK) & (closed > CLOSED * pixels) & (lowest <= chin)
    return lock[labels[y, x]]  # nothing of the mask, and so no lock, has label 0


def _is_hair(
    avatar: GaussianAvatar, head: HeadModel, posed: Tensor, points: Tensor, colors: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points lie beside the scalp, and which are hair ``[P]``: those, and beside face, ears and neck what has
    its colour more than the skin's.
    """
    skin_or_scalp = head.regions["scalp"] | head.regions["face"] | head.regions["ears"] | head.regions["neck"]
    outside = skin_or_scalp.nonzero().squeeze(1)
    beside = outside[_nearest(posed, head.faces[outside], points)[0]]
    on = {name: head.regions[name][avatar.binding] for name in ("scalp", "face")}
    hair, skin = (avatar.colors[on[name]].mean(0).cpu().numpy() for name in ("scalp", "face"))
    to_hair, to_skin = (np.linalg.norm(colors - mean, axis=1) for mean in (hair, skin))
    at_scalp = head.regions["scalp"][beside].cpu().numpy()
    return at_scalp, at_scalp | ((to_hair < LIKE_HAIR) & (to_hair < to_skin))


def _nearest(vertices: Tensor, triangles: Tensor, points: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Index of the triangle whose centre lies nearest to each point ``[P]`` int64, and its distance ``[P]``."""
    tree = cKDTree(vertices[triangles].mean(1).double().cpu().numpy())
    distance, index = tree.query(points.double().cpu().numpy())
    return torch.from_numpy(index).to(triangles.device), distance
