"""Training clips on the fly: ground truth, the same clip from a half-trained avatar, a reference, and landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.degrade import Degrader
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.expression import draw_poses, gaze, motion
from zero1toa.evaluation.synthetic.picture import damage
from zero1toa.evaluation.synthetic.subject import Template, draw_subjects
from zero1toa.evaluation.synthetic.views import clip_views, reference_views
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import project

KINDS: tuple[str, ...] = ("front", "side", "mouth", "turning")
"""What a clip shows: camera near the front; fixed over 30 degrees aside; mouth wide open; camera front to side."""

HELD_OUT_SEED = 1_000_000
"""Seeds from here on are for testing; training must use smaller ones."""


class SyntheticClips:
    """An endless supply of clips of people that do not exist.

    Args:
        head: the head model they are made from.
        seed: mixes into every draw: two seeds share no identities. Train below :data:`HELD_OUT_SEED`, test from it on.
        device: where clips are made and returned.
        detail: rows added to the Gaussians' lattice; 0 suits 128 pixels, 1 suits 256.
        chunk: pictures drawn at once, which bounds the memory; 0 takes 128 on CUDA and 16 elsewhere.
        blobs: damage by random blobs of colour, a kind that training clips never have, to test generalisation.

    Example:
        >>> from zero1toa.evaluation.synthetic import SyntheticClips
        >>> from zero1toa.head.registry import load_head
        >>> clips = SyntheticClips(load_head("canonical"), seed=0, device="cpu")
        >>> batch = clips.sample(torch.Generator().manual_seed(0), batch=1, frames=2, size=64)
        >>> tuple(batch["truth"].shape)
        (1, 2, 64, 64, 3)
    """

    def __init__(
        self, head: HeadModel, seed: int = 0, device: torch.device | str = "cpu", detail: int = 0, chunk: int = 0,
        blobs: bool = False,
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        self.seed = seed
        self.chunk = chunk or (128 if self.device.type == "cuda" else 16)
        self.blobs = blobs
        with torch.no_grad():
            self.template = Template(head.to(self.device), detail)
            self.degrader = Degrader(self.template)

    @torch.no_grad()
    def sample(self, generator: torch.Generator, batch: int, frames: int, size: int) -> dict[str, Tensor]:
        """Make a batch of clips.

        Args:
            generator: advanced by one draw; with the seed it decides everything.
            batch: B, clips.
            frames: T, frames of a clip.
            size: side of the pictures in pixels, a multiple of 8.

        Returns:
            ``truth`` and ``degraded`` ``[B, T, H, W, 3]``, ``mask`` (alpha of the truth) ``[B, T, H, W, 1]``,
            ``reference`` ``[B, H, W, 3]`` (another expression, camera near the front), ``landmarks``
            ``[B, T, 478, 2]`` and ``reference_landmarks`` ``[B, 478, 2]`` as fractions of the picture: float32, images
            in [0, 1]; ``severity`` ``[B]`` of the damage; ``kind`` ``[B]`` int64, index into :data:`KINDS`.

        Raises:
            ValueError: for a size that is not a positive multiple of 8, or no clips or frames.
        """
        if size < 8 or size % 8 or batch < 1 or frames < 1:
            raise ValueError(
                f"need batch >= 1, frames >= 1 and a size that is a multiple of 8, got {batch}, {frames}, {size}"
            )
        draw = Draw.fork(generator, self.seed, self.device)
        head = self.template.head
        subjects = draw_subjects(self.template, draw, batch)
        kind = draw.integers(len(KINDS), batch)
        views = clip_views(draw, head, kind, frames, size)
        portrait_views = reference_views(draw, head, batch, size)
        arkit = motion(draw, batch, frames, wide=(kind == 2).float(), still=(kind == 3).float())
        calm = draw.uniform(0.0, 1.3, batch) * draw.chance(0.65, batch)
        portrait_arkit = (draw_poses(draw, batch, calm) + 0.4 * gaze(draw, batch, 0.5)).clamp(0.0, 1.0)
        neck = self._nods(draw, batch, frames, kind)
        tint = draw.uniform(0.75, 1.0, batch, 3)
        background = torch.where((draw.uniform(0.0, 1.0, batch) < 0.04)[:, None], tint, torch.ones_like(tint))

        truth, mask, marks = subjects.render(arkit, views.viewmats, views.Ks, size, background, neck, self.chunk)
        portrait, alpha, portrait_marks = subjects.render(
            portrait_arkit[:, None], portrait_views.viewmats, portrait_views.Ks, size, background, None, self.chunk
        )
        severity = draw.uniform(0.2, 1.0, batch)
        avatars = self.degrader.avatars(
            subjects, portrait[:, 0], alpha[:, 0], portrait_arkit, portrait_views.viewmats[:, 0],
            portrait_views.Ks[:, 0], severity, draw, self.blobs,
        )  # fmt: skip
        raw = avatars.render(arkit, views.viewmats, views.Ks, size, background, neck, self.chunk)
        return {
            "truth": truth,
            "degraded": damage(raw, severity, draw),
            "mask": mask,
            "reference": portrait[:, 0],
            "reference_landmarks": project(portrait_marks, portrait_views.viewmats, portrait_views.Ks)[0][:, 0] / size,
            "landmarks": project(marks, views.viewmats, views.Ks)[0] / size,
            "severity": severity,
            "kind": kind,
        }

    def _nods(self, draw: Draw, batch: int, frames: int, kind: Tensor) -> Tensor:
        """Small neck rotations ``[B, T, 3]`` in a third of the clips with a fixed camera."""
        time = torch.linspace(0.0, 1.0, frames, device=self.device)[None, :, None]
        limits = torch.tensor([0.10, 0.16, 0.07], device=self.device)
        start, end = draw.normal(batch, 1, 3) * limits, draw.normal(batch, 1, 3) * limits
        moves = draw.chance(0.33, batch) * (kind != 3).float()
        return torch.lerp(start, end, time).clamp(-0.3, 0.3) * moves[:, None, None]
