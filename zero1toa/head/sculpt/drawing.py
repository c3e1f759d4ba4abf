"""Random drawn neutral faces: what the landmark detector is measured on, so that no scan or photo is needed.

Lengths are millimetres of the face with its origin midway between the pupils, x to the right of the picture, y down.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.interpolate import CubicSpline

SIZE = 512
SCALE = 1.75  # pixels per millimetre


@dataclasses.dataclass(frozen=True)
class DrawnFace:
    """Proportions in millimetres and colours (sRGB in [0, 1]) of one drawing; defaults are adult means."""

    ipd: float = 63.0
    eye_width: float = 30.0
    eye_opening: float = 10.5
    iris: float = 11.8
    brow_height: float = 21.0
    nose_length: float = 44.0
    nose_width: float = 35.0
    mouth_y: float = 69.0
    mouth_width: float = 49.0
    lip_height: float = 17.0
    chin_y: float = 113.0
    cheek_width: float = 140.0
    jaw_width: float = 110.0
    hairline_y: float = -82.0
    skin: tuple[float, float, float] = (0.85, 0.68, 0.58)
    hair: tuple[float, float, float] = (0.22, 0.15, 0.10)
    eye: tuple[float, float, float] = (0.35, 0.25, 0.17)
    background: tuple[float, float, float] = (0.8, 0.82, 0.85)
    blur: float = 0.8


def random_face(generator: np.random.Generator) -> DrawnFace:
    """Draw proportions around the adult means and colours over the human range."""
    mean = DrawnFace()
    lengths = {
        f.name: getattr(mean, f.name) * (1 + 0.05 * float(np.clip(generator.standard_normal(), -2, 2)))
        for f in dataclasses.fields(DrawnFace)
        if isinstance(getattr(mean, f.name), float) and f.name not in ("ipd", "blur")
    }
    tone = generator.uniform(0, 1)
    skin = (1 - tone) * np.array([0.93, 0.78, 0.70]) + tone * np.array([0.45, 0.30, 0.22])
    hair = generator.uniform(0.05, 0.6) * np.array([1.0, generator.uniform(0.6, 0.9), generator.uniform(0.35, 0.8)])
    eye = np.array([[0.30, 0.20, 0.12], [0.35, 0.50, 0.65], [0.40, 0.45, 0.30]])[generator.integers(3)]

    def rgb(color: NDArray[np.float64]) -> tuple[float, float, float]:
        return (float(color[0]), float(color[1]), float(color[2]))

    return DrawnFace(
        **lengths,
        skin=rgb(skin),
        hair=rgb(hair),
        eye=rgb(eye),
        background=rgb(generator.uniform(0.4, 1.0, 3)),
        blur=float(generator.uniform(0.5, 1.3)),
    )


class _Canvas:
    """A float picture onto which soft-edged shapes are laid."""

    def __init__(self, color: tuple[float, float, float], centre: tuple[float, float]) -> None:
        self.pixels = np.empty((SIZE, SIZE, 3))
        self.pixels[:] = color
        self.centre = centre

    def mask(self, points: NDArray[np.float64], soft: float) -> NDArray[np.float64]:
        """Coverage of a polygon (millimetres), blurred by ``soft`` millimetres."""
        image = Image.new("L", (2 * SIZE, 2 * SIZE))
        xy = 2 * (points * SCALE + np.asarray(self.centre))
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in xy], fill=255)
        small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
        if soft > 0:
            small = small.filter(ImageFilter.GaussianBlur(soft * SCALE))
        return np.asarray(small, dtype=np.float64) / 255

    def lay(self, mask: NDArray[np.float64], color: NDArray[np.float64] | tuple[float, ...], alpha: float = 1) -> None:
        """Blend ``color`` over the picture."""
        weight = (alpha * mask)[..., None]
        self.pixels = self.pixels * (1 - weight) + np.asarray(color) * weight


def _smooth(points: list[tuple[float, float]], closed: bool = True, n: int = 120) -> NDArray[np.float64]:
    array = np.array(points, dtype=np.float64)
    if closed:
        array = np.concatenate([array, array[:1]])
    steps = np.linalg.norm(np.diff(array, axis=0), axis=1)
    t = np.concatenate([[0], np.cumsum(np.sqrt(steps))])
    spline = CubicSpline(t, array, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0, t[-1], n, endpoint=not closed))


def _mirrored(half: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Close a half outline (from the top midline point to the bottom one) by its mirror image."""
    back = [(-x, y) for x, y in half[::-1] if abs(x) > 1e-9]
    return _smooth(half + back)


def _ellipse(x: float, y: float, a: float, b: float, n: int = 48) -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + a * np.cos(t), y + b * np.sin(t)], axis=1)


