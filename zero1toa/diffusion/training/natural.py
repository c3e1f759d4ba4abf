"""Natural picture crops for the autoencoder, from the images that scikit-image and scikit-learn carry.

Synthetic heads alone would teach it neither skin nor hair nor cloth. A dozen pictures, varied in scale, orientation
and colour, are enough for an autoencoder of this stride; the astronaut's portrait is kept out, to measure on.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_FILES = {
    "skimage": (
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/motorcycle_left.png",
        "data/ihc.png",
        "data/retina.jpg",
        "data/color.png",
        "data/camera.png",
        "data/coins.png",
        "data/brick.png",
        "data/grass.png",
        "data/gravel.png",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
_HELD_OUT = "data/astronaut.png"


def _open(package: str, name: str, side: int) -> Tensor | None:
    """A carried picture as a square ``[3, side, side]`` uint8, or None if the package or the file is not there."""
    from PIL import Image, ImageOps

    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


class NaturalImages:
    """Random crops of the carried pictures, made on the device.

    Attributes:
        names: the pictures that were found; may be empty where neither library is installed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.names: list[str] = []
        stacks: list[Tensor] = []
        for package, files in _FILES.items():
            for name in files:
                picture = _open(package, name, 512)
                if picture is not None:
                    self.names.append(name)
                    stacks.append(picture)
        # Two scales, so that a crop is never shrunk by more than half and does not alias.
        self._levels: list[Tensor] = []
        if stacks:
            fine = torch.stack(stacks)
            coarse = F.avg_pool2d(fine.float(), 2).round().to(torch.uint8)
            self._levels = [fine.to(device), coarse.to(device)]

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Draw crops ``[count, 3, size, size]`` float32 in [0, 1].

        Each is turned, flipped, scaled, mixed in colour and given a gamma at random.

        Args:
            generator: on the device of the pictures.
            count: number of crops; half from each scale.
            size: side in pixels.

        Raises:
            RuntimeError: if no picture was found.
        """
        if not self._levels:
            raise RuntimeError("neither scikit-image nor scikit-learn carries its pictures here")
        parts = [count - count // 2, count // 2]
        pairs = zip(self._levels, parts, strict=True)
        return torch.cat([_crop(level, generator, part, size) for level, part in pairs if part])


def _crop(pictures: Tensor, generator: torch.Generator, count: int, size: int) -> Tensor:
    device, side = pictures.device, pictures.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    index = torch.randint(len(pictures), (count,), generator=generator, device=device)
    scale = size / side * (0.8 + uniform(count))  # crop side over picture side
    scale = scale.clamp(max=0.7)
    angle = (uniform(count) - 0.5) * 0.7
    flip = (uniform(count) < 0.5).float() * 2 - 1
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    room = 1 - (cosine.abs() + sine.abs())
    center = (uniform(count, 2) * 2 - 1) * room.clamp(min=0)[:, None]
    rows = [torch.stack([cosine * flip, -sine, center[:, 0]], -1), torch.stack([sine * flip, cosine, center[:, 1]], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 3, size, size], align_corners=False)
    crops = F.grid_sample(pictures[index].float() / 255, grid, padding_mode="reflection", align_corners=False)

    mix = torch.eye(3, device=device) + 0.15 * (uniform(count, 3, 3) - 0.5)
    mix = mix / mix.sum(-1, keepdim=True)
    crops = torch.einsum("nij,njhw->nihw", mix, crops).clamp(1e-4, 1)
    gamma = torch.exp((uniform(count) - 0.5) * 0.9)
    return crops ** gamma[:, None, None, None]


def held_out(size: int) -> Tensor | None:
    """Tiles ``[N, 3, size, size]`` in [0, 1] of the portrait that training never sees, or None if it is not there."""
    picture = _open("skimage", _HELD_OUT, 512)
    if picture is None:
        return None
    tiles = (picture.float() / 255).unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()
