"""The plan against enumerations made here, arithmetic done here, and a run that really happens."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.diffusion.test_conformance import BACKBONES
from zero1toa.cli import app
from zero1toa.config import DiffusionConfig, load
from zero1toa.diffusion.facts import backbone_spec, parameter_counts
from zero1toa.errors import ConfigError
from zero1toa.head.registry import load_head
from zero1toa.planning.counting import count_work
from zero1toa.planning.prediction import plan_run
from zero1toa.planning.schedule import plan_schedule

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))


@pytest.fixture(scope="module")
def head():
    return load_head("canonical")


@pytest.fixture(scope="module")
def paper(head):
    return plan_run(load(["preset=paper", "diffusion.backbone=follow_your_emoji"]), head)


def test_the_papers_schedule_by_hand(paper):
    """Counted with plain loops: one update every 30 iterations, a new stage's ten clips first, then round and round."""
    stages = [("spatial", 20, 0), ("temporal_synthetic", 10, 5000), ("temporal_real", 10, 8000)]
    last = {}
    steps, counts, missed = [], dict.fromkeys((name for name, _, _ in stages), 0), set()
    for k in range(10_000):
        if k % 30:
            continue
        steps.append(k)
        present = [(name, i) for name, clips, start in stages if k >= start for i in range(clips)]
        oldest = min(last.get(clip, -1) for clip in present)
        chosen = [clip for clip in present if last.get(clip, -1) == oldest][-1]
        last[chosen] = k
        counts[chosen[0]] += 1
    missed = {(n, i) for n, clips, _ in stages for i in range(clips)} - set(last)
    requests = paper.schedule.requests
    assert [r.step for r in requests] == steps
    assert len(steps) == 334
    assert {s.stage: s.requests for s in paper.schedule.stages} == counts
    assert sum(s.missed for s in paper.schedule.stages) == len(missed) == 0
    for request in requests:
        assert request.unlocked == (16 if request.key.stage != "spatial" else min(request.step // 300 + 1, 16))
    spatial = paper.schedule.stages[0]
    assert spatial.unlocks == tuple((300 * j, j + 1) for j in range(16))
    assert [s.start for s in paper.schedule.stages] == [0, 5000, 8000]


def test_the_papers_cost_by_hand(paper):
    # 25 steps up at guidance 1, 25 steps down at two evaluations, 16 frames each.
    assert paper.work.frame_evaluations == 25 * 16 + 25 * 2 * 16 == 1200
    assert paper.work.calls == 75
    assert paper.evaluations == 334 * 1200
    assert paper.teraflop == pytest.approx(334 * 25 * (19.794 + 37.029))
    update = 25 * 0.0411 + 25 * 0.0715 + 0.0433 + 0.0728
    assert paper.refinement_seconds == pytest.approx(334 * update)
    assert paper.training_seconds == pytest.approx(10_000 * 0.0140)
    assert paper.gaussians == 10 * len(load_head("canonical").faces)
    assert paper.clips_gib == pytest.approx(40 * 16 * 512 * 512 * 3 / 2**30)
    assert paper.weights_gib == pytest.approx(2 * sum(paper.parameters.values()) / 2**30)
    assert paper.activations_gib == pytest.approx(10.76e9 / 2**30 - paper.weights_gib)
    assert any(note.startswith("memory: activations after a measurement on one NVIDIA H200") for note in paper.notes)
    assert any(note.startswith("refinement: predicted for one NVIDIA H200") for note in paper.notes)
    assert any(note.startswith("training: predicted for one NVIDIA H200") for note in paper.notes)


def test_a_backbone_of_windows_by_hand(head):
    """16 frames of EchoMimic are two windows of 12 at every step; its rates are those of such a clip."""
    plan = plan_run(load(["preset=paper", "diffusion.backbone=echomimic"]), head)
    assert plan.work.frame_evaluations == 25 * 24 + 25 * 2 * 24
    update = 2 * 25 * (0.0307 + 0.0555) + 16 / 12 * (0.0340 + 0.0568)  # 4.43 s; 4.53 were measured
    assert plan.refinement_seconds == pytest.approx(334 * update)
    assert plan.activations_gib == pytest.approx(9.95e9 / 2**30 - plan.weights_gib)


def test_the_fast_preset_asks_for_two_fifths(paper, head):
    fast = plan_run(load(["preset=fast", "diffusion.backbone=follow_your_emoji"]), head)
    assert fast.schedule == paper.schedule
    # 20 steps at half strength are 10 up and 10 guided down: 30 calls instead of 75.
    assert (fast.work.calls, fast.work.frame_evaluations) == (30, 30 * 16)
    assert fast.evaluations == pytest.approx(0.4 * paper.evaluations)


@pytest.mark.parametrize(
    "overrides", [(), ("loop.iterations=13", "loop.update_interval=3"), ("diffusion.enabled=false",)]
)
def test_a_real_run_makes_the_planned_requests(head, tmp_path, overrides):
    from tiny import tiny_config, tiny_portrait

    from zero1toa.symgen.loop import generate_serial
    from zero1toa.symgen.store import SymGENStore

    config = tiny_config(*overrides)
    planned = plan_schedule(config, head).requests
    result = generate_serial(tiny_portrait(), config, tmp_path, head=head)
    records = SymGENStore(result.dataset, result.avatar).records()
    made = [(r.render_step, r.key, r.unlocked) for r in records]
    assert made == [(r.step, r.key, r.unlocked) for r in planned]
    assert result.requested == len(planned) > 0


def test_evaluations_by_hand():
    def work(name, frames=16, **values):
        return count_work(backbone_spec(name), DiffusionConfig(backbone=name, **values), frames)

    # Half of the range, two fixed-point iterations: (1 + 2) * 5 up, guided 5 down.
    half = work("aniportrait", steps=10, strength=0.5, fixed_point_iterations=2, guidance=2.0)
    assert (half.single_frames, half.guided_frames) == (15 * 16, 5 * 16)
    # Rescaling is arithmetic on both predictions and asks for no third.
    assert (
        work("aniportrait", steps=10, strength=0.5, fixed_point_iterations=2, guidance=2.0, guidance_rescale=0.7)
        == half
    )
    with pytest.raises(ConfigError, match="guidance_rescale"):
        work("aniportrait", guidance_rescale=2.0)
    # Guidance 1 needs one evaluation; the compact backbone starts from noise, so nothing is inverted.
    once = work("compact", frames=8, steps=10, strength=0.1, guidance=1.0, keep_detail=True)
    assert (once.frame_evaluations, once.calls, once.encoded_frames, once.decoded_frames) == (8, 1, 8, 16)
    # 16 frames in windows of 12 that share 3: they begin at 0 and 9, and every step evaluates 24 frames.
    windows = work("echomimic", steps=4, guidance=2.5)
    assert (windows.single_frames, windows.guided_frames) == (4 * 24, 4 * 24)
    with pytest.raises(ConfigError, match=r"diffusion\.start=up"):
        work("fake", start="up")


def test_training_is_scaled_by_frame_and_by_what_it_compares(head):
    """On the portrait an iteration renders one picture of the eight that were measured."""
    quarter = plan_run(load(["preset=paper", "diffusion.enabled=false", "loop.portrait_share=0.25"]), head)
    assert quarter.training_seconds == pytest.approx(10_000 * 0.0140 * (0.25 / 8 + 0.75))
    plain = plan_run(load(["preset=paper", "diffusion.enabled=false", "loss.perceptual=0"]), head)
    assert plain.training_seconds == pytest.approx(10_000 * 0.0058)


def test_score_distillation_by_hand(head):
    def planned(method, *overrides):
        values = ["preset=paper", "diffusion.backbone=aniportrait", f"distillation.method={method}", *overrides]
        return plan_run(load(values), head)

    sds = planned("sds")  # one conditional and one unconditional evaluation of 8 frames in each of 10 000 iterations
    assert (sds.work.frame_evaluations, sds.evaluations, sds.schedule.requests) == (16, 160_000, ())
    assert sds.refinement_seconds == pytest.approx(10_000 * (16 * 0.0396 + 8 * 0.0437) / 16)
    assert sds.activations_gib is None  # going back through the encoder was not measured
    # A third evaluation, under the negative condition, for noise levels from 0.2 on: of [0.02, 0.98] a share of 78/96.
    assert planned("nfsd").work.frame_evaluations == pytest.approx(8 * (2 + 78 / 96), abs=8 * 0.08)
    # t = 200 always: inversion at 0 and 150, then both evaluations.
    narrow = planned("ism", "distillation.timesteps=[0.2,0.2005]", "loop.portrait_share=0.5")
    assert (narrow.work.frame_evaluations, narrow.evaluations) == (8 * 4, 5000 * 8 * 4)


def test_parameters_are_the_published_ones():
    counts = parameter_counts("aniportrait")
    assert counts["autoencoder"] == 83_653_863  # Stable Diffusion's
    assert counts["image_encoder"] == 303_966_208  # CLIP ViT-L/14's vision tower with its projection
    assert parameter_counts("fake") == {}


def test_parameters_of_the_shipped_weights():
    from safetensors import safe_open

    from zero1toa.diffusion.compact import WEIGHTS

    with safe_open(WEIGHTS, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, not a mapping
    total = 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        total += 0 if name in ("autoencoder.mean", "autoencoder.std") else count
    assert sum(parameter_counts("compact").values()) == total


def test_unmeasured_things_have_no_figure(head):
    plan = plan_run(load(["preset=preview"]), head)
    assert plan.activations_gib is None
    assert any("activations of 'compact' were not measured" in note for note in plan.notes)
    assert (plan.teraflop, plan.refinement_seconds, plan.training_seconds) == (None, None, None)
    assert plan.evaluations > 0
    said = next(note for note in plan.notes if note.startswith("refinement: "))
    assert said.startswith("refinement: no rate is known for the backbone 'compact', so no time is predicted; ")
    assert said.endswith(" backbone=follow_your_emoji and backbone=aniportrait and backbone=echomimic")
    assert "training: no rate is known for pictures of 256 pixels" in plan.notes


def test_every_backbone_of_the_package_has_facts():
    assert {backbone_spec(name).name for name in BACKBONES} == set(BACKBONES)


def test_a_backbone_from_outside_is_refused_by_name():
    with pytest.raises(ConfigError, match="nothing is known of the backbone 'mine'"):
        backbone_spec("mine")


def test_the_command_prints_and_writes(tmp_path):
    file = tmp_path / "plan.json"
    arguments = ["plan", "preset=paper", "diffusion.backbone=aniportrait", "loop.iterations=900", "--json", str(file)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    plan = json.loads(file.read_text())
    assert plan["backbone"] == "aniportrait"
    assert len(plan["requests"]) == 30
    assert plan["requests"][-1]["step"] == 870
    assert [s["missed"] for s in plan["stages"]] == [0, 10, 10]
    for words in ("30 updates", "never", "no rate" if plan["teraflop"] is None else "TFLOP", "one NVIDIA H200"):
        assert words in " ".join(result.output.split())


def test_the_command_names_mistakes(tmp_path):
    result = CliRunner().invoke(app, ["plan", "preset=papr"])
    assert (result.exit_code, "did you mean 'paper'" in result.stderr) == (2, True)
