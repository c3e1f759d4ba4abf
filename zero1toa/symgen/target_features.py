"""What the perceptual term finds in refined clips, kept from iteration to iteration.

A clip is trained on for some thirty iterations before it is refined anew, and LPIPS looks at the renders and at the
clip in each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zero1toa.types import SampleKey

_SHARE = 8  # an eighth of the memory that is free when training begins


class TargetFeatures:
    """Features of the clips' frames, as far as memory allows: of clips that come later, none are kept.

    Args:
        find: parts ``[B, ...]`` of frames ``[B, H, W, 3]`` in [0, 1], or None where there is nothing to keep.
        at_once: frames that are always looked at together, B.
        bound: bytes that they may take; by default an eighth of what is free on the GPU.
    """

    def __init__(self, find: Callable[[Tensor], list[Tensor] | None], at_once: int, bound: int | None = None) -> None:
        self._find = find
        self._at_once = at_once
        self._bound = bound
        self._kept: dict[SampleKey, list[Tensor]] = {}
        self._of_frame = 0  # bytes

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(part.nbytes for parts in self._kept.values() for part in parts)

    def of(self, key: SampleKey, clip: Tensor, frames: Tensor) -> list[Tensor] | None:
        """Parts of some frames of a clip, or None: then :meth:`find` is of no use or has no room.

        Args:
            key: the clip's.
            clip: ``[T, H, W, 3]`` uint8, the same as before unless it was forgotten.
            frames: numbers of the frames ``[B]``.
        """
        if key not in self._kept and not self._keep(key, clip):
            return None
        return [part.index_select(0, frames) for part in self._kept[key]]

    def forget(self, key: SampleKey) -> None:
        """Drop what is kept of a clip: it is another one now."""
        self._kept.pop(key, None)

    def _keep(self, key: SampleKey, clip: Tensor) -> bool:
        if self._bound is None:
            self._bound = torch.cuda.mem_get_info(clip.device)[0] // _SHARE if clip.is_cuda else 0
        taken = self.nbytes
        if taken + len(clip) * self._of_frame > self._bound:
            return False
        chunks = []
        for first in range(0, len(clip), self._at_once):
            # Always as many, the last one again: other numbers would be compiled anew.
            places = torch.arange(first, first + self._at_once, device=clip.device).clamp_max(len(clip) - 1)
            found = self._find(clip.index_select(0, places).float() / 255)
            if found is None:
                self._bound = -1
                return False
            chunks.append([part[: len(clip) - first] for part in found])
            self._of_frame = sum(part.nbytes for part in found) // self._at_once
            if taken + len(clip) * self._of_frame > self._bound:
                return False
        self._kept[key] = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        return True
