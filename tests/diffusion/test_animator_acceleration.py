"""The kernels, the layers over them and recorded graphs against the plain networks."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.diffusion import kernel_references
from tests.diffusion.tiny_animators import NAMES, assemble, seeded_networks
from zero1toa.diffusion.animator import fused
from zero1toa.diffusion.animator.acceleration import accelerate, replace_layers
from zero1toa.diffusion.animator.attention import LayerContext
from zero1toa.diffusion.animator.autoencoder import build_autoencoder
from zero1toa.diffusion.animator.blocks import ResnetBlock, Upsample
from zero1toa.diffusion.animator.config import AutoencoderConfig, UNetConfig
from zero1toa.diffusion.animator.denoiser import Denoiser
from zero1toa.diffusion.animator.kernels import layers, winograd
from zero1toa.diffusion.animator.kernels.loader import compile_source
from zero1toa.diffusion.animator.motion import MotionModule
from zero1toa.errors import BackboneError

_HALF = [torch.bfloat16, torch.float16]


def _close(output: Tensor, expected: Tensor, dtype: torch.dtype = torch.bfloat16, times: float = 1.0) -> None:
    """Within the rounding of the type in which maps are held."""
    assert output.shape == expected.shape
    error = float((output.double() - expected).norm() / expected.norm())
    assert error < times * (4e-3 if dtype == torch.bfloat16 else 5e-4), error


def _fill(module: Any, seed: int = 0) -> Any:
    """Random parameters that keep the size of what passes through."""
    generator: torch.Generator | None = None
    for name, tensor in module.state_dict().items():
        generator = generator or torch.Generator(tensor.device).manual_seed(seed)
        tensor.normal_(0.0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1, generator=generator)
        if tensor.ndim == 1 and name.endswith("weight"):
            tensor.add_(1.0)
    return module.eval().requires_grad_(False)


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


def _map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (_random(*shape, seed=seed, dtype=dtype) + 0.5).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers over formulas in place of kernels, to be tried on any device."""
    for name in kernel_references.NAMES:
        monkeypatch.setattr(fused, name, getattr(kernel_references, name))


@pytest.mark.parametrize("name", NAMES)
def test_layers_over_kernels_compute_what_the_plain_ones_do(name: str, references: None) -> None:
    """For both halves of guidance and each alone, two clips, and the autoencoder."""
    plain, fast = (assemble(name, seeded_networks(name)) for _ in range(2))
    replace_layers(fast.networks)
    blocks = [layer for layer in fast.networks.denoiser.modules() if isinstance(layer, ResnetBlock | MotionModule)]
    assert all("forward" in vars(block) for block in blocks)
    assert hasattr(fast.networks.denoiser.mid_block.resnets[0].conv1, "patches")
    latents, *state = _states(plain, "cpu", clips=2)
    _, *fast_state = _states(fast, "cpu", clips=2)
    for timestep in (999, 99):
        expected = plain.predict_guided(latents, timestep, *state, 2.0)
        torch.testing.assert_close(
            fast.predict_guided(latents, timestep, *fast_state, 2.0), expected, atol=1e-4, rtol=0
        )
        for conditional in (True, False):
            expected = plain.predict(latents, timestep, *state, conditional=conditional)
            output = fast.predict(latents, timestep, *fast_state, conditional=conditional)
            torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)
    frames = torch.rand(1, 3, 64, 128, 3, generator=torch.Generator().manual_seed(0))
    encoded = plain.encode(frames)
    torch.testing.assert_close(fast.encode(frames), encoded, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.decode(encoded), plain.decode(encoded), atol=1e-5, rtol=0)


