"""Random scenes, in float64 so that every backend starts from the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.render.cameras import intrinsics, orbit


def random_scene(
    generator: torch.Generator, count: int, size: int, batch: tuple[int, ...] = (), cameras: int = 1, channels: int = 3
) -> dict[str, Tensor]:
    """A cloud 0.25 m wide with splats from needles to discs, some of them behind or beside the cameras."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    azimuths = (
        torch.linspace(-50.0, 70.0, cameras, dtype=torch.float64) if cameras > 1 else torch.tensor([20.0]).double()
    )
    viewmats = orbit(azimuths, 10.0, 0.45).expand(*batch, cameras, 4, 4)
    Ks = intrinsics(torch.tensor(45.0, dtype=torch.float64), size).expand(*batch, cameras, 3, 3)
    return {
        "means": 0.12 * normal(count, 3),
        "quats": normal(count, 4),
        "scales": 0.012 * torch.exp(0.8 * normal(count, 3)),
        "opacities": torch.sigmoid(1.5 * normal(count)),
        "colors": torch.rand(*batch, count, channels, generator=generator, dtype=torch.float64),
        "viewmats": viewmats,
        "Ks": Ks,
        "backgrounds": torch.rand(*batch, cameras, channels, generator=generator, dtype=torch.float64),
    }


def as_float32(scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scene in float32."""
    return {name: tensor.float() for name, tensor in scene.items()}


def rounded(scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scene in float64, with values that float32 holds exactly."""
    return {name: tensor.float().double() for name, tensor in scene.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())
