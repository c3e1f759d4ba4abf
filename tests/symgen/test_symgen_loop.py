"""Whole generations, tiny: one seed one result, interruptions leave no trace, foreign folders are refused."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.bundle import read_bundle
from zero1toa.avatar.creation import create_avatar
from zero1toa.errors import BackboneError, OutputError, StoreError, ZeroOneError
from zero1toa.head.registry import load_head
from zero1toa.storage import Storage
from zero1toa.symgen import loop, refinery
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.reconstruct import Reconstruction
from zero1toa.symgen.store import SymGENStore


class StopError(Exception):
    pass


def record(events, stop_at=None):
    def progress(event):
        events.append(event)
        if stop_at is not None and (event.kind, event.iteration) == stop_at:
            raise StopError

    return progress


def gaussians(result):
    return read_bundle(result.bundle).avatar.tensors()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    events = []
    folder = tmp_path_factory.mktemp("plain")
    return generate_serial(tiny_portrait(), tiny_config(), folder, record(events)), events


def test_the_paper_alternates_one_update_with_an_interval(plain):
    result, events = plain
    order = [(e.kind, e.iteration) for e in events if e.kind in ("answered", "iteration")]
    expected = []
    for k in range(12):
        expected += [("answered", k)] * (k % 2 == 0) + [("iteration", k + 1)]
    assert order == expected
    assert [e.kind for e in events[:1] + events[-1:]] == ["started", "finished"]
    assert (result.requested, result.refined) == (6, 6)
    stages = [e.message.split("/")[0] for e in events if e.kind == "answered"]
    assert stages[:3] == ["spatial"] * 3
    assert stages[3] == "temporal_synthetic"  # new at iteration 6
    assert stages[5] == "temporal_real"  # new at iteration 9, asked for at 10


def test_everything_promised_is_on_disk(plain):
    result, events = plain
    bundle = read_bundle(result.bundle, load_head("canonical"))
    assert len(bundle.avatar) == result.gaussians
    store = SymGENStore(result.dataset, result.avatar)
    assert sum(result.refinements.values()) == store.sequence == 6
    assert {str(r.key) for r in store.records()} == set(result.refinements)
    for written in store.records():
        assert written.unlocked == (4 if written.key.stage != "spatial" else min(written.render_step // 2 + 1, 4))
    assert result.checkpoint.exists("state.pt")
    assert [Path(e.preview).is_file() for e in events if e.kind == "preview"] == [True, True]
    assert result.landmarks == {"detected": 0.0, "projected": 1.0, "missing": 0.0}
    assert [point["iteration"] for point in result.losses] == list(range(1, 13))
    assert {"train", "render", "denoise", "decode", "encode"} <= set(result.timings)


def test_training_lowers_the_loss_on_the_portrait(tmp_path):
    config = tiny_config("loop.iterations=30", "loop.portrait_share=1.0", "diffusion.enabled=false")
    result = generate_serial(tiny_portrait(), config, tmp_path)
    losses = [point["l1"] for point in result.losses]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize("stop_at", [("iteration", 3), ("checkpoint", 4), ("answered", 6), ("iteration", 11)])
def test_an_interruption_leaves_no_trace(plain, tmp_path, stop_at):
    before, after = [], []
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(), tmp_path, record(before, stop_at))
    result = generate_serial(tiny_portrait(), tiny_config(), tmp_path, record(after))
    assert same(gaussians(result), gaussians(plain[0]))
    assert result.continued_from == stop_at[1] // 4 * 4
    store = SymGENStore(result.dataset, result.avatar)
    assert store.sequence == 6  # nothing was committed twice
    assert result.losses == plain[0].losses
    assert result.refined == 6


def test_work_that_was_committed_is_not_repeated(tmp_path, monkeypatch):
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(), tmp_path, record([], ("iteration", 3)))
    calls = []
    real = refinery.refine_together
    monkeypatch.setattr(refinery, "refine_together", lambda *a: calls.append(a[0][0].render_step) or real(*a))
    generate_serial(tiny_portrait(), tiny_config(), tmp_path)
    assert calls == [4, 6, 8, 10]  # those of iterations 0 and 2 were in the dataset already


def test_a_finished_run_finishes_again_at_once(plain):
    result, _ = plain
    again = generate_serial(tiny_portrait(), tiny_config(), result.bundle.local.parent)
    assert again.continued_from == 12
    assert same(gaussians(again), gaussians(result))


@pytest.mark.parametrize("url", ["dir::file://{}/out", "memory://{}/out"])
def test_the_output_may_be_elsewhere(plain, url, tmp_path):
    output = Storage(url.format(tmp_path))
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(), output, record([], ("iteration", 5)))
    result = generate_serial(tiny_portrait(), tiny_config(), output)
    assert result.continued_from == 4
    assert same(gaussians(result), gaussians(plain[0]))
    assert output.exists("preview.png")


def test_foreign_folders_are_refused(plain):
    folder = plain[0].bundle.local.parent
    with pytest.raises(OutputError, match=r"loop\.iterations was 12 and is 13"):
        generate_serial(tiny_portrait(), tiny_config("loop.iterations=13"), folder)
    other = dataclasses.replace(tiny_portrait(), image=tiny_portrait().image // 2)
    with pytest.raises(OutputError, match="another portrait"):
        generate_serial(other, tiny_config(), folder)


def test_what_does_not_shape_the_avatar_may_change(plain):
    config = tiny_config("loop.checkpoint_every=7", "tracking.wandb=disabled", "distributed.window=2")
    assert generate_serial(tiny_portrait(), config, plain[0].bundle.local.parent).continued_from == 12


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(), tmp_path, record([], ("iteration", 5)))
    state = tmp_path / "checkpoint" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(StoreError, match=r"state\.pt is damaged"):
        generate_serial(tiny_portrait(), tiny_config(), tmp_path)


def failing(monkeypatch, fails):
    """Make the refiner fail in the calls that the iterator says."""
    real, outcomes = refinery.refine_together, iter(fails)

    def flaky(*arguments):
        if next(outcomes):
            raise BackboneError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(refinery, "refine_together", flaky)


def test_a_clip_that_fails_once_is_tried_again(plain, tmp_path, monkeypatch):
    failing(monkeypatch, itertools.chain([True, True], itertools.repeat(False)))
    result = generate_serial(tiny_portrait(), tiny_config(), tmp_path)
    assert result.refined == result.requested
    assert same(gaussians(result), gaussians(plain[0]))


def test_a_clip_that_fails_three_times_ends_the_run_which_goes_on_there_when_mended(plain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, itertools.chain([False] * 3, itertools.repeat(True)))
        with pytest.raises(BackboneError, match=r"relaxed-00 could not be refined in 3 attempts: out of memory"):
            generate_serial(tiny_portrait(), tiny_config(), tmp_path)
    assert not (tmp_path / "avatar").exists()
    result = generate_serial(tiny_portrait(), tiny_config(), tmp_path)
    assert result.continued_from == 6  # three clips were refined, each for two iterations
    assert result.refined == result.requested
    assert same(gaussians(result), gaussians(plain[0]))


def test_without_refinement_each_clip_keeps_its_first_render(tmp_path):
    events = []
    result = generate_serial(tiny_portrait(), tiny_config("diffusion.enabled=false"), tmp_path, record(events))
    assert result.refinements == dict.fromkeys(result.refinements, 1)
    assert len(result.refinements) == 4
    store = SymGENStore(result.dataset, result.avatar)
    assert all(r.unlocked == 4 for r in store.records())
    assert "denoise" not in result.timings


def test_density_control_survives_an_interruption(tmp_path):
    overrides = (
        "density.every=3",
        "density.start=3",
        "density.stop=12",
        "density.gradient=1e-7",
        "density.max_gaussians=14000",
    )
    whole = generate_serial(tiny_portrait(), tiny_config(*overrides), tmp_path / "a")
    assert whole.gaussians > 12_056
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(*overrides), tmp_path / "b", record([], ("iteration", 7)))
    halves = generate_serial(tiny_portrait(), tiny_config(*overrides), tmp_path / "b")
    assert same(gaussians(whole), gaussians(halves))


def test_margins_and_slanted_surfaces_are_left_as_they_were(tmp_path):
    """Eyes, lids and lips' margins keep their first colours; what only a slanted view shows is not trained by it."""
    portrait, config = tiny_portrait(), tiny_config("avatar.project_portrait=true")
    head = load_head("canonical")
    kept = create_avatar(head, portrait, config.avatar)
    result = generate_serial(portrait, config, tmp_path, head=head)
    after = read_bundle(result.bundle, head).avatar
    moved = (after.sh0 - kept.avatar.sh0).abs().amax(-1) > 0
    regions = torch.stack([head.regions[f"{part}_{side}"] for part in ("eye", "lids") for side in ("left", "right")])
    assert kept.kept[regions.any(0)[after.binding]].all()
    assert not moved[kept.kept].any()
    assert moved[~kept.kept].float().mean() > 0.2

    a, b, c = head.vertices(head.neutral())[head.faces].unbind(1)
    behind = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)[:, 2] < -0.95
    assert behind.sum() > 100
    assert not moved[(behind & head.regions["scalp"])[after.binding]].any()  # cameras go to 60 degrees


