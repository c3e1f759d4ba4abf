"""Round Gaussians at points in space, added to an avatar."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.avatar.gaussians import PARAMETERS, SH_C0, GaussianAvatar
from zero1toa.avatar.rigging import points_to_local, triangle_frames


class RoundGaussians(NamedTuple):
    """Round Gaussians: their triangles ``[P]``, centres ``[P, 3]`` and deviations ``[P]`` in metres, opacities ``[P]``,
    colours ``[P, 3]``.
    """

    binding: Tensor
    points: Tensor
    sigma: NDArray[np.float64]
    opacity: NDArray[np.float64]
    colors: NDArray[np.float32]

    def only(self, chosen: NDArray[np.bool_]) -> RoundGaussians:
        """Those that are ``chosen`` ``[P]``."""
        index = torch.from_numpy(np.flatnonzero(chosen)).to(self.binding.device)
        return RoundGaussians(
            self.binding[index], self.points[index], self.sigma[chosen], self.opacity[chosen], self.colors[chosen]
        )


def extended(avatar: GaussianAvatar, posed: Tensor, *parts: RoundGaussians) -> GaussianAvatar:
    """The avatar with more Gaussians behind its own.

    Args:
        avatar: whose Gaussians come first.
        posed: vertices on which the others' centres lie ``[V, 3]``, metres.
        parts: the others.
    """
    frames = triangle_frames(posed, avatar.faces)
    tensors = {name: [getattr(avatar, name).detach()] for name in PARAMETERS}
    bindings = [avatar.binding]
    for binding, points, sigma, opacity, colors in parts:
        local = torch.from_numpy(sigma).to(points) / frames.scale[binding]
        tensors["means"].append(points_to_local(frames, binding, points))
        tensors["log_scales"].append(local.log()[:, None].expand(-1, 3))
        tensors["quats"].append(points.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4))
        tensors["opacity_logits"].append(torch.logit(torch.from_numpy(opacity).to(points)))
        tensors["sh0"].append((torch.from_numpy(colors).to(points) - 0.5) / SH_C0)
        bindings.append(binding)
    joined = {name: torch.cat(values) for name, values in tensors.items()}
    return GaussianAvatar(joined, torch.cat(bindings), avatar.faces).to(posed.device)
