"""The perceptual term: LPIPS where its VGG weights are installed, structure and edges at several scales elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zero1toa import assets
from zero1toa.acceleration import keep_compiled
from zero1toa.avatar.lpips_half import HalfPrecisionLpips
from zero1toa.errors import AssetError, ConfigError, nearest
from zero1toa.render.ssim import ssim

KINDS = ("auto", "lpips", "structure", "none")
LEVELS = 4
"""Scales of the edge term: full size and three halvings."""


class Perceptual(nn.Module):
    """Distance between pictures that weighs structure over single pixels.

    Attributes:
        kind: what was chosen: ``lpips``, ``structure`` or ``none``.
        fallback: one line that says what stands in for LPIPS, or the empty string.
    """

    def __init__(self, kind: str = "auto", device: torch.device | str = "cpu") -> None:
        """Choose the term; nothing is ever downloaded.

        Args:
            kind: one of :data:`KINDS`.
            device: where LPIPS runs.

        Raises:
            ConfigError: for another kind.
            AssetError: for ``lpips`` without its VGG weights.
        """
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"loss.perceptual_kind='{kind}'{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
        weights = assets.find("vgg16") if kind in ("auto", "lpips") else None
        if kind == "lpips" and weights is None:
            asset = assets.get("vgg16")
            raise AssetError(
                f"loss.perceptual_kind=lpips needs {asset.file}, which is not installed: fetch it from {asset.source} "
                f"and run 'zero1toa assets install vgg16 FILE', or use loss.perceptual_kind=auto"
            )
        missing = kind == "auto" and weights is None
        self.kind = "structure" if missing else "lpips" if kind == "auto" else kind
        self.fallback = f"perceptual loss: {assets.get('vgg16').instead}, because LPIPS has no weights" * missing
        self.network: nn.Module | None = None
        if weights is not None:
            self.network = accelerated(lpips_network(weights), torch.device(device))

    def known(self, targets: Tensor) -> list[Tensor] | None:
        """What :meth:`forward` need not compute again for the same targets ``[B, H, W, 3]``: parts ``[B, ...]``.

        None where that would spare nothing, or the distance has no such parts.
        """
        if isinstance(self.network, HalfPrecisionLpips):
            return self.network.coarse_features(2 * targets.movedim(-1, 1) - 1)
        return None

    def forward(self, renders: Tensor, targets: Tensor, known: Sequence[Tensor] | None = None) -> Tensor:
        """Mean distance, a scalar, of pictures ``[..., H, W, 3]`` in [0, 1].

        Args:
            renders: the pictures.
            targets: what they are compared with.
            known: :meth:`known` of the targets.
        """
        x, y = renders.flatten(0, -4), targets.flatten(0, -4)
        if self.kind == "none":
            return x.new_zeros(())
        if self.network is None:
            return structure(x, y)
        x, y = (2 * v.movedim(-1, 1) - 1 for v in (x, y))
        given = () if known is None else (known,)
        return self.network(x, y, *given).mean()


def structure(x: Tensor, y: Tensor) -> Tensor:
    """Half the dissimilarity (1 - SSIM) / 2 plus the mean difference of edges over :data:`LEVELS` scales.

    Args:
        x: ``[B, H, W, 3]`` in [0, 1].
        y: the same shape.

    Returns:
        A scalar; 0 for equal pictures, of LPIPS' order of magnitude for different ones.
    """
    edges = x.new_zeros(())
    a, b = x.movedim(-1, 1), y.movedim(-1, 1)
    for level in range(LEVELS):
        if level > 0:
            a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
        difference = a - b
        if min(difference.shape[-2:]) < 2:
            break
        edges = edges + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return 0.25 * (1 - ssim(x, y)) + edges / LEVELS


def accelerated(network: nn.Module, device: torch.device) -> nn.Module:
    """LPIPS on its device; on CUDA compiled, which takes seconds for each size of batch, and in half precision."""
    network = network.to(device)
    if device.type != "cuda":
        return network
    keep_compiled()
    return HalfPrecisionLpips(network)


def lpips_network(weights: Path | None) -> nn.Module:
    """LPIPS (VGG) with the trunk read from ``weights``, which ``lpips`` itself would download; random without them."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's notice about the spelling of "no weights"
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    if weights is not None:
        stored = torch.load(weights, map_location="cpu", weights_only=True)
        # The package cuts VGG's features into slices but keeps their numbers: slice3.12.weight is features.12.weight.
        trunk = {name: stored[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()}
        network.net.load_state_dict(trunk)
    return network.eval().requires_grad_(False)
