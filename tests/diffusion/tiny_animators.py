"""The three portrait animators at the size of the recordings, with recorded or with seeded weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from tests.diffusion import golden
from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
from zero1toa.diffusion.animator.backbone import AnimatorBackbone
from zero1toa.diffusion.animator.checkpoints import convert
from zero1toa.diffusion.animator.config import (
    AnimatorConfig,
    AutoencoderConfig,
    ImageEncoderConfig,
    PoseGuiderConfig,
    UNetConfig,
)
from zero1toa.diffusion.animator.networks import LAYOUTS, AnimatorNetworks, build_networks

NAMES = ("follow_your_emoji", "aniportrait", "echomimic")
_WIDE = {"channels": (32, 64, 32, 32)}
_NARROW = {"channels": (8, 16, 32, 32), "heads": 4, "groups": 4}
_AUTOENCODER = AutoencoderConfig(channels=(8, 8, 16, 16), layers=1, groups=4)
_IMAGE_ENCODER = ImageEncoderConfig(channels=40, hidden=80, layers=2, heads=4, patch=32, projection=24)

CONFIGS = {
    "follow_your_emoji": AnimatorConfig(
        denoiser=UNetConfig(**_WIDE, motion=True, prompt_channels=24, image_channels=40),
        reference=UNetConfig(**_WIDE, prompt_channels=24, image_channels=40),
        image_encoder=_IMAGE_ENCODER,
        autoencoder=_AUTOENCODER,
    ),
    "aniportrait": AnimatorConfig(
        denoiser=UNetConfig(**_NARROW, motion=True, prompt_channels=24),
        reference=UNetConfig(**_NARROW, prompt_channels=24),
        pose_guider=PoseGuiderConfig(channels=8, heads=2, head_channels=12, groups=4),
        image_encoder=_IMAGE_ENCODER,
        autoencoder=_AUTOENCODER,
    ),
    "echomimic": AnimatorConfig(
        denoiser=UNetConfig(**_WIDE, motion=True, prompt_channels=20, prompt_scale=3.0),
        reference=UNetConfig(**_WIDE, prompt_channels=None),
        autoencoder=_AUTOENCODER,
    ),
}


def recorded_name(name: str, network: str) -> str:
    """What the recordings call a network."""
    names = {"denoiser": golden.DENOISER, "reference": golden.REFERENCE, "guider": golden.GUIDER}
    return names[network][name] if network in names else {"autoencoder": "vae"}.get(network, network)


def reference_keys(name: str) -> list[str]:
    """Recorded reference features in the order of a pass."""
    if name == "follow_your_emoji":
        places = [*(f"down_{i}" for i in range(6)), "mid", *(f"up_{i}" for i in range(9))]
        return [f"output/ref_feat/{place}" for place in places]
    blocks = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    blocks += ["mid_block.attentions.0", *(f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3))]
    return [f"output/ref_bank/{block}.transformer_blocks.0" for block in blocks]


def recorded_networks(name: str) -> AnimatorNetworks:
    """Networks with the weights of the recordings."""
    networks = build_networks(CONFIGS[name])
    for network, module in networks.items().items():
        state = golden.weights(name, recorded_name(name, network))
        module.load_state_dict(convert(module, state, LAYOUTS[network], network, []), assign=True)
    return networks


def seeded_networks(name: str) -> AnimatorNetworks:
    """Networks with other weights of the same kind, for where there are no recordings."""
    networks = build_networks(CONFIGS[name])
    for network, module in networks.items().items():
        state = {key: golden.recipe(network, key, list(value.shape)) for key, value in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
    return networks


def assemble(name: str, networks: AnimatorNetworks, spec: dict[str, Any] | None = None, **options: Any) -> Any:
    """The backbone over given networks; ``spec`` replaces fields of its specification."""
    options.setdefault("half_reference", False)
    if name == "follow_your_emoji":
        facts = dataclasses.replace(follow_your_emoji.SPEC, **(spec or {}))
        return follow_your_emoji.FollowYourEmoji(facts, follow_your_emoji.STYLE, networks, **options)
    if name == "aniportrait":
        return aniportrait.AniPortrait(dataclasses.replace(aniportrait.SPEC, **(spec or {})), networks, **options)
    facts = dataclasses.replace(echomimic.SPEC, **(spec or {}))
    return echomimic.EchoMimic(facts, echomimic.STYLE, networks, **options)


class Recording:
    """A recorded run with the backbone that has to repeat it.

    Attributes:
        backbone: tiny, with the recorded weights.
        reference: state of the recorded portrait.
        maps: recorded landmark maps ``[1, T, H, W, 3]``.
        control: their features, with audio where there was some.
        latents: noise of the recorded run ``[1, T, 4, h, w]``.
    """

    def __init__(
        self, name: str, part: str = "", audio: bool = True, spec: dict[str, Any] | None = None, **options: Any
    ) -> None:
        data = golden.tensors(name)
        self.name, self.data = name, data
        self.backbone: AnimatorBackbone = assemble(name, recorded_networks(name), spec, **options)
        image = data["input/ref_image_uint8_hwc"].float()[None] / 255
        self.reference = self.backbone.prepare_reference(image, torch.zeros_like(image))
        self.maps = data[f"input/{part}pose_images_uint8_hwc"].float()[None] / 255
        given = {"audio": data[f"input/{part}audio_features"]} if audio and name == "echomimic" else {}
        self.control = self.backbone.prepare_control(self.maps, **given)
        self.latents = data[f"input/{part}latents"].transpose(1, 2)

    def output(self, key: str) -> torch.Tensor:
        """A recorded video tensor as ``[..., T, C, h, w]``."""
        return self.data[f"output/{key}"].transpose(-4, -3)


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape
    return float(np.abs((a - b).numpy()).max())
