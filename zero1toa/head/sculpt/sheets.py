"""Contact sheets, so that anyone can look at the head: views, all ARKit shapes, the identity basis, lids and mouth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.head.appearance import paint_default
from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.preview import contact_sheet, render
from zero1toa.head.protocol import HeadParams

VIEWS = (
    (0, 0),
    (30, 0),
    (60, 0),
    (90, 0),
    (-30, 0),
    (-60, 0),
    (135, 0),
    (180, 0),
    (0, 80),
    (0, 35),
    (0, -30),
    (60, -25),
)


def write_sheets(data: Path, folder: Path, tile: int = 320) -> list[Path]:
    """Render the contact sheets of a data file into ``folder`` and return their paths."""
    head = CanonicalHead.load(data)
    colors = paint_default(head).numpy()
    neutral = head.neutral()
    folder.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, tuple[list[NDArray[np.uint8]], list[str], int]] = {}

    def picture(params: HeadParams, az: float, el: float, painted: bool, zoom: float = 1.0) -> NDArray[np.uint8]:
        center = head.center.numpy() if zoom == 1 else np.array([0.0, 0.0, 0.0])
        return render(
            head.vertices(params).numpy(), head.faces.numpy(), colors if painted else None,
            azimuth=az, elevation=el, size=tile, center=center, extent=0.32 / zoom,
        ).color  # fmt: skip

    for name, painted in (("views_clay", False), ("views_painted", True)):
        sheets[name] = ([picture(neutral, a, e, painted) for a, e in VIEWS], [f"{a}, {e}" for a, e in VIEWS], 4)
    pictures = []
    for name in ARKIT_NAMES:
        values = {name: 1.0, "jawOpen": 1.0} if name == "mouthClose" else {name: 1.0}
        pictures.append(picture(head.arkit(coefficients(values), neutral), 20, 0, True, 1.75))
    sheets["arkit"] = (pictures, list(ARKIT_NAMES), 8)
    pictures, labels = [], []
    for i, name in enumerate(head.shape_names):
        for sign in (-2.0, 2.0):
            shape = torch.zeros(head.n_shape)
            shape[i] = sign
            pictures.append(picture(neutral.replace(shape=shape), 25, 0, True))
            labels.append(f"{name} {sign:+.0f}")
    sheets["identity"] = (pictures, labels, 10)
    paths = []
    for name, (tiles, names, columns) in sheets.items():
        path = folder / f"{name}.png"
        contact_sheet(tiles, names, columns).save(path)
        paths.append(path)
    return paths
