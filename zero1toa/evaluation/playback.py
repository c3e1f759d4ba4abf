"""Playing an avatar: ARKit coefficients and a camera in, pictures out. What every command that shows one uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from zero1toa.avatar.bundle import Bundle
from zero1toa.avatar.eye_region import eye_triangles
from zero1toa.avatar.gaussians import WorldGaussians
from zero1toa.avatar.smoothing import lacking_variance, pixel_size
from zero1toa.head.arkit import ARKIT_NAMES
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import distance_for_fill, intrinsics, orbit, resize_intrinsics

WHITE = (1.0, 1.0, 1.0)
FOVY = 24.0  # degrees; about a portrait lens, so that faces look natural
FILL = 0.80  # share of the picture's height that head, hair and neck take


class AvatarPlayer:
    """An avatar ready to be posed and seen.

    Attributes:
        bundle: the avatar.
        head: its head model.
        center: point that the camera orbits ``[3]``, metres: middle of the neutral head with its hair.
        height: height of the neutral head with hair and visible neck, metres.
    """

    def __init__(self, bundle: Bundle, head: HeadModel, device: torch.device | str = "cpu", backend: str = "auto"):
        """Prepare an avatar.

        Args:
            bundle: from :func:`zero1toa.avatar.bundle.read_bundle`.
            head: the head model it was made with.
            device: where to render.
            backend: rasteriser, as ``RenderConfig.backend``.
        """
        self.bundle = bundle
        self.device = torch.device(device)
        self.head = head.to(self.device)
        self._avatar = bundle.avatar.to(self.device).eval()
        self._backend = backend
        self._chunk = 16 if self.device.type == "cuda" else 4
        self._portrait = bundle.params.to(self.device)
        self._trained, self._trained_pixel = self._training()
        rest = self.pose(torch.zeros(1, len(ARKIT_NAMES)))
        low, high = self._extent(rest)
        self.height = float(high[1] - low[1])
        self.center = (low + high) / 2
        self.center[0] = 0.0

    def pose(self, arkit: Tensor, neck: Tensor | None = None) -> HeadParams:
        """Head parameters of the avatar's identity at ARKit coefficients.

        Args:
            arkit: ``[T, 52]``.
            neck: neck rotations ``[T, 3]`` axis-angle radians; upright by default.
        """
        arkit = arkit.to(self.device, torch.float32)
        turned = torch.zeros(len(arkit), 3, device=self.device) if neck is None else neck.to(self.device)
        return self.head.arkit(arkit, self.identity.replace(neck=turned))

    def place(self, arkit: Tensor, neck: Tensor, viewmats: Tensor, Ks: Tensor) -> WorldGaussians:
        """The Gaussians of T poses, given as to :meth:`pose`, for a camera each ``[T, 4, 4]``, ``[T, 3, 3]``."""
        variance = self._variance(viewmats[:, None], Ks[:, None])
        return self._avatar.splats(self.head.vertices(self.pose(arkit, neck)), variance=variance)

    @property
    def identity(self) -> HeadParams:
        """The avatar's head at rest, no batch dimension: the shape and hair of its portrait."""
        rest = self.head.neutral()
        return rest.replace(shape=self._portrait.shape, offset=self._portrait.offset, model=self._portrait.model)

    def cameras(self, azimuth: ArrayLike, elevation: ArrayLike, size: int, frames: int) -> tuple[Tensor, Tensor]:
        """Orbiting cameras that frame the whole head.

        Args:
            azimuth: degrees, one or ``[T]``; + towards the subject's left.
            elevation: degrees, one or ``[T]``; + up.
            size: side of the picture in pixels.
            frames: T.

        Returns:
            World-to-camera ``[T, 4, 4]`` and intrinsics ``[T, 3, 3]``.
        """
        angles = [
            torch.as_tensor(np.broadcast_to(np.asarray(a, np.float32), frames).copy()) for a in (azimuth, elevation)
        ]
        distance = distance_for_fill(self.height, FILL, FOVY)
        viewmats = orbit(angles[0], angles[1], distance, self.center.cpu())
        return viewmats.to(self.device), intrinsics(FOVY, size).expand(frames, 3, 3).to(self.device)

    def render(
        self,
        arkit: ArrayLike,
        azimuth: ArrayLike = 0.0,
        elevation: ArrayLike = 0.0,
        size: int = 512,
        background: Sequence[float] | None = WHITE,
        neck: ArrayLike | None = None,
    ) -> NDArray[np.uint8]:
        """Pictures of a motion.

        Args:
            arkit: coefficients ``[T, 52]``.
            azimuth: camera azimuth in degrees, one or ``[T]``.
            elevation: camera elevation in degrees, one or ``[T]``.
            size: side in pixels.
            background: sRGB in [0, 1]; None gives straight alpha.
            neck: neck rotations ``[T, 3]`` axis-angle radians.

        Returns:
            ``[T, size, size, 3]`` uint8, or 4 channels without a background.
        """
        return np.stack(list(self.frames(arkit, azimuth, elevation, size, background, neck)))

    def frames(
        self,
        arkit: ArrayLike,
        azimuth: ArrayLike = 0.0,
        elevation: ArrayLike = 0.0,
        size: int = 512,
        background: Sequence[float] | None = WHITE,
        neck: ArrayLike | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """The pictures of :meth:`render` one by one, so that a long video never lies in memory."""
        weights = torch.as_tensor(np.asarray(arkit, np.float32))
        turns = None if neck is None else torch.as_tensor(np.asarray(neck, np.float32))
        viewmats, Ks = self.cameras(azimuth, elevation, size, len(weights))
        for start in range(0, len(weights), self._chunk):
            part = slice(start, start + self._chunk)
            pose, turn = weights[part], None if turns is None else turns[part]
            if (pose == pose[:1]).all() and (turn is None or (turn == turn[:1]).all()):
                pose, turn = pose[:1], None if turn is None else turn[:1]  # only the camera moves
            yield from self._draw(self.pose(pose, turn), viewmats[part], Ks[part], size, background)

    def posed_frames(
        self,
        params: HeadParams,
        azimuth: ArrayLike = 0.0,
        elevation: ArrayLike = 0.0,
        size: int = 512,
        background: Sequence[float] | None = WHITE,
    ) -> Iterator[NDArray[np.uint8]]:
        """The pictures of a motion in the head model's own coefficients, one by one.

        Args:
            params: expression and pose of T frames on :attr:`identity`.
            azimuth: as in :meth:`render`, like the others.
            elevation: see there.
            size: see there.
            background: see there.
        """
        moving = ("expression", "jaw", "neck", "eyes", "lids")
        frames = len(params.expression)
        viewmats, Ks = self.cameras(azimuth, elevation, size, frames)
        for start in range(0, frames, self._chunk):
            part = slice(start, start + self._chunk)
            some = params.replace(**{name: getattr(params, name)[part] for name in moving})
            yield from self._draw(some.to(self.device), viewmats[part], Ks[part], size, background)

    def portrait_view(self, size: int, background: Sequence[float] | None = WHITE) -> NDArray[np.uint8]:
        """The avatar from the portrait's own camera with its own expression ``[size, size, 3 or 4]`` uint8."""
        params = self._portrait.map(lambda tensor: tensor[None])
        K = resize_intrinsics(torch.as_tensor(self.bundle.K)[None], self.bundle.size, size)
        viewmat = torch.as_tensor(self.bundle.viewmat)[None]
        return self._draw(params, viewmat.to(self.device), K.to(self.device), size, background)[0]

    @torch.no_grad()
    def _draw(
        self, params: HeadParams, viewmats: Tensor, Ks: Tensor, size: int, background: Sequence[float] | None
    ) -> NDArray[np.uint8]:
        """Pictures of T poses, or of one pose, in T cameras."""
        vertices = self.head.vertices(params)
        axis = 0 if len(vertices) == 1 else 1  # one set of Gaussians with T cameras, or T sets with one each
        pictures, alphas, _ = self._avatar.render(
            vertices,
            viewmats.unsqueeze(axis),
            Ks.unsqueeze(axis),
            size,
            (0.0, 0.0, 0.0) if background is None else background,
            self._backend,
            variance=self._variance(viewmats.unsqueeze(axis), Ks.unsqueeze(axis)),
        )
        pictures, alphas = pictures.flatten(0, 1), alphas.flatten(0, 1).clamp(0, 1)
        if background is None:
            # Over black the colour is premultiplied; straight alpha is what picture files hold.
            pictures = torch.cat([pictures / alphas.clamp(min=1e-4), alphas], dim=-1)
        return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()

    def _training(self) -> tuple[Tensor, float]:
        """Which Gaussians were trained ``[N]``, 0 or 1, and the width in metres of the pixels that they saw."""
        config = self.bundle.config
        trained = torch.ones(len(self._avatar), device=self.device)
        if config.get("avatar", {}).get("keep_margins"):
            trained[eye_triangles(self.head)[self._avatar.binding]] = 0.0
        size = config.get("render", {}).get("size")
        if size is None:  # a bundle that no run has made
            return trained, 0.0
        middle = self.head.vertices(self._portrait).mean(0)
        viewmat, K = (torch.as_tensor(given).to(middle) for given in (self.bundle.viewmat, self.bundle.K))
        return trained, float(pixel_size(viewmat, K, middle)) * self.bundle.size / size

    def _variance(self, viewmats: Tensor, Ks: Tensor) -> Tensor:
        """What Gaussians lack ``[B, N]`` in C cameras for each of B sets ``[B, C, 4, 4]``, ``[B, C, 3, 3]``."""
        shown = pixel_size(viewmats, Ks, self.center).amin(-1, keepdim=True)
        return lacking_variance(self._trained_pixel, shown) * self._trained

    @torch.no_grad()
    def _extent(self, params: HeadParams) -> tuple[Tensor, Tensor]:
        """Box of the visible Gaussians' centres at ``params``; the outermost thousandth is left out as stray."""
        world = self._avatar.splats(self.head.vertices(params))
        means = world.means.reshape(-1, 3)[world.opacities > 0.1]
        ordered = means.sort(dim=0).values
        trim = len(ordered) // 1000
        return ordered[trim], ordered[len(ordered) - 1 - trim]
