"""Playing an avatar in real time on CUDA: posing, rigging and drawing recorded as one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zero1toa.acceleration import Replay, keep_compiled
from zero1toa.evaluation.playback import WHITE, AvatarPlayer
from zero1toa.render.recordable import rasterize_recordable

_ROOM = 1.5  # places for pairs of splat and tile over those that were needed when there were too few


class LivePlayer:
    """Pictures of an avatar at the pace at which a viewer or a server asks for them.

    The first call with a number of frames compiles, which takes 10 to 20 s, and records.

    Args:
        player: the avatar, on a CUDA device.
        size: side of the pictures in pixels.
        background: sRGB in [0, 1].

    Raises:
        ValueError: if the player is on another device.

    Example:
        >>> live = LivePlayer(AvatarPlayer(bundle, head, "cuda"))  # doctest: +SKIP
        >>> viewmats, Ks = live.player.cameras(30.0, 0.0, live.size, 1)  # doctest: +SKIP
        >>> picture = live(coefficients({"jawOpen": 0.5})[None], viewmats, Ks)[0]  # doctest: +SKIP
    """

    def __init__(self, player: AvatarPlayer, size: int = 512, background: Sequence[float] = WHITE) -> None:
        if player.device.type != "cuda":
            raise ValueError(f"live playing needs a CUDA device, and the player is on {player.device}")
        self.player = player
        self.size = size
        self._background = torch.tensor(list(background), device=player.device)
        keep_compiled()
        self._place = torch.compile(player.place, dynamic=False)
        self._draw = Replay(self._drawn, player.device)
        self._places: dict[int, int] = {}
        # The count comes to the host in the middle of the graph: the host goes on while the picture is being drawn.
        self._counted = torch.zeros((), dtype=torch.int64, pin_memory=True)
        self._counting = torch.cuda.Event(external=True)
        self._uprights: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, arkit: Tensor, viewmats: Tensor, Ks: Tensor, neck: Tensor | None = None) -> Tensor:
        """Draw poses, each in a camera of its own.

        Args:
            arkit: coefficients ``[T, 52]``.
            viewmats: world-to-camera ``[T, 4, 4]``.
            Ks: intrinsics ``[T, 3, 3]`` in pixels of ``size``.
            neck: neck rotations ``[T, 3]`` axis-angle radians; upright by default.

        Returns:
            ``[T, size, size, 3]`` float32 in [0, 1], on the device.
        """
        device, frames = self.player.device, len(arkit)
        turned = self._upright(frames) if neck is None else neck.to(device)
        inputs = arkit.to(device, torch.float32), turned, viewmats.to(device), Ks.to(device)
        places = self._places.setdefault(frames, 2 * frames * len(self.player.bundle.avatar))
        while True:
            pictures = self._draw(*inputs, places)
            self._counting.synchronize()
            if (needed := int(self._counted)) <= places:
                return pictures
            places = self._places[frames] = int(_ROOM * needed)

    def _upright(self, frames: int) -> Tensor:
        """Neck rotations of upright heads, always the same tensor, which is then copied but once."""
        if frames not in self._uprights:
            self._uprights[frames] = torch.zeros(frames, 3, device=self.player.device)
        return self._uprights[frames]

    def _drawn(self, arkit: Tensor, neck: Tensor, viewmats: Tensor, Ks: Tensor, places: int) -> Tensor:
        world = self._place(arkit, neck, viewmats, Ks)
        pictures, _ = rasterize_recordable(
            *world, viewmats, Ks, self.size, self.size, self._background, places, self._tell
        )
        return pictures.clamp(0, 1)

    def _tell(self, pairs: Tensor) -> None:
        self._counted.copy_(pairs, non_blocking=True)
        self._counting.record()
