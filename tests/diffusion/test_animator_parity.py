"""The three animators against tensors recorded from their public implementations (tiny networks, seeded weights)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import golden
from tests.diffusion.tiny_animators import (
    CONFIGS,
    NAMES,
    Recording,
    largest,
    recorded_name,
    recorded_networks,
    reference_keys,
)
from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
from zero1toa.diffusion.animator.checkpoints import convert
from zero1toa.diffusion.animator.image_encoder import preprocess
from zero1toa.diffusion.animator.networks import LAYOUTS, build_networks
from zero1toa.diffusion.sampling import denoise
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.windows import windowed
from zero1toa.errors import AssetError

pytestmark = golden.needs_golden
SPECS = {module.SPEC.name: module.SPEC for module in (follow_your_emoji, aniportrait, echomimic)}


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def _trajectory(run: Recording, part: str, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents before and after every step, and the model outputs, of a run from the recorded noise."""
    schedule = NoiseSchedule.from_config(run.backbone.spec.scheduler)
    steps = [int(t) for t in run.data[f"output/{part}timesteps"]]
    assert steps == schedule.timesteps(4)
    predict = windowed(run.backbone, run.reference, run.control, guidance, run.latents.shape[1], steps)
    latents, outputs = [], []

    def record(x: torch.Tensor, timestep: int) -> torch.Tensor:
        latents.append(x)
        outputs.append(predict(x, timestep))
        return outputs[-1]

    latents.append(denoise(record, schedule, run.latents, steps))
    return torch.stack(latents), torch.stack(outputs)


