"""What a benchmark measures of a finished avatar, and the pictures that it shows of it. Ray runs this as a task."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from zero1toa.batch.backbone_table import AvatarFigures
from zero1toa.distributed.node import fetch_weights
from zero1toa.errors import AssetError
from zero1toa.storage import Storage

SIDE = 192
"""Side of a picture in pixels."""

_TURN = 45.0  # degrees of the view from the side


@dataclasses.dataclass(frozen=True)
class Inspected:
    """An avatar's figures and pictures.

    Attributes:
        figures: what the table takes the mean of.
        portrait: the portrait over white ``[SIDE, SIDE, 3]`` uint8, or None if the bundle holds none.
        front: the avatar from the portrait's own camera ``[SIDE, SIDE, 3]`` uint8.
        side: at rest, turned by 45 degrees; as ``front``.
    """

    figures: AvatarFigures
    portrait: NDArray[np.uint8] | None
    front: NDArray[np.uint8]
    side: NDArray[np.uint8]


def inspect_avatar(bundle: Storage, head_name: str, weights: str) -> Inspected:
    """Play an avatar and measure its control and its stability.

    On the CPU, wherever it was made, so that figures of different machines can be compared.

    Args:
        bundle: its folder.
        head_name: name of its head model.
        weights: ``distributed.weights``, where this machine finds the head model if it lacks it; or the empty string.

    Raises:
        BundleError: if the bundle cannot be read.
        AssetError: if there is no such head model.
    """
    from zero1toa import media
    from zero1toa.avatar.bundle import read_bundle
    from zero1toa.evaluation.control import control_of
    from zero1toa.evaluation.playback import AvatarPlayer
    from zero1toa.evaluation.stability import measure_stability
    from zero1toa.head.arkit import ARKIT_NAMES
    from zero1toa.head.registry import load_head

    if weights:
        fetch_weights(Storage(weights))
    head = load_head(head_name)
    player = AvatarPlayer(read_bundle(bundle, head), head)
    rest = np.zeros((1, len(ARKIT_NAMES)), np.float32)
    control, note = None, ""
    try:
        checks = control_of(player).checks()
        control = sum(checks.values()) / len(checks)
    except AssetError as error:
        note = f"control was not measured: {error}"
    flicker = measure_stability(player).flicker
    portrait = player.bundle.portrait
    return Inspected(
        figures=AvatarFigures(control, flicker if math.isfinite(flicker) else None, note),
        portrait=None if portrait is None else media.resize(media.over(portrait), SIDE),
        front=player.portrait_view(SIDE),
        side=player.render(rest, _TURN, 0.0, SIDE)[0],
    )
