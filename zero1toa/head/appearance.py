"""Default colours of a head's vertices: skin, lips, brows, lash lines, eyes, teeth, mouth and hair.

Good enough for a landmark detector, for synthetic subjects and for previews; a portrait's texture replaces it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.head.protocol import HeadModel

Color = tuple[float, float, float]

#: Landmark polylines (subject's right, left): brow from its inner to its outer end, upper lash line, lower lash line.
_BROWS = (
    ((55, 107), (65, 66), (52, 105), (53, 63), (46, 70)),
    ((285, 336), (295, 296), (282, 334), (283, 293), (276, 300)),
)
_UPPER_LASH = (33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362)
_LOWER_LASH = (33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362)
_MOUTH_LINE = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_NOSTRILS = (98, 327, 97, 326)
_CHEEKS = (205, 425)
PUPIL_SHARE = 0.38  # of the iris radius


@dataclasses.dataclass(frozen=True)
class Palette:
    """sRGB colours in [0, 1]."""

    skin: Color = (0.86, 0.68, 0.58)
    lips: Color = (0.70, 0.38, 0.36)
    hair: Color = (0.20, 0.13, 0.09)
    eyes: Color = (0.33, 0.23, 0.15)
    sclera: Color = (0.93, 0.92, 0.90)
    teeth: Color = (0.93, 0.91, 0.85)
    mouth: Color = (0.36, 0.12, 0.11)


def paint_default(head: HeadModel, palette: Palette | None = None) -> Tensor:
    """Colour the vertices of a head, in its neutral shape.

    Args:
        head: any head model; only its regions and landmarks are used.
        palette: colours; a light-skinned, dark-haired person when absent.

    Returns:
        sRGB albedo ``[V, 3]`` float32 in [0, 1] on the head's device.
    """
    palette = palette or Palette()
    rest = head.vertices(head.neutral()).detach()
    marks = head.landmarks.positions(rest, head.faces)
    painter = _Painter(head, rest)
    skin = torch.tensor(palette.skin, device=rest.device)
    dark = skin * torch.tensor([0.55, 0.42, 0.38], device=rest.device)
    hair = torch.tensor(palette.hair, device=rest.device)
    painter.colors[:] = skin
    on_face = painter.vertices("face")
    for cheek in _CHEEKS:
        painter.blob(marks[cheek], 0.016, skin * torch.tensor([1.06, 0.86, 0.84], device=rest.device), 0.45, on_face)
    painter.fill_softly("scalp", hair)
    painter.fill("lips", torch.tensor(palette.lips, device=rest.device))
    for nostril in _NOSTRILS:
        painter.blob(marks[nostril], 0.0028, dark * 0.6, 0.75, on_face)
    painter.line(marks[list(_MOUTH_LINE)], 0.0011, dark * 0.55, 0.9, on_face)
    eyes = painter.vertices("eye_left") | painter.vertices("eye_right")
    around = on_face & ~eyes
    for side in range(2):
        inner_to_outer = torch.stack([marks[list(pair)].mean(0) for pair in _BROWS[side]])
        painter.line(inner_to_outer, 0.0024, 0.85 * hair + 0.15 * skin * 0.5, 0.85, around)
        painter.line(marks[list(_UPPER_LASH[side])], 0.0011, hair * 0.45, 0.95, around)
        painter.line(marks[list(_LOWER_LASH[side])], 0.0008, 0.5 * dark + 0.5 * hair, 0.6, around)
    _paint_eyes(painter, palette, marks)
    painter.fill("mouth", torch.tensor(palette.mouth, device=rest.device), inside=True)
    if "tongue" in head.regions:
        painter.fill("tongue", torch.tensor(palette.mouth, device=rest.device) * 0.5 + skin * 0.35)
    painter.fill("teeth", torch.tensor(palette.teeth, device=rest.device))
    return painter.colors.clamp(0, 1)


def _paint_eyes(painter: _Painter, palette: Palette, marks: Tensor) -> None:
    device = marks.device
    iris = torch.tensor(palette.eyes, device=device)
    for name, first in (("right", 468), ("left", 473)):
        eye = painter.vertices(f"eye_{name}")
        centre, rim = marks[first], marks[first + 1 : first + 5]
        radius = (rim - centre).norm(dim=-1).mean()
        away = (painter.rest - centre).norm(dim=-1)
        painter.mix(eye, torch.tensor(palette.sclera, device=device), 1.0)
        painter.mix(eye & (away < 1.02 * radius), iris, 1.0)
        painter.mix(eye & (away < 1.02 * radius) & (away > 0.90 * radius), iris * 0.45, 0.8)
        painter.mix(eye & (away < PUPIL_SHARE * radius), torch.full((3,), 0.02, device=device), 1.0)


class _Painter:
    def __init__(self, head: HeadModel, rest: Tensor) -> None:
        self.head, self.rest = head, rest
        self.colors = torch.zeros(len(rest), 3, device=rest.device)

    def vertices(self, region: str, inside: bool = False) -> Tensor:
        """Vertices of a region ``[V]`` bool; ``inside`` leaves out those it shares with other regions."""
        mask = self.head.regions[region]
        out = torch.zeros(len(self.rest), dtype=torch.bool, device=self.rest.device)
        out[self.head.faces[mask].flatten()] = True
        if inside:
            out[self.head.faces[~mask].flatten()] = False
        return out

    def fill(self, region: str, color: Tensor, inside: bool = False) -> None:
        self.mix(self.vertices(region, inside), color, 1.0)

    def fill_softly(self, region: str, color: Tensor) -> None:
        """Weigh each vertex by the share of its faces that lie in the region, so that the border is not jagged."""
        faces = self.head.faces.flatten()
        inside = self.head.regions[region].repeat_interleave(3).to(self.rest.dtype)
        count, total = torch.zeros(2, len(self.rest), dtype=self.rest.dtype, device=self.rest.device)
        total.index_add_(0, faces, torch.ones_like(inside))
        count.index_add_(0, faces, inside)
        self._blend(count / total.clamp(min=1), color)

    def mix(self, mask: Tensor, color: Tensor, amount: float) -> None:
        self.colors = torch.where(mask[:, None], (1 - amount) * self.colors + amount * color, self.colors)

    def blob(self, centre: Tensor, radius: float, color: Tensor, amount: float, where: Tensor) -> None:
        away = (self.rest - centre).norm(dim=-1)
        self._blend(torch.exp(-0.5 * (away / radius) ** 2) * amount * where, color)

    def line(self, points: Tensor, radius: float, color: Tensor, amount: float, where: Tensor) -> None:
        """Paint along a polyline, full within ``radius`` and gone at twice that."""
        away = _distance_to_polyline(self.rest, points)
        self._blend(((2 * radius - away) / radius).clamp(0, 1) * amount * where, color)

    def _blend(self, weight: Tensor, color: Tensor) -> None:
        self.colors = self.colors + weight[:, None] * (color - self.colors)


def _distance_to_polyline(positions: Tensor, points: Tensor) -> Tensor:
    start, step = points[:-1], points[1:] - points[:-1]
    relative = positions[:, None] - start
    along = ((relative * step).sum(-1) / (step**2).sum(-1).clamp(min=1e-12)).clamp(0, 1)
    return (relative - along[..., None] * step).norm(dim=-1).amin(1)