@pytest.mark.parametrize("size", ["", ".tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_the_released_layout_is_known(name: str, size: str) -> None:
    """Our modules ask for exactly the keys and shapes that the public implementations build."""
    real = {module.SPEC.name: module.CONFIG for module in (follow_your_emoji, aniportrait, echomimic)}
    networks = build_networks(CONFIGS[name] if size else real[name]).items()
    listed = golden.keys(name, size or "")
    for network in networks:
        if recorded_name(name, network) not in listed:  # autoencoder and image encoder are those of others
            assert network in ("autoencoder", "image_encoder")
            assert not size
            continue
        released = listed[recorded_name(name, network)]
        layout = LAYOUTS[network]
        wanted: set[str] = set()
        for key, value in networks[network].state_dict().items():
            sources = layout.sources(key)
            wanted.update(sources)
            shapes = [released[source][0] for source in sources]
            stacked = [sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else []
            assert all(shape[1:] == stacked[1:] for shape in shapes), key
            assert stacked in ([*value.shape], [*value.shape, 1, 1]), key  # 1 x 1 convolutions are linear layers here
        rest = set(released) - wanted
        assert all(re.fullmatch(layout.unneeded, key) for key in rest), rest
        assert not wanted - set(released)


def test_the_face_locator_of_audio_only_models_is_refused() -> None:
    """It takes one channel, a mask, and is otherwise the landmark models': no checkpoint is loaded in part."""
    listed = golden.keys("echomimic", "")["face_locator_audio_only_1ch"]
    guider = build_networks(echomimic.CONFIG).guider
    shapes = {key: list(value.shape) for key, value in guider.state_dict().items()}
    assert {key for key in shapes if shapes[key] != listed[key][0]} == {"conv_in.weight"}
    state = {key: torch.zeros(shape) for key, (shape, _) in listed.items()}
    with pytest.raises(AssetError, match=r"conv_in\.weight is \[16, 1, 3, 3\], not \[16, 3, 3, 3\]"):
        convert(guider, state, LAYOUTS["guider"], "guider of echomimic", [])


def test_scheduler_tables(run: Recording) -> None:
    schedule = NoiseSchedule.from_config(SPECS[run.name].scheduler)
    alphas = torch.from_numpy(schedule.alphas**2)
    # A product of a thousand single-precision factors: the recorded table is itself 5e-7 away from the formula, and
    # where torch's square root rounds otherwise (Intel and AMD differ in the last bit) the two are 4e-7 apart, not 0.
    assert largest(alphas, run.data["output/scheduler/alphas_cumprod"].double()) < 5e-7
    signal, noise = schedule.alphas[1:] / schedule.alphas[:-1], run.data["output/scheduler/betas"].double().numpy()[1:]
    assert np.abs(1 - signal**2 - noise).max() < 1e-6  # what the table of betas says again, through the square roots
    for steps in (4, 25, 30):
        assert schedule.timesteps(steps) == run.data[f"output/scheduler/timesteps_{steps}"].tolist()


def test_image_prompt(run: Recording) -> None:
    if run.name == "echomimic":
        assert run.backbone.portrait_prompt(torch.zeros(1, 64, 64, 3)) is None
        return
    image = run.data["input/ref_image_uint8_hwc"].float()[None] / 255
    if run.name == "follow_your_emoji":
        assert largest(preprocess(image), run.data["input/clip_pixel_values"]) == 0
    prompt = run.backbone.portrait_prompt(image)
    assert prompt is not None
    assert largest(prompt, run.data["input/encoder_hidden_states"][1:]) < 1e-4


def test_reference_latents_and_features(run: Recording) -> None:
    image = run.data["input/ref_image_uint8_hwc"].float()[None, None] / 255
    assert largest(run.backbone.encode(image)[:, 0], run.data["input/ref_latents"][-1:]) < 1e-4
    network = run.backbone.networks.reference
    prompt = None
    if run.name != "echomimic":
        prompt = network.prompt_tokens(run.data["input/encoder_hidden_states"])
    with torch.no_grad():
        features = network(run.data["input/ref_latents"], prompt)  # where there are prompts, without one and with it
    for key, feature in zip(reference_keys(run.name), features, strict=True):
        assert feature.shape == run.data[key].shape
        assert largest(feature, run.data[key]) < 1e-4, key


def test_landmark_features(run: Recording) -> None:
    if run.name == "aniportrait":
        for scale, feature in enumerate(run.control.features):
            assert largest(feature[None], run.output(f"guider_fea/{scale}")) < 1e-3
    else:
        (feature,) = run.control.features
        assert largest(feature[None], run.output("guider_fea")) < 1e-5


def test_first_step(run: Recording) -> None:
    guidance = golden.metadata(run.name)["ddim4"]["guidance_scale"]
    assert guidance == SPECS[run.name].guidance
    given = (run.latents, int(run.data["input/timestep"]), run.reference, run.control)
    conditional = run.backbone.predict(*given, conditional=True)
    null = run.backbone.predict(*given, conditional=False)
    assert largest(conditional, run.output("eps_cond")) < 1e-4
    assert largest(null, run.output("eps_uncond")) < 1e-4
    assert largest(run.backbone.predict_guided(*given, guidance), run.output("eps_cfg")) < 3e-4


def test_whole_run(run: Recording) -> None:
    latents, outputs = _trajectory(run, "ddim4/", SPECS[run.name].guidance)
    assert largest(latents, run.output("ddim4/latents")) < 1e-3
    assert largest(outputs, run.output("ddim4/model_output_cfg")) < 1e-3
    recorded = run.data["output/ddim4/video"].permute(0, 2, 3, 4, 1)
    assert largest(run.backbone.decode(run.output("ddim4/latents")[-1]), recorded) < 1e-4
    assert largest(run.backbone.decode(latents[-1]), recorded) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_windows(name: str) -> None:
    overlap = 0 if name == "follow_your_emoji" else 2
    run = Recording(name, "window6/", spec={"max_frames": 4, "window_overlap": overlap})
    latents, outputs = _trajectory(run, "window6/", SPECS[name].guidance)
    assert largest(latents, run.output("window6/latents")) < 1e-3
    assert largest(outputs, run.output("window6/model_output_cfg")) < 1e-3


@pytest.mark.parametrize("name", ["aniportrait", "echomimic"])
def test_half_precision_reference(name: str) -> None:
    run = Recording(name, half_reference=True)
    for conditional, key in ((True, "eps_cond"), (False, "eps_uncond")):
        output = run.backbone.predict(run.latents, 999, run.reference, run.control, conditional=conditional)
        assert largest(output, run.output(f"bank_fp16/{key}")) < 1e-4
    if name == "aniportrait":
        latents, outputs = _trajectory(run, "bank_fp16/ddim4/", 3.5)
        assert largest(latents, run.output("bank_fp16/ddim4/latents")) < 1e-3
        assert largest(outputs, run.output("bank_fp16/ddim4/model_output_cfg")) < 1e-3


def test_other_levels_of_follow_your_emoji() -> None:
    run = Recording("follow_your_emoji")
    given = (run.latents, 499, run.reference, run.control)
    conditional = run.backbone.predict(*given, conditional=True)
    null = run.backbone.predict(*given, conditional=False)
    assert largest(conditional, run.output("t499/eps_cond")) < 1e-4
    assert largest(conditional, run.output("t499/eps_cond_nocfg")) < 1e-4
    assert largest(null, run.output("t499/eps_uncond")) < 1e-4
    assert largest(null, run.output("t499/eps_noref")) < 1e-4


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"batch_statistics": False}, "eval_bn_pipeline_range"),
        ({"batch_statistics": False, "raw_maps": False}, "eval_bn_minus1_1"),
        ({"raw_maps": False}, "train_bn_minus1_1"),
    ],
)
def test_quirks_of_aniportrait_are_options(options: dict[str, Any], key: str) -> None:
    run = Recording("aniportrait", **options)
    for scale, feature in enumerate(run.control.features):
        recorded = run.output(f"guider_fea_{key}/{scale}")
        # Without batch statistics the features reach hundreds: the tolerance is for values up to 10.
        assert largest(feature[None], recorded) < 1e-3 * max(1.0, float(recorded.abs().max()) / 10)