def test_gradients_go_through_the_plain_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "group_norm", lambda *_, **__: pytest.fail("a kernel was asked for a gradient"))
    plain, fast = (assemble("echomimic", seeded_networks("echomimic")) for _ in range(2))
    replace_layers(fast.networks)
    gradients = []
    for backbone in (plain, fast):
        frames = torch.rand(1, 1, 64, 64, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        backbone.encode(frames).square().sum().backward()
        gradients.append(frames.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("half", [0, 1])
def test_sources_compile(architecture: str, half: int) -> None:
    sources: list[tuple[str, dict[str, int]]] = [("layers.cu", {}), ("winograd.cu", {})]
    sources += [
        ("temporal_attention.cu", {"WIDTH": width, "TILES": tiles, "HEADS": 8, "SHARE": 320 // width // tiles})
        for width in (40, 160)
        for tiles in (1, 2)
    ]
    if architecture == "sm_90a":
        sources.append(("spatial_attention.cu", {"SHARED": layers.SPATIAL_SHARED}))
        sources += [("gated_product.cu", layers.PRODUCT), ("product_norm.cu", layers.PRODUCT_NORM)]
    try:
        for file, constants in sources:
            assert compile_source(file, architecture, {"BFLOAT16": half, **constants})[:4] == b"\x7fELF"
    except BackboneError as error:
        pytest.skip(str(error))


def test_a_source_that_does_not_compile_says_why() -> None:
    try:
        with pytest.raises(RuntimeError, match="WIDTH"):
            compile_source("temporal_attention.cu", "sm_80", {"BFLOAT16": 1})
    except BackboneError as error:
        pytest.skip(str(error))


def test_merged_ending_computes_the_same(references: None) -> None:
    layer = _fill(MotionModule(24, 4)).double()
    x = torch.randn(6, 24, 3, 5, generator=torch.Generator().manual_seed(1)).double()
    expected = layer(x, 3)
    fused.merge_ending(layer)
    torch.testing.assert_close(fused.motion_module(layer, x, 3), expected)


def test_upsampling_is_four_convolutions_of_the_map_as_it_was(references: None) -> None:
    layer = _fill(Upsample(6)).double()
    fused.merge_repeated(layer)
    for width in (7, 17):  # padded before, and by the convolution
        x = torch.randn(2, 6, 5, width, generator=torch.Generator().manual_seed(1)).double()
        torch.testing.assert_close(fused.upsample(layer, x), layer(x))


def test_shifts_of_all_blocks_at_once() -> None:
    denoiser = _fill(Denoiser(UNetConfig((8, 16, 16, 16), heads=2, groups=4, prompt_channels=6))).double()
    blocks = [layer for layer in denoiser.modules() if isinstance(layer, ResnetBlock)]
    time = denoiser.time_embedding(torch.tensor([400.0]))
    expected = [block.time_emb_proj(time)[0] + block.conv1.bias for block in blocks]
    fused.merge_shifts(denoiser)
    together = fused.time_shifts(denoiser.time_embedding, torch.tensor([400.0]))
    for block, shift in zip(blocks, expected, strict=True):
        torch.testing.assert_close(together[0, block.shifts], shift)  # type: ignore[index]


def test_merged_biases_compute_the_same() -> None:
    block = _fill(ResnetBlock(8, 16, 12, 4)).double()
    generator = torch.Generator().manual_seed(1)
    x, time = (torch.randn(shape, generator=generator).double() for shape in ((1, 8, 3, 3), (1, 12)))
    expected = block(x, time)
    fused.merge_biases(block)
    torch.testing.assert_close(block(x, time), expected)


def _by_patches(block: ResnetBlock, time: Tensor, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """A residual block, which is prepared for it, over the products of patches and nothing else."""
    shift = block.time_emb_proj(time) + block.conv1.bias  # type: ignore[operator]
    block.shifts = slice(None)  # type: ignore[assignment]
    fused.merge_patches(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_convolve", lambda *_: pytest.fail("a convolution of the map itself"))
        return fused.residual_block(block, x, shift, skip)


@pytest.mark.parametrize("sides", [(2, 2), (8, 8), (6, 4)])
@pytest.mark.parametrize(("own", "more"), [(16, 0), (8, 0), (8, 12)])
def test_blocks_convolve_by_products_of_patches(own: int, more: int, sides: tuple[int, int], references: None) -> None:
    block = _fill(ResnetBlock(own + more, 16, 12, 4)).double()
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, width, *sides, generator=generator).double() for width in (own, more) if width]
    time = torch.randn(1, 12, generator=generator).double()
    expected = block(maps[0], time, *maps[1:])
    torch.testing.assert_close(_by_patches(block, time, *maps), expected)


def test_maps_whose_convolution_is_left_to_torch() -> None:
    layer = nn.Conv2d(64, 8, 3, padding=1)
    for sides, taken in {(32, 2): True, (7, 8): False, (8, 7): False}.items():
        assert winograd.takes_patches(torch.empty(1, 64, *sides), layer) == taken
    assert not winograd.takes_patches(torch.empty(1, 72, 8, 8), nn.Conv2d(72, 8, 3, padding=1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(
    ("own", "more", "sides"),
    [
        (1280, 0, (16, 16)),
        (1280, 640, (8, 8)),
        (640, 0, (2, 2)),
        (320, 320, (6, 14)),
        (64, 0, (16, 2)),
        (320, 0, (64, 64)),
        (320, 64, (22, 34)),
    ],
)
def test_normalised_patches(own: int, more: int, sides: tuple[int, int], dtype: torch.dtype) -> None:
    norm = _fill(nn.GroupNorm(32, own + more)).to("cuda", dtype)
    maps = [_map(3, width, *sides, seed=width, dtype=dtype) for width in (own, more) if width]
    shift = _random(own + more, seed=9, dtype=dtype)
    output = winograd.normalised_patches(maps[0], norm, *maps[1:], shift=shift)
    doubles = [part.double() for part in maps]
    _close(output, kernel_references.normalised_patches(doubles[0], norm, *doubles[1:], shift=shift.double()), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("sides", [(64, 64), (6, 14), (2, 2)])
def test_from_products(sides: tuple[int, int], dtype: torch.dtype) -> None:
    products = _random(16, 3 * sides[0] * sides[1] // 4, 320, dtype=dtype)
    maps, shift = [_map(3, 320, *sides, seed=seed, dtype=dtype) for seed in (1, 2)], _random(320, dtype=dtype)
    maps[1] = maps[1].permute(0, 2, 3, 1).flatten(1, 2)  # tokens
    for given, added in (((), None), (maps[:1], shift), (maps, shift)):
        output = winograd.from_products(products, sides, *given, shift=added)
        doubles = [part.double() for part in given]
        expected = kernel_references.from_products(
            products.double(), sides, *doubles, shift=None if added is None else added.double()
        )
        _close(output, expected, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(("own", "more", "side"), [(1280, 0, 16), (1280, 1280, 8), (640, 0, 16)])
def test_block_over_products_of_patches(own: int, more: int, side: int, dtype: torch.dtype) -> None:
    """As patches, weights and products are rounded, a convolution's error is twice that of torch's in the same type."""
    block = _fill(ResnetBlock(own + more, 1280, 1280, 32)).to("cuda", dtype)
    maps = [_map(3, width, side, side, seed=width, dtype=dtype) for width in (own, more) if width]
    exact, time = copy.deepcopy(block).double(), _random(1, 1280, dtype=dtype)
    doubles = [part.double() for part in maps]
    expected = exact(doubles[0], time.double(), *doubles[1:])
    _close(_by_patches(block, time, *maps), expected, dtype)
    normed = kernel_references.group_norm(doubles[0], exact.norm1, *doubles[1:], activate=True)
    output = fused.normalise_and_convolve(block.norm1, block.conv1, maps[0], *maps[1:] or [None])
    _close(output, F.conv2d(normed, exact.conv1.weight, padding=1), dtype, times=1.5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(("own", "more", "side"), [(320, 0, 8), (640, 320, 16), (1280, 1280, 4), (128, 0, 96)])
def test_group_norm(own: int, more: int, side: int, dtype: torch.dtype) -> None:
    norm = _fill(nn.GroupNorm(32, own + more, eps=1e-6)).to("cuda", dtype)
    maps = [_map(3, width, side, side + 1, seed=width, dtype=dtype) for width in (own, more) if width]
    shift = _random(own + more, seed=9, dtype=dtype) if not more else None
    doubles = [part.double() for part in maps]
    for activate in (False, True):
        output = layers.group_norm(maps[0], norm, *maps[1:], shift=shift, activate=activate)
        expected = kernel_references.group_norm(
            doubles[0], norm, *doubles[1:], shift=None if shift is None else shift.double(), activate=activate
        )
        _close(output, expected, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("width", layers.TOKEN_WIDTHS)
def test_add_norm(width: int, dtype: torch.dtype) -> None:
    norm = _fill(nn.LayerNorm(width)).to("cuda", dtype)
    tokens, change = (_random(6, 7, width, seed=seed, dtype=dtype) for seed in (1, 2))
    constant, places = _random(6, 1, width, seed=3, dtype=dtype), _random(3, width, seed=4, dtype=dtype)

    before = tokens.clone()
    _close(layers.add_norm(tokens, norm), kernel_references.add_norm(before.double(), norm), dtype)
    assert torch.equal(tokens, before)
    total = tokens.double()
    expected = kernel_references.add_norm(
        total, norm, change.double(), constant=constant.double(), factor=3.0, places=places.double()
    )
    out = torch.full_like(tokens, float("nan"))
    result = layers.add_norm(tokens, norm, change, constant=constant, factor=3.0, places=places, out=out)
    assert result is out
    _close(out, expected, dtype)
    _close(tokens, total, dtype)

    sums, wanted = (torch.full((6, 7, width + 16), float("nan")).to("cuda", kind) for kind in (dtype, torch.double))
    layers.add_norm(tokens, norm, change, sums=sums)
    kernel_references.add_norm(tokens.double(), norm, change.double(), sums=wanted)
    _close(sums[..., : width + 8], wanted[..., : width + 8], dtype)
    assert sums[..., width + 8 :].isnan().all()
    _close(tokens, total, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
def test_gate_and_sum(dtype: torch.dtype) -> None:
    x, wide = _random(3, 7, 640, dtype=dtype), torch.full((3, 7, 400), float("nan")).to("cuda", dtype)
    expected = torch.empty(3, 7, 320, device="cuda", dtype=torch.double)
    kernel_references.gate(x.double(), expected)
    layers.gate(x, wide[..., 72:392])
    _close(wide[..., 72:392], expected, dtype)
    assert wide[..., :72].isnan().all()
    assert wide[..., 392:].isnan().all()
    maps, shift = [_map(2, 64, 5, 3, seed=seed, dtype=dtype) for seed in range(4)], _random(64, dtype=dtype)
    doubles = [part.double() for part in maps]
    _close(layers.add(*maps), kernel_references.add(*doubles), dtype)
    _close(layers.add(*maps[:2], shift=shift), kernel_references.add(*doubles[:2], shift=shift.double()), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("tokens", [64, 192, 64 * 203])
def test_gated_product(tokens: int, dtype: torch.dtype) -> None:
    """Fewer tiles than blocks, an odd number of them, and shares of unequal size; gates from -8 to 8."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel is Hopper's")
    layer = _fill(nn.Linear(320, 2560)).to("cuda", dtype)
    layer.bias += torch.linspace(-4, 4, 2560, device="cuda").to(dtype)
    x, wide = 2 * _random(2, tokens, 320, dtype=dtype), torch.full((2, tokens, 1296), float("nan")).to("cuda", dtype)
    expected = torch.empty(2, tokens, 1280, device="cuda", dtype=torch.double)
    assert layers.takes_gated_product(x, layer)
    kernel_references.gated_product(x.double(), layer, expected)
    layers.gated_product(x, layer, wide[..., 8:1288])
    _close(wide[..., 8:1288], expected, dtype)
    assert wide[..., :8].isnan().all()
    assert wide[..., 1288:].isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("tokens", [64, 192, 64 * 203])
def test_product_norm(tokens: int, dtype: torch.dtype) -> None:
    """Fewer tiles than blocks, an odd number of them, and shares of unequal size."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel is Hopper's")
    layer, norm = (_fill(make).to("cuda", dtype) for make in (nn.Linear(320, 320), nn.LayerNorm(320)))
    x, given = (_random(6, tokens, 320, seed=seed, dtype=dtype) for seed in (1, 2))
    constant, places = _random(2, 1, 320, seed=3, dtype=dtype), _random(3, 320, seed=4, dtype=dtype)
    assert layers.takes_product_norm(x, layer)

    wanted = kernel_references.product_norm(x.double(), layer, norm, places=places.double())
    for output, expected in zip(layers.product_norm(x, layer, norm, places=places), wanted, strict=True):
        _close(output, expected, dtype)

    changed, total = given.clone(), given.double()
    sums, normed = layers.product_norm(x, layer, norm, changed)
    _, expected = kernel_references.product_norm(x.double(), layer, norm, total)
    _close(normed, expected, dtype)
    assert sums is changed
    _close(changed, total, dtype)

    before, wide = given.clone(), torch.full((6, tokens, 336), float("nan")).to("cuda", dtype)
    out, wanted_sums = torch.full_like(x, float("nan")), wide.double()
    layers.product_norm(x, layer, norm, given, constant, out=out, sums=wide)
    _, expected = kernel_references.product_norm(
        x.double(), layer, norm, given.double(), constant.double(), sums=wanted_sums
    )
    _close(out, expected, dtype)
    _close(wide[..., :328], wanted_sums[..., :328], dtype)
    assert wide[..., 328:].isnan().all()
    assert torch.equal(given, before)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
def test_interleave(dtype: torch.dtype) -> None:
    x, shift = _map(2, 4 * 64, 6, 4, dtype=dtype), _random(64, dtype=dtype)
    _close(layers.interleave(x, shift), kernel_references.interleave(x.double(), shift.double()), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(("tokens", "others", "width"), [(15, 7, 640), (64, 64, 1280)])
def test_join(tokens: int, others: int, width: int, dtype: torch.dtype) -> None:
    qkv, reference = _random(6, tokens, 3 * width, dtype=dtype), _random(2, others, 2 * width, seed=1, dtype=dtype)
    for joined, expected in zip(
        layers.join(qkv, *reference.chunk(2, -1)), kernel_references.join(qkv, *reference.chunk(2, -1)), strict=True
    ):
        assert torch.equal(joined, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(("frames", "width"), [(1, 8), (16, 40), (12, 80), (24, 160), (32, 40)])
def test_temporal_attention(frames: int, width: int, dtype: torch.dtype) -> None:
    qkv = _random(2 * frames, 15, 3 * 8 * width, dtype=dtype)
    expected = kernel_references.temporal_attention(qkv.double(), frames, 8)
    _close(layers.temporal_attention(qkv, frames, 8), expected, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize(("tokens", "others", "split"), [(128, 256, 4), (704, 64, 2), (1280, 384, 0)])
def test_spatial_attention(tokens: int, others: int, split: int, dtype: torch.dtype) -> None:
    """Rows beyond the last block, two clips, pictures with and without the reference."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel is Hopper's")
    qkv, reference = _random(6, tokens, 3 * 320, dtype=dtype), _random(2, others, 640, seed=1, dtype=dtype)
    keys, values = (reference.chunk(2, -1)) if split else (None, None)
    assert layers.takes_attention(qkv, keys, 8)
    output = layers.spatial_attention(qkv, keys, values, split, 8)
    known = [None if part is None else part.double() for part in (keys, values)]
    _close(output, kernel_references.spatial_attention(qkv.double(), *known, split, 8), dtype)
    if keys is not None:
        output = layers.spatial_attention(qkv, keys, values, 6, 8, twice=True)
        _close(output, kernel_references.spatial_attention(qkv.double(), *known, 6, 8, twice=True), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
def test_spatial_attention_whose_scores_rise_from_tile_to_tile(dtype: torch.dtype) -> None:
    """By hundreds, up and down: weights are relative to the highest score so far, which must follow."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel is Hopper's")
    qkv, reference = _random(2, 512, 3 * 320, dtype=dtype), _random(2, 256, 640, seed=1, dtype=dtype)
    growing = torch.tensor([0.1, 1, 4, 2, 8, 16, 12, 24], device=qkv.device, dtype=dtype).repeat_interleave(64)
    qkv[..., 320:640] *= growing[:, None]
    keys, values = 32 * reference[..., :320], reference[..., 320:]
    output = layers.spatial_attention(qkv, keys, values, 2, 8, twice=True)
    expected = kernel_references.spatial_attention(qkv.double(), keys.double(), values.double(), 2, 8, twice=True)
    assert torch.isfinite(output).all()
    for half in (slice(2), slice(2, None)):
        _close(output[half], expected[half], dtype)


@pytest.mark.gpu
def test_other_attention_is_left_to_torch() -> None:
    assert not layers.takes_attention(_random(1, 96, 3 * 320), None, 8)
    assert not layers.takes_attention(_random(1, 128, 3 * 640), None, 8)
    assert not layers.takes_attention(_random(1, 128, 3 * 320), _random(1, 100, 320), 8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("at_once", [1 << 27, 2 * 192**2])
def test_wide_attention(at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_SCORES", at_once)
    queries, keys, values = (_random(5, 192, 512, seed=seed, dtype=dtype) for seed in range(3))
    queries *= 0.1
    expected = kernel_references.wide_attention(queries.double(), keys.double(), values.double())
    _close(layers.wide_attention(queries, keys, values), expected, dtype)


def _denoised(denoiser: Denoiser, prompt_tokens: int, split: int, twice: bool) -> Tensor:
    """One evaluation of two clips of three frames, with inputs that are the same on every device and in every type."""
    generator = torch.Generator().manual_seed(3)
    parameter = next(denoiser.parameters())

    def given(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(parameter)

    tokens = given(max(1, split), prompt_tokens, 24)
    sides = (16, 16, 8, 8, 4, 4, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16)
    contexts = tuple(
        LayerContext(layer.attn1.project(given(max(1, split), side**2, layer.attn1.to_out.in_features)),
                     layer.attn2.project(tokens), layer.attn2.project(given(1, 1, 24)))  # type: ignore[union-attr]
        for layer, side in zip(denoiser.transformers(), sides, strict=True)
    )  # fmt: skip
    control = (given(6, 320, 16, 16),)
    return denoiser(given(2, 3, 4, 16, 16), torch.tensor([400.0]).to(parameter.device), control, contexts, split, twice)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("prompt_tokens", "split", "twice"), [(1, 1, False), (5, 1, False), (5, 2, False), (5, 0, False), (5, 2, True)]
)
def test_accelerated_denoiser(prompt_tokens: int, split: int, twice: bool) -> None:
    """At the widths that the kernels take: nearer to the exact result than the plain layers in half precision."""
    config = UNetConfig((320, 320, 320, 640), prompt_channels=24, prompt_scale=3.0, motion=True)
    with torch.device("cuda"):
        exact = _fill(Denoiser(config)).bfloat16().float()
    plain = copy.deepcopy(exact).bfloat16().to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    autoencoder = build_autoencoder(AutoencoderConfig((8, 8, 16, 16), layers=1, groups=4))
    networks: Any = SimpleNamespace(denoiser=fast, autoencoder=autoencoder)
    accelerate(networks, torch.device("cuda", 0), torch.bfloat16)
    assert "forward" in vars(fast.mid_block.resnets[0])  # type: ignore[index]
    with torch.no_grad():
        expected, output, usual = (_denoised(one, prompt_tokens, split, twice) for one in (exact, fast, plain))
    error, bound = (float((one.float() - expected).norm() / expected.norm()) for one in (output, usual))
    assert error < max(0.02, 1.2 * bound), (error, bound)


@pytest.mark.gpu
def test_accelerated_autoencoder() -> None:
    exact = (
        _fill(build_autoencoder(AutoencoderConfig((64, 64, 128, 128), layers=1, groups=32))).bfloat16().float().cuda()
    )
    plain = copy.deepcopy(exact).bfloat16().to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    networks: Any = SimpleNamespace(denoiser=Denoiser(UNetConfig((320,) * 4, motion=True)), autoencoder=fast)
    accelerate(networks, torch.device("cuda", 0), torch.bfloat16)
    images = _random(2, 3, 64, 128).clamp(-1, 1)
    with torch.no_grad():
        for call in (lambda vae, x: vae.encode(x).latent_dist.mode(), lambda vae, x: vae.decode(x).sample):
            expected = call(exact, images.float())
            error, bound = (
                float((call(vae, images).float() - expected).norm() / expected.norm()) for vae in (fast, plain)
            )
            assert error < max(0.01, 1.2 * bound), (error, bound)
            images = expected.bfloat16()


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_recorded_backbone(name: str) -> None:
    """Graphs give what the plain networks give, for changed inputs too, and outputs are not overwritten."""
    plain = assemble(name, seeded_networks(name), device="cuda")
    fast = assemble(name, seeded_networks(name), device="cuda", compiled=True)
    assert fast.replay is not None
    latents, *state = _states(plain)
    _, *fast_state = _states(fast)
    outputs, expected = [], []
    for timestep in (999, 499, 99):
        outputs.append(fast.predict_guided(latents, timestep, *fast_state, 2.0))
        expected.append(plain.predict_guided(latents, timestep, *state, 2.0))
        outputs.append(fast.predict(latents, timestep, *fast_state, conditional=True))
        expected.append(plain.predict(latents, timestep, *state, conditional=True))
        latents += 0.1  # in place: the same tensor with other values
    for one, other in zip(outputs, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-2
    frames = torch.rand(1, 3, 128, 128, 3, device="cuda")
    torch.testing.assert_close(fast.encode(frames), plain.encode(frames), atol=0.05, rtol=0.05)


def _states(backbone: Any, device: str = "cuda", frames: int = 3, clips: int = 1) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(clips, 128, 128, 3, generator=generator).to(device)
    maps = torch.rand(clips, frames, 128, 128, 3, generator=generator).to(device)
    latents = torch.randn(clips, frames, 4, 16, 16, generator=generator).to(device)
    return latents, backbone.prepare_reference(image, image), backbone.prepare_control(maps)
