"""From a photo to a :class:`~zero1toa.types.Portrait`: read, find the face, fit the head, cut out head and neck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zero1toa.config import PortraitConfig
from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.acceptance import choose_face, turned_too_far
from zero1toa.portrait.carving import carve, neck_guide
from zero1toa.portrait.crop import head_crop
from zero1toa.portrait.fitting import fit_head, portrait_intrinsics
from zero1toa.portrait.landmarks import detect_faces, face_height
from zero1toa.portrait.matting import choose_method, matte, segment_person, trimap
from zero1toa.portrait.reading import read_photo, short_name
from zero1toa.portrait.tracked import read_known
from zero1toa.types import Portrait

_SURELY_A_PERSON = 0.5  # the face's mean probability to be a person, below which the segmentation has failed


def load_portrait(
    photo: str | Path | bytes,
    config: PortraitConfig,
    head: HeadModel,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    name: str = "",
) -> Portrait:
    """Turn a photo into a carved, fitted portrait.

    Args:
        photo: image file of any common kind, or its bytes.
        config: crop size, matting, which face, and the limits.
        head: head model whose parameters the portrait gets.
        background: sRGB colour in [0, 1] behind a photo that has transparency.
        name: what messages call the photo; the path where there is one.

    Returns:
        The portrait: straight-alpha crop, landmarks, camera, head parameters; ``notes`` names every fallback.

    Raises:
        PortraitError: unreadable photo, no face, face too small, turned too far, or unlike any face.
        ConfigError: unknown matting method or model.
        AssetError: a model file that the configuration asks for is missing.
        HeadModelError: a tracker's result is given and the head is not FLAME 2020.
        MotionError: a tracker's result cannot be read.
    """
    given = read_known(config, head)
    method, fallback = choose_method(config.matting, config.matting_model)
    picture = read_photo(photo, background, name)
    notes = [*picture.notes, *([fallback] if fallback else [])]
    name = short_name(name or photo)
    faces = detect_faces(picture.image)
    found = choose_face(name, faces, picture.scale, config)
    if len(faces) > 1 and config.face < 0:
        notes.append(f"{name} shows {len(faces)} faces; the largest is used (portrait.face chooses another)")

    head = head.to("cpu")
    middle = (found[:, :2].min(0) + found[:, :2].max(0)) / 2
    camera = portrait_intrinsics(found, (float(middle[0]), float(middle[1])))
    fit = fit_head(found, camera, head, known=given, name=name)
    if abs(fit.yaw) > config.max_yaw:
        raise turned_too_far(name, fit.yaw, config)

    crop = head_crop(picture.image, fit, head, config.size, method)
    points = crop.points(found)
    # Again in the crop, now that the camera's axis passes through its middle.
    fit = fit_head(
        points, portrait_intrinsics(points, (config.size / 2, config.size / 2)), head, start=fit, known=given, name=name
    )
    image = crop.pixels(picture.image)
    inside = crop.inside(picture.image)
    guide = neck_guide(head, fit, config.size)
    person = segment_person(image, method)
    if person[guide.skin & inside].mean() < _SURELY_A_PERSON:
        # Nothing of hair and clothes is known then; what is certain is where the fitted head lies.
        person = (guide.outline | guide.tube).astype(np.float32)
        notes.append(f"the person in {name} cannot be told from the background; the fitted head's outline cuts it out")
    seed = points[:468, :2].mean(0)
    # Only what the photo shows is matted: hair that its border cuts off must not fade into the repeated edge.
    shown = np.ix_(inside.any(1), inside.any(0))
    first = np.array([shown[1].min(), shown[0].min()])
    known = trimap(person[shown], face_height(points), tuple(seed - first))
    alpha, colors = np.zeros(inside.shape, np.float32), (image / 255.0).astype(np.float32)
    alpha[shown], colors[shown] = matte(image[shown], known)
    carved, covered = carve(alpha, colors, guide, inside)
    if covered:
        notes.append("clothes cover the neck; their colour is kept on it")
    edge = ~ndimage.binary_erosion(inside, border_value=1) & inside
    if (carved[edge] > 0.5).sum() > 0.02 * config.size:
        notes.append(f"{name} cuts off part of the head or neck at its border")
    if crop.scale > 1.5:
        notes.append(f"the head in {name} is only {crop.side:.0f} pixels wide; it is enlarged to {config.size}")
    return Portrait(
        image=_compose(colors, carved),
        landmarks=np.ascontiguousarray(points[:, :2]),
        viewmat=fit.viewmat.numpy(),
        K=fit.K.numpy(),
        params=fit.params,
        arkit=fit.arkit.numpy(),
        residual=fit.residual,
        yaw=fit.yaw,
        notes=tuple(notes),
    )


def _compose(colors: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Straight-alpha picture ``[H, W, 4]``; transparent pixels take the nearest colour that is seen.

    So that resampling the picture mixes in neither the old background nor the clothes that were cut away.
    """
    alpha = np.where(alpha < 0.02, 0.0, np.where(alpha > 0.98, 1.0, alpha))
    parts, _ = ndimage.label(alpha > 0)
    sizes = np.bincount(parts.ravel(), weights=alpha.ravel())
    sizes[0] = 0
    alpha = alpha * (parts == int(sizes.argmax()))  # crumbs that float beside the head
    nearest = ndimage.distance_transform_edt(alpha <= 0.05, return_distances=False, return_indices=True)
    filled = colors[nearest[0], nearest[1]]
    return np.round(255 * np.dstack([filled, alpha])).astype(np.uint8)
