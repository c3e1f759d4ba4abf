"""Every ablation and baseline trains, and changes what it says it changes."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_portrait

from tests.diffusion.tiny_animators import assemble, seeded_networks
from zero1toa.avatar.bundle import read_bundle
from zero1toa.avatar.creation import create_avatar
from zero1toa.config import config_folder, load
from zero1toa.curriculum.schedule import Schedule
from zero1toa.curriculum.turns import Turns
from zero1toa.diffusion import registry
from zero1toa.errors import ConfigError
from zero1toa.head.registry import load_head
from zero1toa.planning.schedule import plan_schedule
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.store import SymGENStore

ABLATIONS = sorted((config_folder() / "ablation").glob("*.yaml"))
STEPS = 200


def ablation(name, *overrides):
    return load(overrides, config_folder() / "ablation" / f"{name}.yaml")


@pytest.fixture(scope="module")
def head():
    return load_head("canonical")


def test_all_are_there_and_combine_with_every_preset():
    names = [path.stem for path in ABLATIONS]
    losses = ["ism", "nfsd", "one_time_dataset", "random_order", "sds", "spatial_only", "temporal_only"]
    assert names == losses
    for path in ABLATIONS:
        merged = load(["preset=paper"], path)
        assert merged.preset == "paper"
        assert merged != load(["preset=paper"])
        assert path.read_text().startswith("# ")


def test_spatial_and_temporal_only_leave_the_other_clips_out(head):
    spatial = plan_schedule(ablation("spatial_only", "preset=paper"), head)
    temporal = plan_schedule(ablation("temporal_only", "preset=paper"), head)
    assert {r.key.stage for r in spatial.requests} == {"spatial"}
    assert {r.key.stage for r in temporal.requests} == {"temporal_synthetic", "temporal_real"}
    assert len(spatial.requests) == len(temporal.requests) == 334
    assert temporal.requests[0].step == 0
    assert min(r.step for r in temporal.requests if r.key.stage == "temporal_real") >= 8000


def test_random_order_has_no_order(head):
    """Stages come in the shares of their clips from the beginning, every frame is open, and clips do not take turns."""
    plan = plan_schedule(ablation("random_order", "preset=paper", "loop.iterations=60000"), head)
    assert len(plan.requests) == 2000
    assert {r.unlocked for r in plan.requests} == {16}
    for half in (plan.requests[:1000], plan.requests[1000:]):
        shares = Counter(r.key.stage for r in half)
        assert shares["spatial"] == pytest.approx(500, abs=65)  # four standard deviations of a binomial draw
        assert shares["temporal_real"] == pytest.approx(250, abs=55)
    # Of 40 draws from 40 clips a share of 1 - 1/e differs on average; taking turns would show all 40.
    distinct = [len({r.key for r in plan.requests[i : i + 40]}) for i in range(0, 2000, 40)]
    assert np.mean(distinct) == pytest.approx(40 * (1 - (39 / 40) ** 40), abs=1.5)
    # The rank of a clip's first request is no statistic of its stage, as it is in the curriculum.
    first = {stage: next(i for i, r in enumerate(plan.requests) if r.key.stage == stage) for stage in shares}
    assert first["temporal_real"] < 40
    assert Schedule(ablation("random_order").curriculum).epoch(10**6) == 0


def test_a_one_time_dataset_has_every_clip_once(head):
    plan = plan_schedule(ablation("one_time_dataset", "preset=paper"), head)
    assert len(plan.requests) == len({r.key for r in plan.requests}) == 40
    assert [r.step for r in plan.requests] == [30 * i for i in range(40)]
    assert {r.unlocked for r in plan.requests} == {16}
    stages = [r.key.stage for r in plan.requests]
    assert stages != sorted(stages)


def test_score_distillation_has_no_dataset(head):
    assert plan_schedule(ablation("sds", "preset=paper"), head).requests == ()


@pytest.mark.parametrize("override", ["curriculum.order=randon", "curriculum.updates=twice"])
def test_unknown_choices_are_named(override):
    with pytest.raises(ConfigError, match=r"curriculum\.\w+=\w+ is unknown"):
        Turns(tiny_config(override), [])


def tiny_ablation(name, *overrides):
    """The tiny configuration with what the ablation's file says, key by key."""
    from omegaconf import OmegaConf

    said = OmegaConf.to_container(OmegaConf.load(config_folder() / "ablation" / f"{name}.yaml"))
    values = [f"{section}.{key}={value}" for section, keys in said.items() for key, value in keys.items()]
    return tiny_config(*values, *overrides)


