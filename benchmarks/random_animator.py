"""Portrait animators with random weights, made on the device itself; their operations, counted without a device."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
from zero1toa.diffusion.animator.backbone import AnimatorBackbone, AnimatorControl, AnimatorReference
from zero1toa.diffusion.animator.config import (
    LATENT_CHANNELS,
    AnimatorConfig,
    AutoencoderConfig,
    ImageEncoderConfig,
    PoseGuiderConfig,
    UNetConfig,
)
from zero1toa.diffusion.animator.networks import AnimatorNetworks, build_networks
from zero1toa.diffusion.registry import register

MODULES = {"follow_your_emoji": follow_your_emoji, "aniportrait": aniportrait, "echomimic": echomimic}
NAMES = tuple(MODULES)
RANDOM = "random_follow_your_emoji"
"""Registry name of Follow-Your-Emoji's networks with random weights; see :func:`register_random`."""


def sizes(name: str, tiny: bool) -> AnimatorConfig:
    """Sizes of an animator as released, or so small that a CPU runs it at once."""
    config: AnimatorConfig = MODULES[name].CONFIG
    if not tiny:
        return config

    def tiny_unet(unet: UNetConfig) -> UNetConfig:
        small = UNetConfig((32, 64, 128, 128), heads=4, groups=8, motion=unet.motion, prompt_scale=unet.prompt_scale)
        prompt, image = unet.prompt_channels and 24, unet.image_channels and 40
        return dataclasses.replace(small, prompt_channels=prompt, image_channels=image)

    encoder = ImageEncoderConfig(40, 80, layers=2, heads=4, patch=32, projection=24)
    return dataclasses.replace(
        config,
        denoiser=tiny_unet(config.denoiser),
        reference=tiny_unet(config.reference),
        pose_guider=None if config.pose_guider is None else PoseGuiderConfig(32, 2, 16, 8),
        image_encoder=None if config.image_encoder is None else encoder,
        autoencoder=AutoencoderConfig((8, 8, 16, 16), layers=1, groups=4),
    )


def _fill(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Weights that keep the size of what passes through, so that nothing overflows half precision."""
    nn.Module.to(module, dtype)  # diffusers' own warns of parts that it would keep in float32: there are none
    module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
        elif key.endswith(("weight", "running_var", "scale")):
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.1, generator=generator)


def assemble(
    name: str, networks: AnimatorNetworks, device: torch.device, dtype: torch.dtype, **options: Any
) -> AnimatorBackbone:
    """The backbone over given networks."""
    if name == "aniportrait":
        return aniportrait.AniPortrait(aniportrait.SPEC, networks, device, dtype, **options)
    if name == "echomimic":
        return echomimic.EchoMimic(echomimic.SPEC, echomimic.STYLE, networks, device, dtype, **options)
    module = follow_your_emoji
    return module.FollowYourEmoji(module.SPEC, module.STYLE, networks, device, dtype, **options)


def random_networks(name: str, tiny: bool, device: torch.device, dtype: torch.dtype) -> AnimatorNetworks:
    """Networks whose weights are random: speed does not depend on them."""
    networks = build_networks(sizes(name, tiny))
    for network in networks.items().values():
        _fill(network, device, dtype)
    return networks


def random_backbone(
    name: str, tiny: bool, device: torch.device, dtype: torch.dtype, **options: Any
) -> AnimatorBackbone:
    """A backbone with such networks."""
    return assemble(name, random_networks(name, tiny, device, dtype), device, dtype, **options)


def prompt_of(name: str, config: AnimatorConfig, clips: int, device: torch.device | str) -> Tensor | None:
    """Tokens as the image encoder would give them; None where there is none."""
    encoder = config.image_encoder
    if encoder is None:
        return None
    if name == "follow_your_emoji":
        shape = (clips, (224 // encoder.patch) ** 2 + 1, encoder.channels)
    else:
        shape = (clips, 1, encoder.projection)
    return torch.zeros(shape, device=device)


def _kind(path: str, operation: str) -> str:
    """What part of the model a module belongs to, by its dotted name."""
    where = "motion" if ".motion_modules." in path else "spatial"
    if ".ff." in path:
        return f"{where} feed-forward"
    if ".attn" in path:
        products = "to_" in path.rsplit(".attn", 1)[1]
        layer = "temporal" if where == "motion" else "cross" if ".attn2" in path else "self"
        return f"{layer} attention, {'projections' if products else 'scores and values'}"
    if ".motion_modules." in path or ".attentions." in path:
        return f"{where} projections"
    return "convolutions" if operation == "convolution" else "other"


def _parent(path: str, known: Container[str]) -> str | None:
    """The nearest module around another of which anything is known."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in known:
            return path
    return None


def count_operations(name: str, tiny: bool, frames: int, size: int, guided: bool, clips: int = 1) -> Counter[str]:
    """Floating-point operations of one evaluation by part, from a pass on torch's ``meta`` device.

    A multiplication and an addition count two; normalisations and activations are not counted. Of a guided evaluation
    both predictions are counted in full, although the package computes once what they share.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device, config = torch.device("meta"), sizes(name, tiny)
    backbone = assemble(name, build_networks(config), device, torch.float32)
    side = size // backbone.spec.latent_stride
    portrait = torch.zeros(clips, LATENT_CHANNELS, side, side, device=device)
    reference: AnimatorReference = backbone.reference_state(portrait, prompt_of(name, config, clips, device))
    control: AnimatorControl = backbone.prepare_control(torch.zeros(clips, frames, size, size, 3, device=device))
    latents = torch.zeros(clips, frames, LATENT_CHANNELS, side, side, device=device)
    with FlopCounterMode(display=False) as counter:
        for conditional in (True, False) if guided else (True,):
            backbone.predict(latents, 0, reference, control, conditional=conditional)
    counts = counter.get_flop_counts()
    parts: Counter[str] = Counter()
    for path, operations in counts.items():
        if path == "Global":
            continue
        for operation, amount in operations.items():
            kind = str(operation).rsplit(".", 1)[-1]
            parts[_kind(path + ".", kind)] += amount
            if (parent := _parent(path, counts)) is not None:  # whose operations include these
                parts[_kind(parent + ".", kind)] -= amount
    assert sum(parts.values()) == counter.get_total_flops()
    return parts


def load_random(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> AnimatorBackbone:
    """Registry loader of :data:`RANDOM`: Follow-Your-Emoji's sizes, or tiny ones."""
    return random_backbone("follow_your_emoji", tiny, device, dtype, compiled=True)


def register_random() -> None:
    """Let this process's registry load :data:`RANDOM`."""
    register(RANDOM, load_random)
