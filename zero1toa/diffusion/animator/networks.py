"""The networks of an animator: built, filled from the installed checkpoints, brought to their device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zero1toa import assets
from zero1toa.diffusion.animator import layout
from zero1toa.diffusion.animator.autoencoder import build_autoencoder
from zero1toa.diffusion.animator.cache import load_module
from zero1toa.diffusion.animator.config import AnimatorConfig
from zero1toa.diffusion.animator.denoiser import Denoiser
from zero1toa.diffusion.animator.guiders import LandmarkGuider, PoseGuider
from zero1toa.diffusion.animator.image_encoder import ImageEncoder
from zero1toa.diffusion.animator.reference import ReferenceNet
from zero1toa.errors import AssetError

Files = Mapping[str, tuple[str, ...]]
"""For each network, the assets that hold it together; of keys that several hold, the last one's count."""

LAYOUTS: Mapping[str, layout.Layout] = {
    "denoiser": layout.UNET,
    "reference": layout.REFERENCE,
    "guider": layout.GUIDER,
    "autoencoder": layout.AUTOENCODER,
    "image_encoder": layout.IMAGE_ENCODER,
}


@dataclasses.dataclass
class AnimatorNetworks:
    """The networks of an animator.

    Attributes:
        denoiser: predicts v.
        reference: portrait latents to reference features.
        guider: landmark maps to landmark features.
        autoencoder: ``diffusers.AutoencoderKL``.
        image_encoder: portrait to prompt tokens; None for an animator without an image prompt.
    """

    denoiser: Denoiser
    reference: ReferenceNet
    guider: nn.Module
    autoencoder: Any
    image_encoder: ImageEncoder | None = None

    def items(self) -> dict[str, nn.Module]:
        """Those that there are, by name."""
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: network for name, network in every.items() if network is not None}

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Bring all of them to where and in which type they compute, ready for inference."""
        for network in self.items().values():
            nn.Module.to(network, device, dtype)  # diffusers' own warns of parts that it would keep in float32: none
            network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_networks(config: AnimatorConfig) -> AnimatorNetworks:
    """Networks without memory for their weights, on the ``meta`` device."""
    with torch.device("meta"):
        first = config.denoiser.channels[0]
        return AnimatorNetworks(
            denoiser=Denoiser(config.denoiser),
            reference=ReferenceNet(config.reference),
            guider=LandmarkGuider(first) if config.pose_guider is None else PoseGuider(config.pose_guider),
            autoencoder=build_autoencoder(config.autoencoder),
            image_encoder=None if config.image_encoder is None else ImageEncoder(config.image_encoder),
        )


def missing_assets(files: Files) -> list[assets.Asset]:
    """Assets that a backbone needs and this machine does not have."""
    needed = dict.fromkeys(name for names in files.values() for name in names)
    return [asset for asset in map(assets.get, needed) if asset.find() is None]


def load_networks(backbone: str, config: AnimatorConfig, files: Files) -> AnimatorNetworks:
    """Networks filled from the installed checkpoints.

    Args:
        backbone: registry name.
        config: sizes.
        files: assets of each network.

    Raises:
        AssetError: naming every file that is not installed, or the network and keys where one does not fit.
    """
    if missing := missing_assets(files):
        commands = "; ".join(f"zero1toa assets install {asset.name} {asset.download}" for asset in missing)
        total = len({name for names in files.values() for name in names})
        raise AssetError(
            f"the backbone '{backbone}' lacks {len(missing)} of its {total} files in {assets.home()}: fetch each from "
            f"where 'zero1toa assets' says, then {commands}"
        )
    networks = build_networks(config)
    for name, network in networks.items().items():
        found = [assets.get(asset).find() for asset in files[name]]
        load_module(network, [file for file in found if file is not None], LAYOUTS[name], f"{name} of {backbone}")
    return networks
