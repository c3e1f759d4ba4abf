"""Losses of the reconstruction (paper eq. 3): image terms, and GaussianAvatars' two regularisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.perceptual import Perceptual
from zero1toa.config import LossConfig


def position_loss(means: Tensor, threshold: float, visible: Tensor | None = None) -> Tensor:
    """Mean of ``relu(|mu| - threshold)``: Gaussians that leave their triangle (GaussianAvatars eq. 4).

    Args:
        means: local positions ``[N, 3]`` in triangle units.
        threshold: free distance from the triangle's centre, in triangle units.
        visible: Gaussians drawn in this step ``[N]`` bool; all when None. An empty selection gives 0.
    """
    return _mean(functional.relu(means.norm(dim=-1) - threshold), visible)


def scaling_loss(log_scales: Tensor, threshold: float, visible: Tensor | None = None) -> Tensor:
    """Mean of ``|relu(exp(log_scale) - threshold)|_2``: Gaussians that outgrow their triangle (GaussianAvatars eq. 5).

    Args:
        log_scales: logarithms of local standard deviations ``[N, 3]``, in triangle units.
        threshold: free scale in triangle units.
        visible: Gaussians drawn in this step ``[N]`` bool; all when None. An empty selection gives 0.
    """
    return _mean(functional.relu(log_scales.exp() - threshold).norm(dim=-1), visible)


def _mean(values: Tensor, visible: Tensor | None) -> Tensor:
    # A mean over nothing is NaN, and indexing by a mask stops a GPU: hence the weights.
    if visible is None:
        return values.sum() / max(values.shape[0], 1)
    weights = visible.to(values)
    return (values * weights).sum() / weights.sum().clamp_min(1)


def drawn(radii: Tensor) -> Tensor:
    """Gaussians ``[N]`` bool that at least one picture shows, of the rasteriser's radii ``[..., C, N, 2]``."""
    return (radii > 0).all(-1).flatten(0, -2).any(0)


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """The weighted sum ``total`` and its unweighted terms, all scalars."""

    total: Tensor
    terms: dict[str, Tensor]


class ReconstructionLoss:
    """The weighted sum of all terms.

    Attributes:
        perceptual: the perceptual term, which knows its kind and the fallback it took.
    """

    def __init__(self, config: LossConfig, device: torch.device | str = "cpu") -> None:
        """Choose the perceptual term.

        Raises:
            ConfigError: for an unknown ``perceptual_kind``.
            AssetError: if it is ``lpips`` and the VGG weights are not installed.
        """
        self.config = config
        self.perceptual = Perceptual(config.perceptual_kind if config.perceptual > 0 else "none", device)

    def __call__(
        self,
        renders: Tensor,
        targets: Tensor,
        avatar: GaussianAvatar,
        visible: Tensor | None = None,
        alphas: Tensor | None = None,
        mattes: Tensor | None = None,
        known: Sequence[Tensor] | None = None,
    ) -> LossTerms:
        """Loss of one training step.

        Args:
            renders: ``[..., H, W, 3]``.
            targets: the same shape, sRGB in [0, 1].
            avatar: for the regularisers.
            visible: Gaussians drawn ``[N]`` bool, see :func:`drawn`.
            alphas: rendered alphas ``[..., H, W, 1]``; used with ``mattes`` only.
            mattes: portrait's matte ``[..., H, W, 1]`` in [0, 1]; None for clips that have none.
            known: what the perceptual term has found in these targets before.
        """
        config = self.config
        weighted = {"l1": (config.l1, (renders - targets).abs().mean()), **self._regularisers(avatar, visible)}
        if self.perceptual.kind != "none":
            weighted["perceptual"] = (config.perceptual, self.perceptual(renders, targets, known))
        if alphas is not None and mattes is not None:
            weighted["alpha"] = (config.alpha, (alphas - mattes).abs().mean())
        return _sum(weighted)

    def regularised(
        self, name: str, weight: float, term: Tensor, avatar: GaussianAvatar, visible: Tensor | None = None
    ) -> LossTerms:
        """Another image term in the place of those of :meth:`__call__`, beside the same regularisers.

        Args:
            name: of the term.
            weight: its weight.
            term: scalar.
            avatar: for the regularisers.
            visible: Gaussians drawn ``[N]`` bool, see :func:`drawn`.
        """
        return _sum({name: (weight, term), **self._regularisers(avatar, visible)})

    def _regularisers(self, avatar: GaussianAvatar, visible: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        config = self.config
        return {
            "position": (config.position, position_loss(avatar.means, config.position_threshold, visible)),
            "scaling": (config.scaling, scaling_loss(avatar.log_scales, config.scaling_threshold, visible)),
        }


def _sum(weighted: dict[str, tuple[float, Tensor]]) -> LossTerms:
    total = torch.stack([weight * term for weight, term in weighted.values()]).sum()
    return LossTerms(total, {name: term.detach() for name, (_, term) in weighted.items()})
