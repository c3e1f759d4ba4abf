"""Facts about a backbone that need none of its weights: its specification and how many parameters it has."""

from __future__ import annotations

import importlib

import torch

from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.errors import ConfigError, nearest

_SPECS: dict[str, str] = {
    "aniportrait": "zero1toa.diffusion.aniportrait:SPEC",
    "compact": "zero1toa.diffusion.compact:COMPACT_SPEC",
    "echomimic": "zero1toa.diffusion.echomimic:SPEC",
    "fake": "zero1toa.diffusion.fake:FAKE_SPEC",
    "follow_your_emoji": "zero1toa.diffusion.follow_your_emoji:SPEC",
}


def backbone_spec(name: str) -> BackboneSpec:
    """The specification of a backbone of this package, with the defaults of its options.

    Raises:
        ConfigError: for a name that is not one of them; a backbone registered from outside tells its specification
            only when it is loaded.
    """
    if name not in _SPECS:
        raise ConfigError(
            f"nothing is known of the backbone '{name}' before it is loaded{nearest(name, _SPECS)}; "
            f"known are {', '.join(sorted(_SPECS))}"
        )
    module, attribute = _SPECS[name].split(":")
    spec = getattr(importlib.import_module(module), attribute)
    assert isinstance(spec, BackboneSpec)
    return spec


def parameter_counts(name: str) -> dict[str, int]:
    """Parameters of each network of a backbone, counted on networks without memory; empty for one without networks.

    Raises:
        ConfigError: as :func:`backbone_spec`.
    """
    backbone_spec(name)
    if name == "fake":
        return {}
    if name == "compact":
        from zero1toa.diffusion.compact import CompactModel

        with torch.device("meta"):
            model = CompactModel()
        parts = {"autoencoder": model.autoencoder, "unet": model.unet}
    else:
        from zero1toa.diffusion.animator.networks import build_networks

        module = importlib.import_module(_SPECS[name].split(":")[0])
        parts = build_networks(module.CONFIG).items()
    return {part: sum(p.numel() for p in network.parameters()) for part, network in parts.items()}
