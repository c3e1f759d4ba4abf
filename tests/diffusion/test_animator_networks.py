"""The animators' networks beyond parity: one graph, many sizes, half precision."""

from __future__ import annotations

import pytest
import torch

from tests.diffusion.tiny_animators import NAMES, assemble, seeded_networks
from zero1toa.diffusion.animator.attention import KeyValue, PromptAttention


def _state(name: str, frames: int = 3, side: int = 128):
    generator = torch.Generator().manual_seed(0)
    backbone = assemble(name, seeded_networks(name))
    image = torch.rand(1, 128, 128, 3, generator=generator)
    maps = torch.rand(1, frames, side, side, 3, generator=generator)
    latents = torch.randn(1, frames, 4, side // 8, side // 8, generator=generator)
    return backbone, latents, backbone.prepare_reference(image, image), backbone.prepare_control(maps)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_one_graph(name: str) -> None:
    """No breaks, so that it can be compiled whole; and tracing does not change what it computes."""
    backbone, latents, reference, control = _state(name)
    eager = [backbone.predict_guided(latents, t, reference, control, 2.0) for t in (999, 499)]
    denoiser = backbone.networks.denoiser
    traced = torch.compile(denoiser, backend="eager", fullgraph=True)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        backbone.networks.denoiser = traced
        again = [backbone.predict_guided(latents, t, reference, control, 2.0) for t in (999, 499)]
    for one, other in zip(eager, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_another_size_than_the_reference(name: str) -> None:
    """Reference tokens are joined to a frame's own: their number need not agree."""
    backbone, latents, reference, control = _state(name, side=192)
    assert backbone.predict(latents, 499, reference, control, conditional=True).shape == latents.shape
    with pytest.raises(ValueError, match="divisible by 64"):
        backbone.encode(torch.zeros(1, 1, 100, 128, 3))


def test_prompts_of_one_token_need_no_attention() -> None:
    """The short way for a single token against attention over copies of it."""
    generator = torch.Generator().manual_seed(0)
    layer = PromptAttention(16, 2, 8).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    x = torch.randn(4, 6, 16, generator=generator).double()
    one = layer.project(torch.randn(2, 1, 8, generator=generator).double())
    copies = KeyValue(one.keys.expand(-1, 5, -1), one.values.expand(-1, 5, -1))
    short, long = (layer(x, prompt, None, 4) for prompt in (one, copies))
    torch.testing.assert_close(short.expand_as(long), long)
    mixed = layer(x, copies, KeyValue(*(t[:1] for t in one)), 2)
    torch.testing.assert_close(mixed[:2], layer(x[:2], copies, None, 2))
    torch.testing.assert_close(mixed[2:], layer(x[2:], KeyValue(*(t[:1] for t in copies)), None, 2))


def test_a_clip_of_several_windows_has_no_features_as_a_whole() -> None:
    backbone, _, reference, _ = _state("aniportrait")
    maps = torch.rand(1, 17, 128, 128, 3)
    control = backbone.prepare_control(maps)
    with pytest.raises(ValueError, match="depend on their windows"):
        backbone.predict(torch.zeros(1, 17, 4, 16, 16), 9, reference, control, conditional=True)
    view = backbone.window(control, range(3, 19 - 3))
    assert view.frames == 13


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(name: str, device: str) -> None:
    backbone, latents, reference, control = _state(name)
    expected = backbone.predict_guided(latents, 499, reference, control, 2.0)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 128, 128, 3, generator=generator).to(device)
    maps = torch.rand(1, 3, 128, 128, 3, generator=generator).to(device)
    half = assemble(name, seeded_networks(name), device=device, dtype=torch.bfloat16, half_reference=True)
    state = half.prepare_reference(image, image), half.prepare_control(maps)
    output = half.predict_guided(latents.to(device), 499, *state, 2.0)
    assert output.dtype == torch.float32
    assert float((output.cpu() - expected).norm() / expected.norm()) < 0.1
    decoded = half.decode(half.encode(maps)).cpu()
    assert float((decoded - backbone.decode(backbone.encode(maps.cpu()))).abs().mean()) < 0.02
