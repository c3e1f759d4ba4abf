"""Natural pictures as odd skins: a model trained on synthetic heads has then seen the texture of photographs."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.colour import to_linear
from zero1toa.evaluation.synthetic.draw import Draw

# Carried inside scikit-image's wheel. Pictures of people are left out on purpose: no real face is trained on.
_PICTURES = (
    "coffee",
    "chelsea",
    "rocket",
    "brick",
    "grass",
    "gravel",
    "hubble_deep_field",
    "coins",
    "immunohistochemistry",
)
_SIDE = 256


@functools.lru_cache(maxsize=1)
def natural_pictures() -> Tensor:
    """Natural pictures ``[K, 3, 256, 256]`` in linear light: those that the installed scikit-image carries."""
    import skimage.data
    from PIL import Image

    found = []
    for name in _PICTURES:
        try:
            picture = np.asarray(getattr(skimage.data, name)())
        except Exception:  # a picture that this release would have to download: no network, no picture
            continue
        square = Image.fromarray(picture).convert("RGB")
        side = min(square.size)
        left, top = (square.width - side) // 2, (square.height - side) // 2
        square = square.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        found.append(torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 255.0)
    return to_linear(torch.stack(found)) if found else torch.zeros(0, 3, _SIDE, _SIDE)


def odd_skin(albedo: Tensor, points: Tensor, draw: Draw, share: float = 0.12) -> Tensor:
    """Blend a random crop of a random picture into the skin of some subjects.

    The picture is projected along a random direction near the front, with random size, so that it lies on the face
    without stretching and runs out at the sides.

    Args:
        albedo: linear light ``[B, N, 3]``.
        points: template positions ``[N, 3]`` in metres.
        draw: random stream.
        share: share of subjects that get one.
    """
    bank = natural_pictures().to(albedo.device)
    batch = len(albedo)
    if len(bank) == 0:
        return albedo
    chosen = bank[draw.integers(len(bank), batch)]
    turn = draw.uniform(-0.6, 0.6, batch, 1)
    across = points[None, :, 0] * torch.cos(turn) + points[None, :, 2] * torch.sin(turn)
    scale = draw.uniform(3.0, 9.0, batch, 1)
    place = torch.stack([across * scale, points[None, :, 1] * scale], dim=-1) + draw.uniform(-0.5, 0.5, batch, 1, 2)
    colour = torch.nn.functional.grid_sample(
        chosen, place[:, None], mode="bilinear", padding_mode="reflection", align_corners=False
    )[:, :, 0].transpose(1, 2)
    wanted = draw.chance(share, batch, 1, 1) * draw.uniform(0.3, 1.0, batch, 1, 1)
    return torch.lerp(albedo, albedo.mean(1, keepdim=True) * 0.3 + 0.7 * colour, wanted)
