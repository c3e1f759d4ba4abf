"""Compiled layers, the temporal kernel and recorded graphs against the plain networks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.diffusion.tiny_animators import NAMES, assemble, seeded_networks
from zero1toa.diffusion.animator import acceleration
from zero1toa.diffusion.animator.autoencoder import decode, encode
from zero1toa.diffusion.animator.normalisation import GroupNorm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_normalisation_by_rows(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 5 * torch.randn(3, 24, 6, 10, generator=generator)
    norm = GroupNorm(4, 24, eps=1e-6)
    for parameter in norm.parameters():
        parameter.data = torch.randn(24, generator=generator)
    norm.by_rows = True
    expected = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), 1e-6)
    torch.testing.assert_close(norm(x.to(memory_format=layout)).double(), expected, atol=1e-5, rtol=1e-5)


def _states(name: str, backbone, device: str = "cpu", frames: int = 3):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 128, 128, 3, generator=generator).to(device)
    maps = torch.rand(1, frames, 128, 128, 3, generator=generator).to(device)
    latents = torch.randn(1, frames, 4, 16, 16, generator=generator).to(device)
    return latents, backbone.prepare_reference(image, image), backbone.prepare_control(maps)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_compile_whole_and_once_for_each_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without breaks, computing the same, and without compiling again at another noise level or for an equal layer."""
    compile_ = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compile_)
    backbone = assemble(name, seeded_networks(name))
    latents, *state = _states(name, backbone)
    calls: list[Callable[[int], torch.Tensor]] = [
        lambda t: backbone.predict_guided(latents, t, *state, 2.0),
        lambda t: backbone.predict(latents, t, *state, conditional=True),
    ]
    images = torch.rand(1, 2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    expected = [*(call(499) for call in calls), backbone.decode(backbone.encode(images))]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    acceleration.compile_networks(backbone.networks, torch.float32)
    first = [*(call(499) for call in calls), backbone.decode(backbone.encode(images))]
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    layers = sum("forward" in vars(layer) for layer in backbone.networks.denoiser.modules())
    assert compiled < 2 * layers
    with torch._dynamo.config.patch(error_on_recompile=True):
        for call in calls:
            call(299)
    for one, other in zip(expected, first, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_even_chunks_change_nothing() -> None:
    backbone = assemble("echomimic", seeded_networks("echomimic"))
    vae = backbone.networks.autoencoder
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = encode(vae, images)
        torch.testing.assert_close(encode(vae, images, even=True), latents)
        torch.testing.assert_close(decode(vae, latents, even=True), decode(vae, latents))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("frames", "width"), [(1, 4), (16, 40), (12, 80), (24, 160)])
def test_temporal_kernel(frames: int, width: int, dtype: torch.dtype) -> None:
    from zero1toa.diffusion.animator.temporal_kernel import temporal_attention

    generator = torch.Generator("cuda").manual_seed(0)
    qkv = torch.randn(2, frames, 15, 3 * 8 * width, generator=generator, device="cuda").to(dtype)
    q, k, v = qkv.double().unflatten(-1, (3, 8, width)).permute(3, 0, 2, 4, 1, 5)
    expected = F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).flatten(-2)
    output = temporal_attention(qkv, 8)
    assert output.shape == expected.shape
    assert float((output - expected).norm() / expected.norm()) < (1e-2 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_accelerated_backbone(name: str) -> None:
    """Graphs give what the plain networks give, for changed inputs too, and outputs are not overwritten."""
    plain = assemble(name, seeded_networks(name), device="cuda")
    fast = assemble(name, seeded_networks(name), device="cuda", compiled=True)
    assert fast.replay is not None
    latents, *state = _states(name, plain, "cuda")
    _, *fast_state = _states(name, fast, "cuda")
    outputs, expected = [], []
    for timestep in (999, 499, 99):
        outputs.append(fast.predict_guided(latents, timestep, *fast_state, 2.0))
        expected.append(plain.predict_guided(latents, timestep, *state, 2.0))
        outputs.append(fast.predict(latents, timestep, *fast_state, conditional=True))
        expected.append(plain.predict(latents, timestep, *state, conditional=True))
        latents += 0.1  # in place: the same tensor with other values
    for one, other in zip(outputs, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-2
    assert isinstance(fast.networks.denoiser, nn.Module)
    frames = torch.rand(1, 3, 128, 128, 3, device="cuda")
    torch.testing.assert_close(fast.encode(frames), plain.encode(frames), atol=0.05, rtol=0.05)
