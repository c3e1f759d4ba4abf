"""Posed heads of all clips, computed once: the identity is not optimised, so a clip's triangles never change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zero1toa.acceleration import send
from zero1toa.avatar.facing import facing
from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.rigging import TriangleFrames, triangle_frames
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import ClipSpec, SampleKey


class PosedClips:
    """Renders frames of clips.

    Attributes:
        background: sRGB colour behind the head ``[3]``, on the device.

    Args:
        head: the head model, on the device to render on.
        identity: shape and offset of the avatar, no batch dimension, on the same device.
        clips: specifications, fully open.
        background: sRGB colour behind the head.
        backend: rasteriser, as ``RenderConfig.backend``.
    """

    def __init__(
        self,
        head: HeadModel,
        identity: HeadParams,
        clips: Iterable[ClipSpec],
        background: Sequence[float],
        backend: str,
    ) -> None:
        self.head = head
        self.identity = identity
        self.clips = {spec.key: spec for spec in clips}
        self.backend = backend
        self._device = head.faces.device
        self.background = torch.tensor(tuple(background), dtype=torch.float32, device=self._device)
        self._vertices: dict[SampleKey, Tensor] = {}
        self._frames: dict[SampleKey, TriangleFrames] = {}

    def vertices(self, key: SampleKey) -> Tensor:
        """Posed vertices ``[T, V, 3]`` in metres, or ``[1, V, 3]`` for a clip whose expression is fixed."""
        if key not in self._vertices:
            spec = self.clips[key]
            poses = {name: getattr(spec, name) for name in ("expression", "jaw", "neck", "eyes", "lids")}
            if all((value == value[:1]).all() for value in poses.values()):
                poses = {name: value[:1] for name, value in poses.items()}
            tensors = {name: torch.from_numpy(np.array(value)).to(self._device) for name, value in poses.items()}
            with torch.no_grad():
                self._vertices[key] = self.head.vertices(self.identity.replace(**tensors))
        return self._vertices[key]

    def triangles(self, key: SampleKey, frames: Sequence[int]) -> TriangleFrames:
        """Frames of the posed triangles in some frames of a clip, or in all of one whose expression is fixed."""
        if key not in self._frames:
            with torch.no_grad():
                self._frames[key] = triangle_frames(self.vertices(key), self.head.faces)
        posed = self._frames[key]
        return posed if len(posed.center) == 1 else posed.select(send(list(frames), self._device))

    def cameras(self, key: SampleKey, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """World-to-camera ``[F, 4, 4]`` and intrinsics ``[F, 3, 3]`` of some frames of a clip."""
        spec, rows = self.clips[key], list(frames)
        return send(spec.viewmats[rows], self._device), send(spec.Ks[rows], self._device)

    def render(
        self, avatar: GaussianAvatar, key: SampleKey, frames: Sequence[int], values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Pictures of some frames of a clip.

        Args:
            avatar: the Gaussians.
            key: the clip.
            frames: indices into the fully open clip, F of them.
            values: what to draw in place of the colours ``[N, 3]``.

        Returns:
            Pictures ``[F, H, W, 3]`` and alphas ``[F, H, W, 1]`` in [0, 1], and the rasteriser's dictionary.
        """
        viewmats, Ks = self.cameras(key, frames)
        posed = self.triangles(key, frames)
        if len(posed.center) == 1:  # one set of Gaussians, F cameras
            viewmats, Ks = viewmats[None], Ks[None]
        else:  # F sets of Gaussians, one camera each
            viewmats, Ks = viewmats[:, None], Ks[:, None]
        pictures, alphas, meta = avatar.render(
            posed, viewmats, Ks, self.clips[key].size, self.background, self.backend, values
        )
        return pictures.flatten(0, 1), alphas.flatten(0, 1), meta

    def facing(self, key: SampleKey) -> Tensor:
        """Weights ``[T, F]`` of what the frames of a clip show of each triangle, by its angle; 1 seen squarely."""
        viewmats, _ = self.cameras(key, range(len(self.clips[key])))
        vertices = self.vertices(key).expand(len(viewmats), -1, -1)
        return facing(self.head.faces, vertices, viewmats)

    @torch.no_grad()
    def mean_of(self, avatar: GaussianAvatar, key: SampleKey, frame: int, values: Tensor) -> Tensor:
        """Mean of a value ``[N]`` of the Gaussians at each pixel of a frame ``[1, H, W, 1]``; 1 beside the head."""
        viewmats, Ks = self.cameras(key, [frame])
        posed = self.triangles(key, [frame])
        size, drawn = self.clips[key].size, values[:, None].expand(-1, 3)
        pictures, _, _ = avatar.render(posed, viewmats[None], Ks[None], size, (1, 1, 1), self.backend, drawn)
        return pictures[0, :, :, :, :1]

    @torch.no_grad()
    def pictures(self, avatar: GaussianAvatar, key: SampleKey, frames: Sequence[int], batch: int) -> Tensor:
        """Pictures ``[F, H, W, 3]`` uint8 of some frames, rendered ``batch`` at a time without gradients."""
        parts = []
        for start in range(0, len(frames), batch):
            picture, _, _ = self.render(avatar, key, frames[start : start + batch])
            parts.append((picture.clamp(0, 1) * 255).round().to(torch.uint8))
        return torch.cat(parts)