def test_stored_statistics_reach_the_denoiser() -> None:
    run = Recording("aniportrait", batch_statistics=False)
    given = (run.latents, 999, run.reference, run.control)
    for conditional, key in ((True, "eps_cond"), (False, "eps_uncond")):
        error = largest(run.backbone.predict(*given, conditional=conditional), run.output(f"eval_bn/{key}"))
        assert error < 1e-4, key


def test_aniportrait_without_guidance() -> None:
    run = Recording("aniportrait")
    output = run.backbone.predict(run.latents, 999, run.reference, run.control, conditional=True)
    assert largest(output, run.output("nocfg/eps_cond")) < 1e-4
    latents, outputs = _trajectory(run, "nocfg/ddim4/", 1.0)
    assert largest(latents, run.output("nocfg/ddim4/latents")) < 1e-3
    assert largest(outputs, run.output("nocfg/ddim4/model_output_cfg")) < 1e-3


def test_echomimic_driven_by_landmarks_only() -> None:
    run = Recording("echomimic", audio=False)
    given = (run.latents, 999, run.reference, run.control)
    for conditional, key in ((True, "eps_cond"), (False, "eps_uncond")):
        output = run.backbone.predict(*given, conditional=conditional)
        assert largest(output, run.output(f"zero_audio/{key}")) < 1e-4
    latents, outputs = _trajectory(run, "zero_audio/ddim4/", 2.5)
    assert largest(latents, run.output("zero_audio/ddim4/latents")) < 1e-3
    assert largest(outputs, run.output("zero_audio/ddim4/model_output_cfg")) < 1e-3


def test_accelerated_echomimic() -> None:
    run = Recording("echomimic")
    output = run.backbone.predict(run.latents, 999, run.reference, run.control, conditional=True)
    assert largest(output, run.output("acc/v_raw_step0")) < 1e-4
    latents, outputs = _trajectory(run, "acc/ddim4/", 1.0)
    assert largest(latents, run.output("acc/ddim4/latents")) < 1e-3
    assert largest(outputs, run.output("acc/ddim4/model_output_cfg")) < 1e-3


def test_recorded_networks_are_the_tiny_ones() -> None:
    for name in NAMES:
        networks = recorded_networks(name).items()
        assert set(networks) == set(build_networks(CONFIGS[name]).items())
        for network, module in networks.items():
            count = sum(
                torch.Size(shape).numel() for shape, _ in golden.keys(name)[recorded_name(name, network)].values()
            )
            held = sum(value.numel() for value in module.state_dict().values())
            assert 0.95 * count < held <= count, (name, network)