def _run(name, folder, head, *overrides):
    steps = (
        f"loop.iterations={STEPS}",
        "curriculum.temporal_start=60",
        "curriculum.real_start=120",
        "loop.preview_every=0",
    )
    interval = ("loop.update_interval=10", "curriculum.unlock_interval=10")
    result = generate_serial(tiny_portrait(), tiny_ablation(name, *steps, *interval, *overrides), folder, head=head)
    store = SymGENStore(result.dataset, result.avatar)
    return result, list(store.records())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spatial_only", "temporal_only", "random_order", "one_time_dataset"])
def test_ablations_of_the_dataset_train(name, tmp_path, head):
    result, records = _run(name, tmp_path, head, "loop.portrait_share=0")
    stages = Counter(r.key.stage for r in records)
    versions = Counter(r.key for r in records)
    assert result.iterations == STEPS
    assert all(np.isfinite(point["total"]) for point in result.losses)
    totals = [point["l1"] for point in result.losses]
    assert np.mean(totals[-30:]) < np.mean(totals[:30])
    if name == "one_time_dataset":
        assert dict(versions) == dict.fromkeys(versions, 1)
        assert len(versions) == 4
    else:
        assert len(records) == 20
    if name == "spatial_only":
        assert set(stages) == {"spatial"}
    if name == "temporal_only":
        assert "spatial" not in stages
    if name == "random_order":
        assert any(r.key.stage != "spatial" for r in records if r.render_step < 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sds", "ism", "nfsd"])
def test_score_distillation_pulls_the_avatar_to_the_portraits_colours(name, tmp_path, head):
    """In the fake world clips are Gaussian around the portrait's picture: skin is redder than the grey of the start."""
    config = ("loop.portrait_share=0", "distillation.guidance=1.5", "curriculum.spatial_azimuth=[1.0,5.0]")
    result, records = _run(name, tmp_path, head, *config)
    assert records == []
    assert (result.requested, result.refinements) == (0, {})
    assert "distillation" in result.losses[-1]
    assert "l1" not in result.losses[-1]
    before = create_avatar(head, tiny_portrait(), tiny_config().avatar).avatar
    after = read_bundle(result.bundle, head).avatar
    seen = head.vertices(head.neutral())[head.faces].mean(1)[:, 2] > head.center[2]
    front = seen[after.binding]
    change = (after.sh0 - before.sh0)[front].mean(0)
    assert change[0] > change[1] > change[2]  # (200, 150, 120)
    assert change[0] > 0.05
    assert torch.isfinite(after.sh0).all()


@pytest.mark.parametrize(
    ("method", "name"), [("sds", "follow_your_emoji"), ("ism", "aniportrait"), ("nfsd", "echomimic")]
)
def test_score_distillation_asks_the_animators(method, name, tmp_path, head, monkeypatch):
    """Tiny networks with seeded weights lead nowhere in particular, but every Gaussian that is seen follows them."""
    monkeypatch.setitem(registry._LOADERS, "tiny", lambda *_: assemble(name, seeded_networks(name), {"size": 128}))
    config = tiny_ablation(method, "diffusion.backbone=tiny", "loop.iterations=3", "loop.portrait_share=0")
    result = generate_serial(tiny_portrait(), config, tmp_path, head=head)
    assert all(0 < point["distillation"] < np.inf for point in result.losses)
    before = create_avatar(head, tiny_portrait(), config.avatar).avatar
    after = read_bundle(result.bundle, head).avatar
    moved = (after.sh0 != before.sh0).any(-1)
    assert moved.float().mean() > 0.1  # of all, back and inside included
    assert torch.isfinite(after.sh0).all()


def test_distillation_survives_an_interruption(tmp_path, head):
    class StopError(Exception):
        pass

    def stop(event):
        if (event.kind, event.iteration) == ("iteration", 6):
            raise StopError

    config = tiny_ablation("sds", "distillation.guidance=1.5")
    whole = generate_serial(tiny_portrait(), config, tmp_path / "a", head=head)
    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), config, tmp_path / "b", stop, head)
    halves = generate_serial(tiny_portrait(), config, tmp_path / "b", head=head)
    assert halves.continued_from == 4
    tensors = [read_bundle(result.bundle, head).avatar.tensors() for result in (whole, halves)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