def _almond(face: DrawnFace, side: int, grow: float = 0.0) -> NDArray[np.float64]:
    cx, w, h = side * face.ipd / 2, face.eye_width / 2 + grow, face.eye_opening / 2 + grow
    inner, outer = cx - side * w, cx + side * w
    upper = [(cx - side * 0.45 * w, -h * 0.95), (cx + side * 0.1 * w, -h * 1.12), (cx + side * 0.6 * w, -h * 0.75)]
    lower = [(cx + side * 0.55 * w, h * 0.65), (cx, h * 0.9), (cx - side * 0.5 * w, h * 0.8)]
    return _smooth([(inner, 1.2), *upper, (outer, -0.8), *lower])


def draw(face: DrawnFace) -> NDArray[np.uint8]:
    """Paint a face.

    Args:
        face: proportions and colours.

    Returns:
        sRGB picture ``[512, 512, 3]`` uint8, the pupils' midpoint near its centre.
    """
    canvas = _Canvas(face.background, (SIZE / 2, SIZE * 0.47))
    skin, hair = np.array(face.skin), np.array(face.hair)
    dark, light = skin * np.array([0.62, 0.52, 0.48]), np.clip(skin * 1.12, 0, 1)
    _draw_head(canvas, face, skin, dark, hair)
    _draw_nose(canvas, face, skin, dark, light)
    _draw_mouth(canvas, face, skin, dark)
    for side in (-1, 1):
        _draw_eye(canvas, face, side, skin, dark, hair)
    image = Image.fromarray((np.clip(canvas.pixels, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(face.blur)))


def _draw_head(canvas: _Canvas, face: DrawnFace, skin: NDArray, dark: NDArray, hair: NDArray) -> None:
    w, j, chin = face.cheek_width / 2, face.jaw_width / 2, face.chin_y
    canvas.lay(canvas.mask(_ellipse(0, -28, w + 13, 100), 2.0), hair)
    neck = np.array([(-0.85 * j, 60), (0.85 * j, 60), (0.9 * j, 130), (1.9 * w, 175), (-1.9 * w, 175), (-0.9 * j, 130)])
    canvas.lay(canvas.mask(neck, 1.5), 0.5 * skin + 0.5 * dark)
    for side in (-1, 1):
        canvas.lay(canvas.mask(_ellipse(side * (w + 3), 18, 8, 29), 1.0), 0.75 * skin + 0.25 * dark)
        canvas.lay(canvas.mask(_ellipse(side * (w + 3), 18, 3.5, 18), 2.0), dark, 0.5)
    top = face.hairline_y
    half = [(0, top - 8), (0.55 * w, top), (0.88 * w, -45), (0.985 * w, -5), (0.98 * w, 25), (0.91 * w, 52)]
    half += [(j, 78), (0.70 * j, 0.87 * chin), (0.36 * j, 0.985 * chin), (0, chin)]
    outline = _mirrored(half)
    shape = canvas.mask(outline, 0.8)
    canvas.lay(canvas.mask(outline + np.array([0, 9]), 6.0), dark, 0.55)
    canvas.lay(shape, skin)
    # Cheeks turn away from the light: a wide blur of the outline is a cheap normal.
    rim = shape * (1 - np.clip(canvas.mask(outline * np.array([0.97, 0.97]), 12.0) * 1.35 - 0.25, 0, 1))
    canvas.lay(rim, dark, 0.65)
    fringe = [(0, top - 25), (0.9 * w, top - 10), (1.03 * w, -30), (0.98 * w, -8), (0.89 * w, -42), (0.55 * w, top - 2)]
    canvas.lay(canvas.mask(_mirrored([*fringe, (0, top - 6)]), 1.2), hair)
    for side in (-1, 1):
        canvas.lay(canvas.mask(_ellipse(side * 36, 40, 15, 10), 8.0), skin * np.array([1.05, 0.88, 0.86]), 0.5)
    canvas.lay(canvas.mask(_ellipse(0, chin - 16, 15, 8), 5.0), np.clip(skin * 1.08, 0, 1), 0.6)
    canvas.lay(canvas.mask(_ellipse(0, -48, 34, 16), 12.0), np.clip(skin * 1.08, 0, 1), 0.6)


def _draw_nose(canvas: _Canvas, face: DrawnFace, skin: NDArray, dark: NDArray, light: NDArray) -> None:
    n, w = face.nose_length, face.nose_width / 2
    for side in (-1, 1):
        flank = _smooth(
            [(side * 9, -8), (side * 7, 8), (side * 9, 0.65 * n), (side * 15, 0.8 * n), (side * 12, 0.2 * n)]
        )
        canvas.lay(canvas.mask(flank, 3.0), dark, 0.45)
        ala = _ellipse(side * (w - 5), 0.86 * n, 6, 6.5)
        canvas.lay(canvas.mask(ala + np.array([side * 1.5, 1.0]), 1.2), dark, 0.55)
        canvas.lay(canvas.mask(ala, 1.2), 0.9 * skin + 0.1 * dark)
        canvas.lay(canvas.mask(_ellipse(side * 7.5, 0.98 * n, 4.6, 1.9), 0.6), dark * 0.5, 0.9)
    canvas.lay(canvas.mask(_smooth([(-3.5, 0), (3.5, 0), (4.5, 0.8 * n), (-4.5, 0.8 * n)]), 2.2), light, 0.6)
    canvas.lay(canvas.mask(_ellipse(0, 0.82 * n, 8, 6.5), 2.5), light, 0.7)
    canvas.lay(canvas.mask(_ellipse(0, n + 3, 12, 2.5), 2.0), dark, 0.5)
    canvas.lay(canvas.mask(_ellipse(0, 0.5 * (n + face.mouth_y) - 1, 3, 7), 2.0), dark, 0.25)


def _draw_mouth(canvas: _Canvas, face: DrawnFace, skin: NDArray, dark: NDArray) -> None:
    y, w, h = face.mouth_y, face.mouth_width / 2, face.lip_height / 2
    rose = 0.55 * skin + 0.45 * np.array([0.72, 0.30, 0.32]) * (0.5 + 0.6 * skin.mean())
    upper = [(0, y - 0.75 * h), (0.2 * w, y - 0.95 * h), (0.6 * w, y - 0.5 * h), (w, y), (0.5 * w, y + 0.12 * h)]
    lower = [(0, y + 0.05 * h), (0.6 * w, y + 0.05 * h), (w, y), (0.62 * w, y + 0.75 * h), (0, y + 1.1 * h)]
    canvas.lay(canvas.mask(_ellipse(0, y + 1.4 * h + 2, 0.55 * w, 3.0), 2.5), dark, 0.45)
    canvas.lay(canvas.mask(_mirrored(lower), 0.6), rose)
    canvas.lay(canvas.mask(_mirrored([*upper, (0, y + 0.15 * h)]), 0.6), rose * 0.85)
    canvas.lay(canvas.mask(_ellipse(0, y + 0.55 * h, 0.4 * w, 0.22 * h), 1.5), np.clip(rose * 1.2, 0, 1), 0.7)
    t = np.linspace(-1, 1, 40)
    line = np.stack([t * w, y + 0.10 * h * np.cos(3 * np.pi * t) * (1 - t**2)], axis=1)
    thin = 0.55 * (1 - 0.7 * t**2)[:, None] * np.array([0, 1])
    canvas.lay(canvas.mask(np.concatenate([line - thin, (line + thin)[::-1]]), 0.4), dark * 0.45, 0.95)
    for side in (-1, 1):
        canvas.lay(canvas.mask(_ellipse(side * (w + 0.5), y, 2, 1.8), 1.2), dark, 0.6)


def _draw_eye(canvas: _Canvas, face: DrawnFace, side: int, skin: NDArray, dark: NDArray, hair: NDArray) -> None:
    cx, w, h = side * face.ipd / 2, face.eye_width / 2, face.eye_opening / 2
    canvas.lay(canvas.mask(_ellipse(cx - side * 3, -7, w * 1.05, 7), 3.5), dark, 0.45)
    canvas.lay(canvas.mask(_ellipse(cx, h + 3, w * 0.8, 2.5), 2.0), dark, 0.25)
    almond = _almond(face, side)
    inside = canvas.mask(almond, 0.25)
    canvas.lay(inside, (0.93, 0.92, 0.91))
    iris = canvas.mask(_ellipse(cx, -0.6, face.iris / 2, face.iris / 2), 0.3)
    canvas.lay(iris * inside, np.array(face.eye) * 0.6)
    canvas.lay(canvas.mask(_ellipse(cx, -0.6, face.iris * 0.40, face.iris * 0.40), 0.8) * inside, face.eye)
    canvas.lay(canvas.mask(_ellipse(cx, -0.6, face.iris * 0.19, face.iris * 0.19), 0.3) * inside, (0.02, 0.02, 0.02))
    canvas.lay(canvas.mask(_ellipse(cx + 1.5, -2.4, 0.9, 0.9), 0.3) * inside, (1, 1, 1))
    canvas.lay(canvas.mask(_ellipse(cx, -h - 1.0, w, 2.8), 1.2) * inside, dark * 0.6, 0.6)
    upper = almond[almond[:, 1] < 0.3]
    upper = upper[np.argsort(upper[:, 0])]
    lash = np.concatenate([upper - np.array([0, 1.0]), (upper + np.array([0, 0.3]))[::-1]])
    canvas.lay(canvas.mask(lash, 0.4), hair * 0.35, 0.9)
    crease = np.concatenate([upper - np.array([0, 4.4]), (upper - np.array([0, 3.6]))[::-1]])
    canvas.lay(canvas.mask(crease, 0.7), dark, 0.7)
    rim = canvas.mask(_almond(face, side, 0.8), 0.4) * (1 - inside)
    canvas.lay(rim, dark, 0.55)
    b = -face.brow_height
    brow = [(cx - side * 19, b + 4.0), (cx - side * 18, b - 0.5), (cx + side * 4, b - 4.0), (cx + side * 22, b + 2.5)]
    canvas.lay(canvas.mask(_smooth([*brow, (cx + side * 4, b + 0.5)]), 1.2), 0.75 * hair + 0.1 * dark, 0.9)
