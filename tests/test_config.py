"""Merging, checking and refusing configurations."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import pytest

from zero1toa import config
from zero1toa.errors import ConfigError


def _documented(cls: type) -> set[str]:
    """Fields of ``cls`` that are followed by a docstring."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id
        for field, after in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


@pytest.mark.parametrize("name", config.presets())
def test_presets_load_and_name_themselves(name: str):
    assert config.load([f"preset={name}"]).preset == name


def test_the_presets_exist():
    assert {"preview", "standard", "paper", "fast"} <= set(config.presets())


def test_paper_preset_is_the_paper():
    paper = config.load(["preset=paper"])
    assert (paper.loss.l1, paper.loss.perceptual, paper.loss.position, paper.loss.scaling) == (10.0, 10.0, 0.1, 10.0)
    clips = (paper.curriculum.spatial_clips, paper.curriculum.synthetic_clips, paper.curriculum.real_clips)
    assert clips == (20, 10, 10)
    loop = (paper.curriculum.temporal_start, paper.curriculum.real_start, paper.loop.iterations)
    assert loop == (5000, 8000, 10_000)
    assert (paper.loop.update_interval, paper.diffusion.strength, paper.loop.portrait_share) == (30, 1.0, 0.0)
    avatar = paper.avatar
    additions = (avatar.project_portrait, avatar.landmark_offset, avatar.hair_volume, paper.curriculum.wide_jaw)
    assert additions == (False, False, False, False)


def test_paper_preset_says_every_number_itself_and_where_it_is_from():
    lines = (config.config_folder() / "preset" / "paper.yaml").read_text().splitlines()
    values = [line for line in lines if line.startswith("  ") and not line.lstrip().startswith("#")]
    bare = [line for line in values if not re.search(r"\S\s+# \S", line)]
    assert not bare, "no source: " + "; ".join(bare)
    said = config.load(["preset=paper"])
    assert said.optim.betas == (0.9, 0.99)
    assert (said.optim.eps, said.optim.position, said.optim.color, said.optim.opacity) == (1e-15, 2e-4, 1.25e-2, 1e-2)
    assert (said.optim.scaling, said.optim.rotation) == (5e-3, 1e-3)
    assert (said.loss.position_threshold, said.loss.scaling_threshold) == (1.0, 0.6)
    assert (said.curriculum.unlock_interval, said.curriculum.frames, said.loop.batch_frames) == (300, 16, 8)
    diffusion = (said.diffusion.guidance, said.diffusion.steps, said.diffusion.inversion_guidance, said.render.size)
    assert diffusion == (3.5, 25, 1.0, 512)
    assert (said.avatar.gaussians_per_triangle, said.avatar.lid_opacity) == (10, 0.9)
    assert (said.curriculum.fovy, said.curriculum.temporal_azimuth) == ((40.0, 70.0), (-15.0, 15.0))
    assert (said.curriculum.spatial_azimuth[1], said.curriculum.spatial_elevation) == (60.0, (-15.0, 15.0))


def test_fast_preset_is_the_paper_but_for_steps_and_strength():
    paper, fast = config.load(["preset=paper"]), config.load(["preset=fast"])
    assert (fast.preset, fast.diffusion.steps, fast.diffusion.strength) == ("fast", 20, 0.5)
    same = dataclasses.replace(fast.diffusion, steps=paper.diffusion.steps, strength=paper.diffusion.strength)
    assert dataclasses.replace(fast, preset="paper", diffusion=same) == paper


def test_a_preset_builds_on_the_one_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config, "config_folder", lambda: tmp_path)
    (tmp_path / "preset").mkdir()
    files = {
        "ground": "loop: {iterations: 1, batch_frames: 2, update_interval: 3}\n",
        "middle": "preset: ground\nloop: {iterations: 4, batch_frames: 5}\n",
        "top": "preset: middle\nloop: {iterations: 6}\n",
        "lost": "preset: grund\n",
    }
    for name, text in files.items():
        (tmp_path / "preset" / f"{name}.yaml").write_text(text)
    merged = config.load(["preset=top"])
    loop = merged.loop
    assert (merged.preset, loop.iterations, loop.batch_frames, loop.update_interval) == ("top", 6, 5, 3)
    with pytest.raises(ConfigError, match="there is no preset 'grund'; did you mean 'ground'"):
        config.load(["preset=lost"])


def test_overrides_beat_the_file_and_the_file_beats_the_preset(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: standard\nseed: 5\nloop: {iterations: 123, batch_frames: 4}\n")
    merged = config.load(["loop.iterations=7"], file)
    assert (merged.preset, merged.seed, merged.loop.iterations, merged.loop.batch_frames) == ("standard", 5, 7, 4)


def test_the_backbone_has_a_short_key():
    assert config.load(["backbone=aniportrait"]).diffusion.backbone == "aniportrait"
    assert config.load(["diffusion.backbone=compact", "backbone=echomimic"]).diffusion.backbone == "echomimic"
    config.OverrideChecker().check("backbone=echomimic")
    with pytest.raises(ConfigError, match="unknown configuration key 'backbones'"):
        config.load(["backbones=aniportrait"])


def test_lists_and_tuples_are_read():
    assert config.load(["curriculum.fovy=[35,45]"]).curriculum.fovy == (35.0, 45.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loop.iteration=7"], "did you mean 'loop.iterations'"),
        (["nonsense=1"], "unknown configuration key 'nonsense'"),
        (["loop.iterations=many"], "loop.iterations"),
        (["loop"], "write key=value"),
        (["preset=previev"], "did you mean 'preview'"),
        (["loop=3"], "'loop' is a section"),
    ],
)
def test_mistakes_are_named(overrides: list[str], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        config.load(overrides)


def test_bad_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no configuration file"):
        config.load(file=tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("loop: [1, 2\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(file=broken)
    broken.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        config.load(file=broken)


def test_every_value_is_documented():
    for section in (config.Config, *(f.default_factory for f in dataclasses.fields(config.Config))):
        if dataclasses.is_dataclass(section):
            values = {f.name for f in dataclasses.fields(section) if not dataclasses.is_dataclass(f.default_factory)}
            assert _documented(section) >= values, section


@pytest.mark.parametrize(
    "override",
    [
        "loop.iterations=7", "loop.iterations=abc", "loop.iterations=1.5", "seed=", "portrait=3", "seed.x=3",
        "portrait.fase=1", "portrait.matting=a: b", "portrait.matting=12", "curriculum.fovy=[30, 50]",
        "curriculum.fovy=[a, b]", "curriculum.fovy=[1, 2, 3]", "curriculum.fovy=5", "loop.iterations=[", "a b=3",
        "diffusion.options.anything=3", "portrait.matting=${nothing}",
    ],
)  # fmt: skip
def test_single_overrides_are_judged_as_load_judges_them(override: str):
    def refused(check) -> bool:
        try:
            check()
        except ConfigError:
            return True
        return False

    checker = config.OverrideChecker()
    expected = refused(lambda: config.load([override]))
    # What was checked before, right or wrong, does not matter.
    for _ in range(2):
        assert refused(lambda: checker.check(override)) == expected
        assert not refused(lambda: checker.check("loop.iterations=3"))
        assert refused(lambda: checker.check("loop.iterations=three"))


def test_keys_are_checked_without_a_value():
    checker = config.OverrideChecker()
    checker.check_key("portrait.face")
    with pytest.raises(ConfigError, match=r"portrait\.fase.*did you mean 'portrait\.face'"):
        checker.check_key("portrait.fase")
    with pytest.raises(ConfigError, match="'portrait' is a section"):
        checker.check_key("portrait")