@pytest.mark.parametrize("grey", [True, False])
def test_a_grey_portrait_takes_no_tint_from_its_clips(grey, tmp_path, monkeypatch):
    fetch = SymGENStore.fetch

    def tinted(self, key, version):
        frames, unlocked = fetch(self, key, version)
        return np.clip(frames.astype(int) + np.array([40, 0, -40]), 0, 255).astype(np.uint8), unlocked

    monkeypatch.setattr(SymGENStore, "fetch", tinted)
    image = tiny_portrait().image.copy()
    if grey:
        image[..., :3] = image[..., :1]
    result = generate_serial(
        dataclasses.replace(tiny_portrait(), image=image), tiny_config("avatar.project_portrait=true"), tmp_path
    )
    colors = gaussians(result)["sh0"]
    assert float((colors.amax(-1) - colors.amin(-1)).max() < 1e-5) == grey


def test_everything_is_trained_where_the_paper_is_asked_for(tmp_path):
    config = tiny_config("avatar.keep_margins=false", "avatar.facing_only=false")
    head = load_head("canonical")
    first = create_avatar(head, tiny_portrait(), config.avatar).avatar
    result = generate_serial(tiny_portrait(), config, tmp_path, head=head)
    after = read_bundle(result.bundle, head).avatar
    eyes = (head.regions["eye_left"] | head.regions["eye_right"])[after.binding]
    assert ((after.sh0 - first.sh0).abs().amax(-1)[eyes] > 0).any()


def test_a_loss_that_is_not_finite_ends_the_run_and_is_named(tmp_path, monkeypatch):
    made = []

    class Broken(Reconstruction):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            made.append(self)

    def progress(event):
        if (event.kind, event.iteration) == ("iteration", 5):
            made[0]._loss.config.l1 = float("inf")

    monkeypatch.setattr(loop, "Reconstruction", Broken)
    with pytest.raises(ZeroOneError, match="the loss of iteration 6 is"):
        generate_serial(tiny_portrait(), tiny_config(), tmp_path, progress)
    # The checkpoint of iteration 4 stays, from which a run with other settings' repair can go on.
    assert generate_serial(tiny_portrait(), tiny_config(), tmp_path).continued_from == 4
