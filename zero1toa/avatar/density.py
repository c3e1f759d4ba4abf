"""Density control that knows the binding: clone, split and prune without ever emptying a triangle.

After GaussianAvatars sec. 3.3: children inherit their parent's triangle, and the last Gaussian of a triangle stays.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from zero1toa.avatar import quaternion
from zero1toa.avatar.gaussians import PARAMETERS, GaussianAvatar
from zero1toa.avatar.optimizer import AvatarOptimizer
from zero1toa.config import DensityConfig

SPLIT_SHRINK = 1.6
"""Scale of a split Gaussian over its two children's (3D Gaussian Splatting: 0.8 times their number)."""


class ScreenGradients:
    """Mean screen-space gradient of every Gaussian over the pictures it was drawn in.

    Attributes:
        total: sum of gradient lengths ``[N]``.
        seen: number of pictures ``[N]``.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros(count, device=device)
        self.seen = torch.zeros(count, device=device)

    @torch.no_grad()
    def add(self, gradient: Tensor, radii: Tensor) -> None:
        """Add one backward pass.

        A loss that is a mean over F pictures has gradients F times smaller than one picture's; they are scaled back,
        so that the threshold does not depend on the batch.

        Args:
            gradient: gradient lengths ``[..., C, N]`` in half picture sizes, of ``render.rasterize.screen_gradient``.
            radii: ``[..., C, N, 2]``; both positive where a Gaussian was drawn.
        """
        drawn = (radii > 0).all(-1).flatten(0, -2)
        self.total += (gradient.flatten(0, -2) * drawn).sum(0) * drawn.shape[0]
        self.seen += drawn.sum(0)

    @property
    def mean(self) -> Tensor:
        """Mean over the pictures in which a Gaussian was drawn ``[N]``; 0 for one that never was."""
        return self.total / self.seen.clamp_min(1)


@dataclasses.dataclass(frozen=True)
class DensityChange:
    """What one step of density control did; ``count`` is the number of Gaussians afterwards."""

    cloned: int
    split: int
    pruned: int
    count: int


def is_due(step: int, config: DensityConfig) -> bool:
    """Whether density changes after iteration ``step`` (from 0)."""
    return config.every > 0 and config.start <= step < config.stop and step % config.every == 0


@torch.no_grad()
def change_density(
    avatar: GaussianAvatar,
    optimizer: AvatarOptimizer,
    gradients: ScreenGradients,
    protected: Tensor,
    config: DensityConfig,
    generator: torch.Generator,
) -> DensityChange:
    """Clone, split and prune in place; Adam's moments follow survivors, and newcomers start with none.

    A Gaussian whose mean screen gradient exceeds ``config.gradient`` is split in two when its largest scale exceeds
    ``config.split_scale`` triangle units, and cloned otherwise; each adds one, and where ``config.max_gaussians``
    leaves less room, those with the largest gradients go first. A Gaussian under ``config.min_opacity`` is pruned,
    unless its triangle is protected or it is the most opaque of a triangle that would become empty. Start a new
    :class:`ScreenGradients` afterwards.

    Args:
        avatar: changed in place; its parameters are replaced.
        optimizer: changed in place along with it.
        gradients: statistics over the avatar's present Gaussians.
        protected: triangles that are never pruned ``[F]`` bool (the lids).
        config: thresholds.
        generator: source of the children's places, on CPU, so that one seed gives one result on every device.

    Raises:
        ValueError: if the statistics are of another number of Gaussians.
    """
    count = len(avatar)
    if gradients.total.shape[0] != count:
        raise ValueError(f"statistics of {gradients.total.shape[0]} Gaussians do not fit an avatar of {count}")
    mean = gradients.mean
    room = max(config.max_gaussians - count, 0)
    order = torch.sort(mean, descending=True, stable=True).indices
    growing = order[mean[order] > config.gradient][:room].sort().values
    large = avatar.log_scales[growing].exp().amax(-1) > config.split_scale
    cloned, split = growing[~large], growing[large]

    kept = ~_prunable(avatar, protected, config.min_opacity)
    pruned = int((~kept).sum())
    cloned, split = cloned[kept[cloned]], split[kept[split]]
    kept[split] = False
    children = split.repeat_interleave(2)
    fresh = {name: getattr(avatar, name)[torch.cat([cloned, children])] for name in PARAMETERS}
    if len(children):
        noise = torch.randn(len(children), 3, generator=generator).to(avatar.means)
        turn = quaternion.to_matrix(quaternion.normalize(avatar.quats[children]))
        spread = (turn @ (noise * avatar.log_scales[children].exp())[..., None]).squeeze(-1)
        fresh["means"][len(cloned) :] += spread
        fresh["log_scales"][len(cloned) :] -= torch.log(torch.tensor(SPLIT_SHRINK))
    _replace(avatar, optimizer, kept.nonzero().squeeze(-1), fresh, torch.cat([cloned, children]))
    return DensityChange(len(cloned), len(split), pruned, len(avatar))


def _prunable(avatar: GaussianAvatar, protected: Tensor, min_opacity: float) -> Tensor:
    """Which Gaussians may go ``[N]``: faint, not protected, and not the most opaque of a triangle that would empty."""
    opacity, binding = avatar.opacities, avatar.binding
    faint = (opacity < min_opacity) & ~protected.to(binding.device)[binding]
    # Sorted by triangle and, within it, by opacity: the last of each run is its triangle's most opaque.
    by_opacity = torch.sort(opacity, stable=True).indices
    order = by_opacity[torch.sort(binding[by_opacity], stable=True).indices]
    ordered = binding[order]
    last = torch.ones_like(faint)
    last[:-1] = ordered[1:] != ordered[:-1]
    # If a triangle's most opaque Gaussian is faint, so are the others, and it is the one that stays.
    faint[order[last]] = False
    return faint


def _replace(
    avatar: GaussianAvatar, optimizer: AvatarOptimizer, kept: Tensor, fresh: dict[str, Tensor], parents: Tensor
) -> None:
    """Keep the Gaussians ``kept`` and append ``fresh`` ones, in the avatar and in Adam's state."""
    for group in optimizer.adam.param_groups:
        old = group["params"][0]
        new = nn.Parameter(torch.cat([old.detach()[kept], fresh[group["name"]]]))
        state = optimizer.adam.state.pop(old, None)
        if state:
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.cat([state[key][kept], torch.zeros_like(fresh[group["name"]])])
            optimizer.adam.state[new] = state
        group["params"][0] = new
        setattr(avatar, group["name"], new)
    avatar.binding = torch.cat([avatar.binding[kept], avatar.binding[parents]])
