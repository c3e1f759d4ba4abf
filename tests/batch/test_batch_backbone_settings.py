"""The file of settings: what it says, and what it is refused for."""

from pathlib import Path

import pytest

from zero1toa.batch.backbone_settings import read_settings
from zero1toa.config import config_folder, load
from zero1toa.errors import ConfigError


def _read(tmp_path: Path, text: str):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return read_settings(path)


def test_sections_and_overrides_mean_the_same(tmp_path: Path):
    text = """
plain:
sections:
  diffusion: {steps: 7, options: {betas: scaled_linear, half_reference: false}}
  curriculum: {fovy: [30.0, 50.0]}
listed:
  overrides: [diffusion.steps=7, diffusion.options.betas=scaled_linear, diffusion.options.half_reference=false,
              "curriculum.fovy=[30.0, 50.0]"]
"""
    plain, sections, listed = _read(tmp_path, text)
    assert [one.name for one in (plain, sections, listed)] == ["plain", "sections", "listed"]
    assert load(plain.overrides) == load()
    config = load(sections.overrides)
    assert config == load(listed.overrides)
    assert (config.diffusion.steps, tuple(config.curriculum.fovy)) == (7, (30.0, 50.0))
    assert config.diffusion.options == {"betas": "scaled_linear", "half_reference": False}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {diffusion: {stesp: 3}}", "setting 'a': unknown configuration key .*did you mean 'diffusion.steps'"),
        ("a: {overrides: [diffusion.steps=many]}", "setting 'a': .*diffusion.steps"),
        ("a: {overrides: diffusion.steps=3}", "must be a list"),
        ("a: {overrides: [seed=3], seed: 4}", "stand alone"),
        ("a: {diffusion: 3}", "setting 'a': .*section"),
        ("a: 3", "give configuration sections"),
        ("a: {preset: paper}", "share one preset"),
        ("a/b: {}", "becomes a folder"),
        ("wandb: {}", "becomes a folder"),
        ("backbones.md: {}", "becomes a folder"),
        ("a: {}\na: {}", "duplicate"),
        ("", "must hold names"),
        ("- a", "must hold names"),
        ("a: [", "cannot be read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        _read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no settings file"):
        read_settings(tmp_path / "none.yaml")


def test_the_shipped_settings_are_valid():
    settings = {one.name: load(one.overrides) for one in read_settings(config_folder() / "benchmark/backbones.yaml")}
    assert settings["compact-8-steps"].diffusion.steps == 8
    assert not settings["no-refinement"].diffusion.enabled
