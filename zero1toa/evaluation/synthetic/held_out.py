"""One held-out person with exact pictures from everywhere, as ground truth for the whole pipeline."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.evaluation.synthetic.clips import HELD_OUT_SEED
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.picture import blur
from zero1toa.evaluation.synthetic.subject import SyntheticSubjects, Template, draw_subjects
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import distance_for_fill, intrinsics, orbit


class SyntheticSubject:
    """A person who can be photographed, and rendered in any expression from any camera.

    Made by :func:`held_out_subject`.

    Attributes:
        name: ``synthetic-003``.
        head: the head model it is made from.
        arkit: ARKit coefficients of the portrait ``[52]``.
    """

    def __init__(self, name: str, subjects: SyntheticSubjects, draw: Draw) -> None:
        self.name = name
        self.head = subjects.template.head
        self._subjects = subjects
        smile = float(draw.uniform(0.1, 0.6, 1))
        raised = float(draw.uniform(0.0, 0.3, 1))
        self.arkit = coefficients({"mouthSmileLeft": smile, "mouthSmileRight": 0.9 * smile, "browInnerUp": raised})
        self._azimuth, self._elevation = float(draw.uniform(-10.0, 10.0, 1)), float(draw.uniform(-4.0, 6.0, 1))
        grey = draw.uniform(0.25, 0.8, 1)
        tint = 0.05 * draw.normal(1, 1, 3)
        self._backdrop = (grey + tint, draw.uniform(-0.12, 0.12, 2, 1), draw.normal(1, 10, 10, 1) + 0.3 * tint)

    @torch.no_grad()
    def render(self, arkit: Tensor, viewmats: Tensor, Ks: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Exact pictures on white.

        Args:
            arkit: ARKit coefficients ``[T, 52]``, the whole expression (the portrait's smile is not added).
            viewmats: OpenCV world-to-camera ``[T, 4, 4]`` in metres, in the head model's rest frame.
            Ks: ``[T, 3, 3]`` in pixels.
            size: side of the pictures in pixels.

        Returns:
            Pictures ``[T, H, W, 3]`` in [0, 1] and alphas ``[T, H, W, 1]``, float32.
        """
        device = self._subjects.albedo.device
        inputs = (arkit.to(device)[None], viewmats.to(device)[None], Ks.to(device)[None])
        pictures, alphas, _ = self._subjects.render(*inputs, size, chunk=4)
        return pictures[0], alphas[0]

    @torch.no_grad()
    def landmarks(self, arkit: Tensor) -> Tensor:
        """MediaPipe's landmarks ``[T, 478, 3]`` in metres, in the head model's rest frame, of ``arkit`` ``[T, 52]``."""
        vertices = self._subjects.pose(arkit.to(self._subjects.albedo.device)[None])
        return self._subjects.landmarks(vertices)[0]

    def portrait_camera(self, size: int) -> tuple[Tensor, Tensor]:
        """World-to-camera ``[4, 4]`` and intrinsics ``[3, 3]`` of the portrait; the neck runs out of the picture."""
        rest = self._subjects.rest[0]
        low, high = float(rest[:, 1].min()), float(rest[:, 1].max())
        bottom, top = low + 0.02, high + 0.07
        target = (float(self.head.center[0]), (bottom + top) / 2.0, float(self.head.center[2]))
        distance = float(distance_for_fill(top - bottom, 1.0, 24.0))
        return orbit(self._azimuth, self._elevation, distance, target).to(rest.device), intrinsics(24.0, size)

    @torch.no_grad()
    def portrait(self, size: int = 512) -> NDArray[np.uint8]:
        """A photo: slight smile, nearly from the front, before an out-of-focus wall; ``[size, size, 3]`` uint8."""
        viewmat, K = self.portrait_camera(size)
        picture, alpha = self.render(self.arkit[None], viewmat[None], K[None], size)
        photo = picture - (1.0 - alpha) * (1.0 - self._wall(size))
        return (photo[0].clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu().numpy()

    def _wall(self, size: int) -> Tensor:
        colour, slope, lumps = self._backdrop
        across = torch.linspace(-1.0, 1.0, size, device=colour.device)
        wall = colour + across[None, :, None] * slope[0] + across[:, None, None] * slope[1]
        spots = torch.nn.functional.interpolate(lumps.permute(0, 3, 1, 2), (size, size), mode="bicubic")
        soft = blur(spots.permute(0, 2, 3, 1), torch.full((1,), 3.0, device=colour.device), 8)
        return (wall + 0.05 * soft).clamp(0.02, 0.98)


def held_out_subject(index: int, head: HeadModel | None = None, detail: int = 2) -> SyntheticSubject:
    """A person that no training clip shows, made and rendered on the CPU, so that every machine has the same one.

    Args:
        index: which one, from 0.
        head: head model; the canonical head when None.
        detail: rows added to the Gaussians' lattice: 2 for pictures of 512 pixels. It is part of who the person is.

    Example:
        >>> from zero1toa.evaluation.synthetic import held_out_subject
        >>> photo = held_out_subject(0, detail=0).portrait(64)
        >>> photo.shape
        (64, 64, 3)
    """
    if head is None:
        from zero1toa.head.registry import load_head

        head = load_head("canonical")
    draw = Draw(HELD_OUT_SEED + index)
    with torch.no_grad():
        template = Template(head.to("cpu"), detail, strands=1200 * (1 + detail))
        subjects = draw_subjects(template, draw, 1, odd=0.0, faded=0.0)
    return SyntheticSubject(f"synthetic-{index:03d}", subjects, Draw(HELD_OUT_SEED + index))
