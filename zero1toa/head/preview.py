"""A small shaded renderer of head meshes, for contact sheets and tests: z-buffer, Lambert light, vertex colours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw


@dataclasses.dataclass(frozen=True)
class Picture:
    """One rendered view.

    Attributes:
        color: ``[H, W, 3]`` uint8 sRGB.
        face: index of the visible face ``[H, W]`` int32, -1 for background.
        back: True where the visible face is seen from its inner side ``[H, W]``.
        points: pixel position and depth of every vertex ``[V, 3]`` (x, y, metres).
    """

    color: NDArray[np.uint8]
    face: NDArray[np.int32]
    back: NDArray[np.bool_]
    points: NDArray[np.float64]


def camera_axes(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Rows are the camera's right, down and forward axes in the head's frame ``[3, 3]`` (OpenCV); degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    forward = -np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    return np.stack([right, np.cross(forward, right), forward])


def vertex_normals(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Area-weighted unit normals ``[V, 3]``."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, faces[:, i], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def render(
    vertices: ArrayLike,
    faces: ArrayLike,
    colors: ArrayLike | None = None,
    *,
    azimuth: float = 0.0,
    elevation: float = 0.0,
    size: int = 512,
    fill: float = 0.85,
    distance: float = 0.9,
    center: ArrayLike | None = None,
    extent: float | None = None,
    background: float = 1.0,
    ambient: float = 0.35,
) -> Picture:
    """Render a mesh with a pinhole camera that orbits its centre.

    Args:
        vertices: ``[V, 3]`` metres.
        faces: ``[F, 3]``, counter-clockwise from outside.
        colors: sRGB per vertex ``[V, 3]`` in [0, 1]; clay grey when absent.
        azimuth: degrees, + towards the subject's left.
        elevation: degrees, + upwards.
        size: picture side in pixels.
        fill: ``extent`` over the picture side.
        distance: camera distance from ``center`` in metres.
        center: orbited point; the middle of the bounding box when absent.
        extent: length in metres that spans ``fill`` of the picture; the largest side of the box when absent.
        background: grey level.
        ambient: light that reaches every surface, in [0, 1].
    """
    v = np.asarray(vertices, dtype=np.float64)
    f = np.asarray(faces, dtype=np.int64)
    low, high = v.min(0), v.max(0)
    target = 0.5 * (low + high) if center is None else np.asarray(center, dtype=np.float64)
    span = float((high - low).max()) if extent is None else extent
    axes = camera_axes(azimuth, elevation)
    local = (v - target) @ axes.T
    depth = local[:, 2] + distance
    focal = fill * size / span * distance
    points = np.stack([focal * local[:, 0] / depth + size / 2, focal * local[:, 1] / depth + size / 2, depth], axis=1)
    albedo = np.full_like(v, 0.72) if colors is None else np.asarray(colors, dtype=np.float64)
    # One light at the upper left of the camera and a weak one from the other side, so that no form is lost in shadow.
    normals = vertex_normals(v, f)
    key = axes.T @ _unit(-0.45, -0.55, -0.8)
    rim = axes.T @ _unit(0.9, -0.1, -0.35)
    light = ambient + (1 - ambient) * (0.85 * np.clip(normals @ key, 0, None) + 0.25 * np.clip(normals @ rim, 0, None))
    image, face, back = _rasterise(points, f, np.clip(albedo * light[:, None], 0, 1), size, background)
    return Picture((image * 255 + 0.5).astype(np.uint8), face, back, points)


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], labels: Sequence[str], columns: int) -> Image.Image:
    """Tile equally large pictures with their names under them."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + 16)), "white")
    drawer = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = (i % columns) * width, (i // columns) * (height + 16)
        sheet.paste(Image.fromarray(picture), (x, y))
        drawer.text((x + 4, y + height + 1), label, fill="black")
    return sheet


def _unit(x: float, y: float, z: float) -> NDArray[np.float64]:
    vector = np.array([x, y, z])
    return vector / np.linalg.norm(vector)


@numba.njit(cache=True)
def _rasterise(points, faces, colors, size, background):  # type: ignore[no-untyped-def]  # numba infers the types
    image = np.full((size, size, 3), background)
    inverse_depth = np.zeros((size, size))
    owner = np.full((size, size), -1, dtype=np.int32)
    back = np.zeros((size, size), dtype=np.bool_)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = (
            points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1],
        )  # fmt: skip
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0, x1 = max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, size)
        y0, y1 = max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, size)
        for y in range(y0, y1):
            for x in range(x0, x1):
                px, py = x + 0.5, y + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                # Inverse depth and colour over depth are linear on the screen, depth and colour are not.
                ia, ib, ic = wa / points[a, 2], wb / points[b, 2], wc / points[c, 2]
                inverse = ia + ib + ic
                if inverse > inverse_depth[y, x]:
                    inverse_depth[y, x] = inverse
                    owner[y, x] = f
                    back[y, x] = area > 0.0  # pixel rows run down, so a front face has negative area
                    for k in range(3):
                        image[y, x, k] = (ia * colors[a, k] + ib * colors[b, k] + ic * colors[c, k]) / inverse
    return image, owner, back
