from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zero1toa.diffusion.animator.attention import KeyValue, LayerContext, to_map, to_tokens
from zero1toa.diffusion.animator.config import UNetConfig
from zero1toa.diffusion.animator.lean import LeanMotionModule, LeanTransformer
from zero1toa.diffusion.autoencoder import AutoencoderConfig
from zero1toa.diffusion.compact import CompactBackbone, CompactModel, read_weights, save_weights
from zero1toa.diffusion.protocol import VideoBackbone
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.errors import AssetError

TINY = (
    AutoencoderConfig(encoder_widths=(16, 16), decoder_widths=(16, 16)),
    UNetConfig(channels=(16, 32), groups=16, prompt_channels=None, motion=True, lean=True, head_width=8),
)


def tiny_model(seed: int = 0) -> CompactModel:
    """A tiny network with every weight random, so that no branch is silent."""
    model = CompactModel(*TINY)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 4) ** 0.5)
        model.autoencoder.mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        model.autoencoder.std.copy_(torch.tensor([1.1, 0.7, 0.9, 1.3]))
    return model


@pytest.fixture(scope="module")
def backbone() -> CompactBackbone:
    return CompactBackbone(tiny_model())


def _inputs(batch: int = 2, frames: int = 3, size: int = 32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    clip = torch.rand(batch, frames, size, size, 3, generator=generator)
    maps = torch.rand(batch, frames, size, size, 3, generator=generator)
    image = torch.rand(batch, size, size, 3, generator=generator)
    latents = torch.randn(batch, frames, 4, size // 4, size // 4, generator=generator)
    return clip, maps, image, latents


def test_protocol_and_shapes_at_any_size_that_the_coarsest_cells_divide(backbone: CompactBackbone) -> None:
    assert isinstance(backbone, VideoBackbone)
    for size in (32, 48):
        clip, maps, image, _ = _inputs(size=size)
        latents = backbone.encode(clip)
        assert latents.shape == (2, 3, 4, size // 4, size // 4)
        assert latents.dtype == torch.float32
        reference = backbone.prepare_reference(image, image)
        control = backbone.prepare_control(maps, latents)
        out = refine_latents(backbone, latents, reference, control, steps=4, strength=0.5, guidance=1.5)
        frames = backbone.decode(out)
        assert frames.shape == clip.shape
        assert 0 <= float(frames.min()) <= float(frames.max()) <= 1
    with pytest.raises(ValueError, match="divisible by 8, not 40 x 36"):  # two resolutions of cells of 4 pixels
        backbone.encode(torch.zeros(1, 1, 40, 36, 3))


def test_guidance_is_the_formula_over_separate_calls(backbone: CompactBackbone) -> None:
    _, maps, image, latents = _inputs()
    reference = backbone.prepare_reference(image, image)
    control = backbone.prepare_control(maps, latents)
    conditional = backbone.predict(latents, 499, reference, control, conditional=True)
    null = backbone.predict(latents, 499, reference, control, conditional=False)
    together = backbone.predict_guided(latents, 499, reference, control, 1.7)
    torch.testing.assert_close(together, null + 1.7 * (conditional - null), atol=1e-4, rtol=1e-4)
    assert float((conditional - null).abs().max()) > 1e-3


def test_null_branch_sees_landmarks_and_source_but_no_reference(backbone: CompactBackbone) -> None:
    _, maps, image, latents = _inputs()
    one = backbone.prepare_reference(image, image)
    other = backbone.prepare_reference(1 - image, image)
    control = backbone.prepare_control(maps, latents)

    def null(reference: object, control: object) -> torch.Tensor:
        return backbone.predict(latents, 99, reference, control, conditional=False)

    assert torch.equal(null(one, control), null(other, control))
    assert not torch.allclose(null(one, control), null(one, backbone.prepare_control(1 - maps, latents)), atol=1e-4)
    assert not torch.allclose(null(one, control), null(one, backbone.prepare_control(maps)), atol=1e-4)


def test_clips_of_a_batch_do_not_mix_but_frames_of_a_clip_do(backbone: CompactBackbone) -> None:
    _, maps, image, latents = _inputs()
    reference = backbone.prepare_reference(image, image)

    def run(latents: torch.Tensor) -> torch.Tensor:
        return backbone.predict(latents, 499, reference, backbone.prepare_control(maps), conditional=True)

    base = run(latents)
    changed = latents.clone()
    changed[0, 0] += 1
    moved = run(changed) - base
    assert float(moved[0, 2].abs().max()) > 1e-3
    assert float(moved[1].abs().max()) < 1e-5


def test_reference_tokens_are_joined_to_keys_and_values() -> None:
    """Against attention written out in float64: queries of a frame over its own and the reference's tokens."""
    generator = torch.Generator().manual_seed(0)
    layer = LeanTransformer(16, heads=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    x = torch.randn(2 * 3, 5, 16, generator=generator).double()
    other = torch.randn(2, 5, 16, generator=generator).double()
    _, features = layer(to_map(other, 5, 1), LayerContext(), 0)
    known = LayerContext(KeyValue(*(part[:1] for part in layer.attn1.project(features))))
    mapped, _ = layer(to_map(x, 5, 1), known, 3)  # the first clip's frames see its reference, the second's do not
    out = to_tokens(mapped)

    q_weight, k_weight, v_weight = layer.attn1.to_qkv.weight.chunk(3)
    for clip in range(2):
        for frame in range(3):
            own = layer.norm1(x[clip * 3 + frame])
            tokens = torch.cat([own, layer.norm1(other[clip])]) if clip == 0 else own
            heads = []
            for h in range(2):
                part = slice(8 * h, 8 * h + 8)
                q, k, v = own @ q_weight[part].T, tokens @ k_weight[part].T, tokens @ v_weight[part].T
                heads.append((q @ k.T / 8**0.5).softmax(-1) @ v)
            mid = x[clip * 3 + frame] + layer.attn1.to_out(torch.cat(heads, -1))
            expected = mid + layer.ff_out(torch.nn.functional.gelu(layer.ff_in(layer.norm2(mid))))
            torch.testing.assert_close(out[clip * 3 + frame], expected)


def test_motion_attends_over_frames_only() -> None:
    """Against attention over the frames of one pixel at a time, in float64."""
    generator = torch.Generator().manual_seed(0)
    layer = LeanMotionModule(16, heads=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    x = torch.randn(2 * 4, 3, 16, generator=generator).double()
    positions = torch.arange(5, 9)
    out = to_tokens(layer(to_map(x, 3, 1), positions))
    angles = positions.double()[:, None] * 100.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    places = torch.cat([angles.cos(), angles.sin()], 1)
    q_weight, k_weight, v_weight = layer.attn.to_qkv.weight.chunk(3)
    for clip in range(2):
        for pixel in range(3):
            frames = x[clip * 4 : clip * 4 + 4, pixel]
            tokens = layer.norm(frames) + places
            heads = []
            for h in range(2):
                part = slice(8 * h, 8 * h + 8)
                q, k, v = tokens @ q_weight[part].T, tokens @ k_weight[part].T, tokens @ v_weight[part].T
                heads.append((q @ k.T / 8**0.5).softmax(-1) @ v)
            expected = frames + layer.attn.to_out(torch.cat(heads, -1))
            torch.testing.assert_close(out[clip * 4 : clip * 4 + 4, pixel], expected, rtol=1e-5, atol=1e-5)


def test_what_is_read_of_a_clip_is_landmarks_and_source(backbone: CompactBackbone) -> None:
    """Landmarks may be left out, and a source is a convolution of latents and flag beside them."""
    unet, (_, maps, _, latents) = backbone.model.unet, _inputs()
    maps = maps.movedim(-1, -3)
    flagged = torch.cat([latents, torch.ones_like(latents[:, :, :1])], 2)
    landmarks, both = unet.guide(maps), unet.guide(maps, flagged)
    expected = torch.nn.functional.conv2d(flagged.flatten(0, 1).double(), unet.source_in.weight.double(), padding=1)
    torch.testing.assert_close((both - landmarks).flatten(0, 1).double(), expected, atol=1e-5, rtol=1e-4)
    shown = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1)
    assert not unet.guide(maps, None, shown)[1].any()
    assert torch.equal(unet.guide(maps, None, shown)[0], landmarks[0])
    torch.testing.assert_close(unet.guide(maps, flagged, shown)[1].double(), expected[3:], atol=1e-5, rtol=1e-4)


def test_weights_survive_the_file(tmp_path: Path) -> None:
    model = tiny_model(3)
    path = tmp_path / "deep" / "compact.safetensors"
    save_weights(model, path, {"training": "{}"})
    loaded = read_weights(path)
    assert loaded.unet.config == TINY[1]
    assert torch.equal(loaded.autoencoder.std, model.autoencoder.std)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-6, rtol=1e-3)
    assert [p.name for p in path.parent.iterdir()] == ["compact.safetensors"]


def test_bad_weight_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="missing"):
        read_weights(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(AssetError, match="damaged"):
        read_weights(broken)
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, {"format": "something"})
    with pytest.raises(AssetError, match="something"):
        read_weights(other)
    good = tmp_path / "good.safetensors"
    model = tiny_model()
    save_weights(model, good)
    state = load_file(good)
    state.pop("unet.conv_in.weight")
    save_file(state, other, model.metadata())
    with pytest.raises(AssetError, match="does not fit"):
        read_weights(other)


def test_default_network_is_small() -> None:
    model = CompactModel()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 8e6 < count < 11e6
    assert json.loads(model.metadata()["config"])["unet"]["channels"] == [64, 160, 192]


@pytest.mark.gpu
def test_cuda_in_half_precision_is_close_to_the_cpu() -> None:
    _, maps, image, latents = _inputs()
    outputs = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        backbone = CompactBackbone(tiny_model(), device, dtype)
        to = {"device": device}
        reference = backbone.prepare_reference(image.to(**to), image.to(**to))
        control = backbone.prepare_control(maps.to(**to), latents.to(**to))
        outputs.append(backbone.predict(latents.to(**to), 499, reference, control, conditional=True).cpu())
    error = (outputs[0] - outputs[1]).norm() / outputs[0].norm()
    assert float(error) < 0.05


def test_untrained_correction_leaves_the_clip_as_it_is(backbone: CompactBackbone) -> None:
    """With its residual head still zero the network says "already right" at every level, under any guidance."""
    model = copy.deepcopy(backbone.model)
    torch.nn.init.zeros_(model.unet.residual_out.weight)
    torch.nn.init.zeros_(model.unet.residual_out.bias)
    still = CompactBackbone(model)
    frames = torch.rand(1, 3, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    latents = still.encode(frames)
    reference = still.prepare_reference(frames[:, 0], frames[:, 0])
    control = still.prepare_control(frames, latents)
    for strength in (0.3, 1.0):
        refined = refine_latents(still, latents, reference, control, steps=10, strength=strength, guidance=2.0)
        torch.testing.assert_close(refined, latents, atol=1e-5, rtol=1e-5)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
        noised = refine_latents(still, latents, reference, control, steps=10, strength=strength, noise=noise)
        torch.testing.assert_close(noised, latents, atol=1e-4, rtol=1e-4)
