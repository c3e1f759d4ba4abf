"""The avatar: 3D Gaussians bound to the triangles of a head (paper sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zero1toa.avatar import rigging

SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic: ``colour = 0.5 + SH_C0 * sh0``, as in 3D Gaussian Splatting files."""

PARAMETERS = ("means", "log_scales", "quats", "opacity_logits", "sh0")
"""Names of the learnt tensors, in the order in which they are stored; all have the N Gaussians first."""


class WorldGaussians(NamedTuple):
    """What a rasteriser needs: ``means [B, N, 3]`` and ``scales [B, N, 3]`` in metres, ``quats [B, N, 4]`` wxyz,
    ``opacities [N]`` in (0, 1), ``colors [N, 3]`` sRGB.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor


class GaussianAvatar(nn.Module):
    """N Gaussians in the local frames of F triangles.

    Colour is one sRGB value per Gaussian, stored as the degree-0 coefficient of spherical harmonics (``sh0``): the
    learning rates of the literature are meant for it and splat files hold it. There is no view dependence, because
    the refined clips are not consistent between views and a higher degree would learn that.

    Attributes:
        means: local positions ``[N, 3]`` in triangle units.
        log_scales: logarithms of local standard deviations ``[N, 3]``.
        quats: local rotations ``[N, 4]`` wxyz, not normalised.
        opacity_logits: ``[N]``.
        sh0: degree-0 coefficients ``[N, 3]``.
        binding: triangle of each Gaussian ``[N]`` int64.
        faces: triangles of the head ``[F, 3]`` int64.
    """

    means: nn.Parameter
    log_scales: nn.Parameter
    quats: nn.Parameter
    opacity_logits: nn.Parameter
    sh0: nn.Parameter
    binding: Tensor
    faces: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], binding: Tensor, faces: Tensor) -> None:
        """Build an avatar from its tensors.

        Args:
            tensors: one tensor for each of :data:`PARAMETERS`.
            binding: ``[N]`` int64, values in [0, F).
            faces: ``[F, 3]`` int64.

        Raises:
            ValueError: if sizes disagree or a binding names no triangle.
        """
        super().__init__()
        count = int(binding.shape[0])
        sizes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), "sh0": (3,)}
        for name in PARAMETERS:
            if tuple(tensors[name].shape) != (count, *sizes[name]):
                raise ValueError(
                    f"{name} has shape {tuple(tensors[name].shape)}, but {count} Gaussians need {(count, *sizes[name])}"
                )
            self.register_parameter(name, nn.Parameter(tensors[name].detach().clone().float()))
        if faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(f"faces has shape {tuple(faces.shape)}, expected [F, 3]")
        if count and not (int(binding.min()) >= 0 and int(binding.max()) < faces.shape[0]):
            raise ValueError(f"bindings must lie in [0, {faces.shape[0]}), the number of triangles")
        self.register_buffer("binding", binding.detach().clone().long())
        self.register_buffer("faces", faces.detach().clone().long())

    def __len__(self) -> int:
        """Number of Gaussians N."""
        return int(self.binding.shape[0])

    @property
    def opacities(self) -> Tensor:
        """Opacities ``[N]`` in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def colors(self) -> Tensor:
        """Colours ``[N, 3]`` sRGB. The optimiser keeps them in [0, 1] by projection after each step; clamping here
        would stop the gradient of a Gaussian that has left the range for good.
        """
        return 0.5 + SH_C0 * self.sh0

    def tensors(self) -> dict[str, Tensor]:
        """Detached tensors by name, :data:`PARAMETERS` and ``binding``; what bundles and checkpoints hold."""
        learnt = {name: getattr(self, name).detach() for name in PARAMETERS}
        return {**learnt, "binding": self.binding}

    def triangle_means(self, values: Tensor) -> Tensor:
        """Means of the Gaussians' values ``[N, D]`` over those of each triangle ``[F, D]``; 0 where there are none."""
        sums = values.new_zeros(len(self.faces), values.shape[1] + 1)
        sums.index_add_(0, self.binding, torch.cat([values, torch.ones_like(values[:, :1])], 1))
        return sums[:, :-1] / sums[:, -1:].clamp_min(1)

    def splats(
        self, posed: Tensor | rigging.TriangleFrames, faces: Tensor | None = None, variance: Tensor | None = None
    ) -> WorldGaussians:
        """Gaussians on a posed head.

        Args:
            posed: vertices ``[B, V, 3]`` (or any leading dimensions), metres, or their triangles' frames.
            faces: triangles ``[F, 3]`` that the bindings refer to; the avatar's own when None.
            variance: added to the squared scales, square metres ``[B, N]``; see :mod:`zero1toa.avatar.smoothing`.

        Returns:
            Means, quaternions and scales with the leading dimensions of ``posed``; opacities and colours without.
        """
        frames = posed
        if isinstance(frames, Tensor):
            frames = rigging.triangle_frames(frames, self.faces if faces is None else faces)
        means, quats, scales = rigging.local_to_global(frames, self.binding, self.means, self.quats, self.log_scales)
        if variance is not None:
            scales = (scales.square() + variance[..., None]).sqrt()
        return WorldGaussians(means, quats, scales, self.opacities, self.colors)

    def render(
        self,
        posed: Tensor | rigging.TriangleFrames,
        viewmats: Tensor,
        Ks: Tensor,
        size: int | tuple[int, int],
        background: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        backend: str = "auto",
        values: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Picture of each of B posed heads in each of its C cameras.

        Args:
            posed: vertices ``[B, V, 3]`` in metres, or frames of triangles, see :meth:`splats`.
            viewmats: OpenCV world-to-camera ``[B, C, 4, 4]``.
            Ks: intrinsics in pixels ``[B, C, 3, 3]``.
            size: side of square pictures, or (width, height), in pixels.
            background: sRGB colour.
            backend: as ``RenderConfig.backend``.
            values: what to draw in place of the colours ``[N, 3]``.
            variance: as in :meth:`splats`.

        Returns:
            Pictures ``[B, C, H, W, 3]``, alphas ``[B, C, H, W, 1]`` and the rasteriser's ``meta``.
        """
        from zero1toa.render.rasterize import rasterize

        width, height = (size, size) if isinstance(size, int) else size
        world = self.splats(posed, variance=variance)
        batch = world.means.shape[:-2]
        colors = (world.colors if values is None else values).expand(*batch, -1, -1).contiguous()
        opacities = world.opacities.expand(*batch, -1).contiguous()
        behind = torch.as_tensor(background, dtype=world.means.dtype, device=world.means.device)
        return rasterize(
            world.means,
            world.quats,
            world.scales,
            opacities,
            colors,
            viewmats,
            Ks,
            width,
            height,
            backgrounds=behind.expand(*viewmats.shape[:-2], 3).contiguous(),
            backend=backend,
        )
