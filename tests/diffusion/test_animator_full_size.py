"""The networks at their real size against recorded outputs: 9 GB of memory and some minutes each, so ``slow``."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from tests.diffusion import golden
from tests.diffusion.tiny_animators import NAMES, largest, reference_keys
from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
from zero1toa.diffusion.animator.attention import LayerContext
from zero1toa.diffusion.animator.checkpoints import convert
from zero1toa.diffusion.animator.networks import LAYOUTS, build_networks

pytestmark = [golden.needs_golden, pytest.mark.slow, pytest.mark.timeout(1800)]
CONFIGS = {module.SPEC.name: module.CONFIG for module in (follow_your_emoji, aniportrait, echomimic)}


def _filled(name: str, network: str, module: nn.Module, recorded: str) -> Any:
    """The module with the recipe's weights, after checking some of them against the recording's sums."""
    state = golden.weights(name, recorded, "")
    for key, (total, magnitude) in golden.metadata(name, ".full")["weight_checksums"].items():
        if key.startswith(f"{recorded}/"):
            weight = state[key.removeprefix(f"{recorded}/")].double()
            assert float(weight.sum()) == pytest.approx(total, rel=1e-6, abs=1e-6)
            assert float(weight.abs().mean()) == pytest.approx(magnitude, rel=1e-6)
    module.load_state_dict(convert(module, state, LAYOUTS[network], network, []), assign=True)
    return module.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_real_networks(name: str) -> None:
    data = golden.tensors(name, ".full")
    networks = build_networks(CONFIGS[name])
    prompt = data.get("input/encoder_hidden_states_cond")

    # One network after the other, so that two never share the memory.
    reference = _filled(name, "reference", networks.reference, golden.REFERENCE[name])
    features = reference(data["input/ref_latents"], None if prompt is None else reference.prompt_tokens(prompt))
    del reference, networks.reference
    gc.collect()
    for key, feature in zip(reference_keys(name), features, strict=True):
        assert largest(feature, data[key]) < 1e-4, key

    guider = _filled(name, "guider", networks.guider, golden.GUIDER[name])
    control = guider(data["input/pose"][0].transpose(0, 1))
    del guider, networks.guider
    for scale, feature in enumerate(control):
        several = len(control) > 1
        recorded = data[f"output/guider_fea/{scale}" if several else "output/guider_fea"][0].transpose(0, 1)
        assert largest(feature, recorded) < (1e-3 if several else 1e-5)

    denoiser = _filled(name, "denoiser", networks.denoiser, golden.DENOISER[name])
    if name == "echomimic":
        tokens = data["input/audio_features"][0]
        null = torch.zeros_like(tokens[:1, :1])
    else:
        assert prompt is not None
        tokens, null = (denoiser.prompt_tokens(x) for x in (prompt, torch.zeros_like(prompt[:, :1])))
    layers = zip(
        denoiser.project_reference(features),
        denoiser.project_prompt(tokens),
        denoiser.project_prompt(null),
        strict=True,
    )
    contexts = tuple(LayerContext(*layer) for layer in layers)
    latents = torch.cat([data["input/latents"].transpose(1, 2)] * 2)
    both = tuple(torch.cat([x, torch.zeros_like(x) if name == "echomimic" else x]) for x in control)
    output = denoiser(latents, data["input/timestep"][None], both, contexts, 1)
    assert largest(output[:1], data["output/eps_cond"].transpose(1, 2)) < 1e-4
    assert largest(output[1:], data["output/eps_uncond"].transpose(1, 2)) < 1e-4
