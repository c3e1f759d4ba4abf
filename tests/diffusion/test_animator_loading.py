"""Checkpoints in the released layouts: every key accounted for, nothing run, converted once."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.diffusion.tiny_animators import CONFIGS, NAMES, seeded_networks
from zero1toa import assets
from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
from zero1toa.diffusion.animator import checkpoints
from zero1toa.diffusion.animator.cache import cache_folder, load_module
from zero1toa.diffusion.animator.layout import AUTOENCODER, GUIDER, Layout
from zero1toa.diffusion.animator.networks import LAYOUTS, build_networks, load_networks
from zero1toa.diffusion.registry import load_backbone
from zero1toa.errors import AssetError, ConfigError

FILES = {module.SPEC.name: module.FILES for module in (follow_your_emoji, aniportrait, echomimic)}


def released(module: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """What the public implementation would have saved."""
    state: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        sources = layout.sources(key)
        parts = value.chunk(len(sources)) if len(sources) > 1 else [value]
        state |= {source: part.clone() for source, part in zip(sources, parts, strict=True)}
    return state


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(asset: str, state: Mapping[str, Tensor]) -> Path:
    """Lay a checkpoint where an asset is looked for."""
    path = assets.get(asset).places[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path)
    return path


def install(name: str) -> dict[str, nn.Module]:
    """Install tiny checkpoints of a backbone and return what they hold."""
    networks = seeded_networks(name).items()
    for network, module in networks.items():
        state = released(module, LAYOUTS[network])
        files = FILES[name][network]
        if len(files) == 2:  # motion modules lie in a file of their own
            put(files[0], {key: value for key, value in state.items() if "motion_modules" in key})
            state = {key: value for key, value in state.items() if "motion_modules" not in key}
        put(files[-1], state)
    return networks


@pytest.fixture
def guider(tmp_path: Path) -> tuple[nn.Module, dict[str, Tensor], Path]:
    """An empty landmark guider, a checkpoint that fits it, and where to save it."""
    state = released(seeded_networks("echomimic").guider, GUIDER)
    return build_networks(CONFIGS["echomimic"]).guider, state, tmp_path / "face_locator.pth"


@pytest.mark.parametrize("name", NAMES)
def test_installed_checkpoints_become_networks(name: str, home: Path) -> None:
    originals = install(name)
    for _ in range(2):  # from the released files, then from the cache
        loaded = load_networks(name, CONFIGS[name], FILES[name]).items()
        assert set(loaded) == set(originals)
        for network, module in loaded.items():
            expected = originals[network].state_dict()
            for key, value in module.state_dict().items():
                assert torch.equal(value, expected[key]), f"{network} {key}"
    converted = sorted(path.name.rsplit("-", 1)[0] for path in cache_folder().iterdir())
    sources = [assets.get(FILES[name][network][-1]).places[0] for network in originals if network != "autoencoder"]
    assert converted == sorted(f"{path.parent.name}-{path.stem}" for path in sources)


def test_a_released_backbone_with_wrong_sizes_is_named() -> None:
    """The real sizes against the tiny checkpoints: through the registry, as a user would meet it."""
    install("follow_your_emoji")
    with pytest.raises(
        AssetError, match=r"unet\.pth does not hold the denoiser of follow_your_emoji; keys .* of another shape"
    ):
        load_backbone("follow_your_emoji")


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_all_named(name: str, home: Path) -> None:
    with pytest.raises(AssetError) as raised:
        load_backbone(name)
    message = str(raised.value)
    needed = {asset for files in FILES[name].values() for asset in files}
    assert f"lacks {len(needed)} of its {len(needed)} files in {home}" in message
    for asset in needed:
        assert f"zero1toa assets install {asset} {assets.get(asset).download}" in message
    assert "\n" not in message
    put("sd-vae", {"x": torch.zeros(1)})
    with pytest.raises(AssetError, match=f"lacks {len(needed) - 1} of its {len(needed)}"):
        load_backbone(name)


def test_second_load_reads_only_the_cache(guider, monkeypatch: pytest.MonkeyPatch) -> None:
    module, state, path = guider
    torch.save(state, path)
    load_module(module, [path], GUIDER, "guider")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the released file was read again"))
    again = build_networks(CONFIGS["echomimic"]).guider
    load_module(again, [path], GUIDER, "guider")
    assert torch.equal(again.conv_in.weight, state["conv_in.weight"])


def test_a_changed_checkpoint_is_converted_anew(guider) -> None:
    module, state, path = guider
    torch.save(state, path)
    load_module(module, [path], GUIDER, "guider")
    before = path.stat()
    torch.save(state | {"conv_in.bias": state["conv_in.bias"] + 1}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    load_module(module, [path], GUIDER, "guider")
    assert torch.equal(module.conv_in.bias, state["conv_in.bias"] + 1)
    assert len(list(cache_folder().iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other tensors", "empty"])
def test_a_damaged_cache_is_made_again(guider, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    module, state, path = guider
    torch.save(state, path)
    load_module(module, [path], GUIDER, "guider")
    (cached,) = cache_folder().iterdir()
    whole = cached.read_bytes()
    if damage == "other tensors":
        save_file({"x": torch.zeros(3)}, cached)
    else:
        cached.write_bytes({"truncated": whole[:-100], "garbage": b"\xff" * 500, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        load_module(module, [path], GUIDER, "guider")
    assert "made again" in caplog.text
    assert torch.equal(module.conv_in.weight, state["conv_in.weight"])
    assert load_file(cached).keys() == module.state_dict().keys()
    assert [entry.name for entry in cache_folder().iterdir()] == [cached.name]


def test_without_a_place_for_the_cache_it_still_loads(guider, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, state, path = guider
    torch.save(state, path)
    home.mkdir()
    cache_folder().write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        load_module(module, [path], GUIDER, "guider")
    assert "is not kept" in caplog.text
    assert torch.equal(module.conv_in.weight, state["conv_in.weight"])


def _lacking(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("blocks.2")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lacking, "2 missing: blocks.2.weight, blocks.2.bias"),
        (lambda s: s | {"extra.weight": torch.zeros(2)}, "1 left over: extra.weight"),
        (
            lambda s: s | {"conv_in.weight": torch.zeros(16, 1, 3, 3)},
            r"1 of another shape: conv_in.weight is \[16, 1, 3, 3\], not \[16, 3, 3, 3\]",
        ),
        (lambda s: _lacking(s) | {"extra": torch.zeros(2)}, "2 missing: .*; 1 left over: extra"),
        (lambda s: {f"module.{key}": value for key, value in s.items()}, r"16 missing: .*, …; 16 left over: .*, …"),
        (lambda s: {}, "16 missing"),
    ],
)
def test_keys_that_do_not_fit_are_named(guider, change, words: str, home: Path) -> None:
    module, state, path = guider
    torch.save(change(state), path)
    with pytest.raises(AssetError, match=f"face_locator.pth does not hold the guider; keys {words}"):
        load_module(module, [path], GUIDER, "guider")
    assert not cache_folder().exists()


def test_a_part_of_a_fused_layer_is_named() -> None:
    networks, name = install("aniportrait"), "aniportrait"
    state = released(networks["reference"], LAYOUTS["reference"])
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"
    put("aniportrait-reference-unet", {k: v for k, v in state.items() if k != key})
    with pytest.raises(AssetError, match=f"reference_unet.pth .* 1 missing: {key}"):
        load_networks(name, CONFIGS[name], FILES[name])


class _Code:
    """Leaves a file behind when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_code_is_refused_and_not_run(guider, tmp_path: Path) -> None:
    module, state, path = guider
    trace = tmp_path / "it-ran"
    torch.save(state | {"conv_in.weight": _Code(trace)}, path)
    with pytest.raises(AssetError, match=r"face_locator\.pth, the guider, .* holds pickled code, which is never run"):
        load_module(module, [path], GUIDER, "guider")
    assert not trace.exists()
    path.write_bytes(pickle.dumps(_Code(trace)))
    with pytest.raises(AssetError, match=r"face_locator\.pth"):
        load_module(module, [path], GUIDER, "guider")
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files_are_named(guider, share: float, suffix: str) -> None:
    module, state, path = guider
    path = path.with_suffix(suffix)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AssetError, match=r"face_locator\.\w+, the guider, .*(damaged|truncated).*; fetch it again"):
        load_module(module, [path], GUIDER, "guider")
    assert not cache_folder().exists()


