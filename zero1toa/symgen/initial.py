"""The avatar of iteration 0: Gaussians on the portrait's head."""

from __future__ import annotations

import dataclasses

import torch

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.initialisation import initialise
from zero1toa.config import Config
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import Portrait


@dataclasses.dataclass(frozen=True)
class InitialAvatar:
    """What training begins with.

    Attributes:
        gaussians: the avatar, on the device.
        params: the portrait's head, with hair lifted where that is configured, on the device.
        notes: fallbacks that were used, one line each.
    """

    gaussians: GaussianAvatar
    params: HeadParams
    notes: tuple[str, ...]


def initial_avatar(portrait: Portrait, head: HeadModel, config: Config, device: torch.device) -> InitialAvatar:
    """Place the Gaussians.

    Args:
        portrait: carved and fitted portrait.
        head: head model, on the device.
        config: the run's configuration.
        device: where to train.
    """
    params = portrait.params.to(device)
    neutral = head.neutral().to(device).replace(shape=params.shape, offset=params.offset)
    gaussians = initialise(head, head.vertices(neutral), config.avatar).to(device)
    return InitialAvatar(gaussians, params, ())
