"""A small head model for tests: an ellipsoid skull with two eyeballs, regions cut by position."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.head.protocol import HeadParams, LandmarkEmbedding


def sphere(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Unit sphere with poles on y: vertices [V, 3] and outward triangles [F, 3]."""
    theta = torch.linspace(0, torch.pi, rows + 1)[1:-1]
    phi = torch.arange(columns) * (2 * torch.pi / columns)
    t, p = torch.meshgrid(theta, phi, indexing="ij")
    ring = torch.stack([t.sin() * p.sin(), t.cos(), t.sin() * p.cos()], -1).reshape(-1, 3)
    vertices = torch.cat([ring, torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])])
    top, bottom = len(ring), len(ring) + 1
    faces = []
    for j in range(columns):
        k = (j + 1) % columns
        faces.append([top, j, k])
        faces.append([bottom, (rows - 2) * columns + k, (rows - 2) * columns + j])
        for i in range(rows - 2):
            a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + j, (i + 1) * columns + k
            faces += [[a, c, b], [b, c, d]]
    return vertices, torch.tensor(faces)


@dataclasses.dataclass
class SphereHead:
    """Skull radii 75 x 110 x 95 mm; one identity coefficient scales it, one expression coefficient stretches it."""

    rows: int = 16
    columns: int = 24
    name: str = "sphere-1"
    n_shape: int = 1
    n_expression: int = 1
    joints: tuple[str, ...] = ("root", "neck", "jaw", "left_eye", "right_eye")
    height: float = 0.22

    def __post_init__(self) -> None:
        skull, faces = sphere(self.rows, self.columns)
        ball, ball_faces = sphere(6, 8)
        skull = skull * torch.tensor([0.075, 0.11, 0.095])
        eyes = [ball * 0.011 + torch.tensor([side * 0.031, 0.02, 0.078]) for side in (1.0, -1.0)]
        self.rest = torch.cat([skull, *eyes])
        self.faces = torch.cat([faces, ball_faces + len(skull), ball_faces + len(skull) + len(ball)])
        self.n_vertices = len(self.rest)
        self.center = torch.zeros(3)
        middle = self.rest[self.faces].mean(1)
        part = torch.cat([torch.full((len(f),), float(i)) for i, f in enumerate([faces, ball_faces, ball_faces])])
        x, y, z = middle.unbind(-1)
        skin, front = part == 0, z > 0.03
        near = {s: (middle - torch.tensor([g * 0.031, 0.02, 0.085])).norm(dim=-1) < 0.03 for s, g in SIDES.items()}
        none = torch.zeros_like(skin)
        self.regions = {
            "eye_left": part == 1,
            "eye_right": part == 2,
            "iris_left": (part == 1) & (z > 0.087),
            "iris_right": (part == 2) & (z > 0.087),
            "lids_left": skin & near["left"],
            "lids_right": skin & near["right"],
            "face": skin & front & (y < 0.07) & (y > -0.07),
            "lips": skin & front & (x.abs() < 0.03) & ((y + 0.045).abs() < 0.02),
            "neck": skin & (y <= -0.07),
            "scalp": skin & (y > -0.07) & ~(front & (y < 0.07)),
            "mouth": none,
            "teeth": none,
            "ears": none,
        }
        chin = (middle - torch.tensor([0.0, -0.065, 0.07])).norm(dim=-1).argmin()
        self.landmarks = LandmarkEmbedding(chin.repeat(478), torch.full((478, 3), 1 / 3))

    def neutral(self, *batch: int) -> HeadParams:
        shapes = {"shape": (1,), "expression": (1,), "jaw": (3,), "neck": (3,), "eyes": (2, 3), "lids": (2,)}
        return HeadParams(**{k: torch.zeros(*batch, *v) for k, v in shapes.items()})

    def vertices(self, params: HeadParams) -> Tensor:
        rest = self.rest if params.offset is None else self.rest + params.offset
        grown = rest * (1 + 0.1 * params.shape[..., None, :])
        return grown * (1 + params.expression[..., None, :] * torch.tensor([0.0, 0.2, 0.0]))

    def arkit(self, coefficients: Tensor, identity: HeadParams) -> HeadParams:
        return identity.replace(expression=coefficients[..., :1])

    def to(self, device: torch.device | str) -> SphereHead:
        return self


SIDES = {"left": 1.0, "right": -1.0}