def test_other_contents_are_named(guider) -> None:
    module, state, path = guider
    for content in ({"state_dict": state}, [torch.zeros(2)], {"epoch": 3}):
        torch.save(content, path)
        with pytest.raises(AssetError, match="does not hold a plain state dict"):
            load_module(module, [path], GUIDER, "guider")
    with pytest.raises(AssetError, match=r"none\.pth, the guider, is missing"):
        load_module(module, [path.with_name("none.pth")], GUIDER, "guider")


def test_of_repeated_keys_the_later_file_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "motion.pth", tmp_path / "unet.pth"
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, first)
    torch.save({"b": torch.ones(1), "c": torch.ones(1)}, second)
    merged = checkpoints.read_merged([first, second], "denoiser")
    assert {key: float(value) for key, value in merged.items()} == {"a": 0.0, "b": 1.0, "c": 1.0}


def test_old_names_of_the_autoencoder_are_read(tmp_path: Path) -> None:
    original = seeded_networks("echomimic").autoencoder
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state: dict[str, Tensor] = {}
    for key, value in original.state_dict().items():
        for new, former in old.items():
            key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{former}.")
        state[key] = value
    assert any("proj_attn" in key for key in state)
    path = tmp_path / "vae.safetensors"
    save_file(state, path)
    module = build_networks(CONFIGS["echomimic"]).autoencoder
    load_module(module, [path], AUTOENCODER, "autoencoder")
    for key, value in module.state_dict().items():
        assert torch.equal(value, original.state_dict()[key])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("compact", {"betas": "linear"}, "no option 'betas'; it has no options"),
        ("aniportrait", {"beta": "linear"}, "did you mean 'betas'.*its options: betas, statistics"),
        ("aniportrait", {"betas": "cosine"}, "options.betas=cosine is unknown"),
        ("aniportrait", {"statistics": "trainin"}, "did you mean 'training'"),
        ("echomimic", {"mouth": "yes"}, "mouth=yes must be true or false"),
        ("echomimic", {"window_shift": -1}, "window_shift=-1 must be a number of frames"),
    ],
)
def test_impossible_options_are_refused_before_any_loading(name: str, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_backbone(name, options=options)


def test_doctor_says_which_animators_are_complete() -> None:
    from zero1toa.commands import doctor

    finding = doctor._animators()
    assert not finding.best
    assert "follow_your_emoji needs follow-your-emoji-unet" in finding.advice
    install("echomimic")
    finding = doctor._animators()
    assert finding.best
    assert finding.used.startswith("echomimic,")
    assert "aniportrait needs" in finding.advice
    assert "sd-vae" not in finding.advice


def test_installing_a_file_without_known_checksum(tmp_path: Path) -> None:
    good = tmp_path / "unet.pth"
    torch.save({"conv_in.weight": torch.randn(1000)}, good)
    assert assets.install("follow-your-emoji-unet", good).read_bytes() == good.read_bytes()
    whole = good.read_bytes()
    for damaged in (whole[:-300], whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        good.write_bytes(damaged)
        with pytest.raises(AssetError, match="damaged"):
            assets.install("follow-your-emoji-unet", good)
    vae = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"x": torch.zeros(100)}, vae)
    assets.install("sd-vae", vae)
    vae.write_bytes(vae.read_bytes()[:-10])
    with pytest.raises(AssetError, match="damaged or incomplete"):
        assets.install("sd-vae", vae)
