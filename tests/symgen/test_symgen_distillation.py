"""Score distillation against float64 formulas of a Gaussian world, whose scores are known in closed form."""

import itertools

import numpy as np
import pytest
import torch
from tiny import tiny_config
from typer.testing import CliRunner

from zero1toa.cli import app
from zero1toa.diffusion.fake import FAKE_SPEC, FakeBackbone
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.distributed.generate import generate_batch
from zero1toa.errors import ConfigError
from zero1toa.symgen.distillation.directions import ism_direction, nfsd_direction, sds_direction
from zero1toa.symgen.distillation.distillation import ScoreDistillation, check_distillation
from zero1toa.symgen.distillation.negative import spoiled
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack

STD = 0.5  # of the fake backbone's clean clips
SCHEDULE = NoiseSchedule.from_config(FAKE_SPEC.scheduler)


def _levels():
    """Signal and noise amplitudes from the betas themselves, in float64."""
    betas = np.linspace(0.00085, 0.012, 1000)
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root, np.sqrt(1 - root**2)


ALPHA, SIGMA = _levels()


def _epsilon(x, t, mean):
    """Noise that the best predictor finds in ``x = a z + s e`` with ``z ~ N(mean, STD^2)``: ``E[e | x]``."""
    return SIGMA[t] * (x - ALPHA[t] * mean) / ((ALPHA[t] * STD) ** 2 + SIGMA[t] ** 2)


@pytest.fixture(scope="module")
def world():
    generator = torch.Generator().manual_seed(0)
    reference, bad, control = (torch.randn(1, n, 48, 2, 2, generator=generator) * 0.3 for n in (1, 1, 3))
    clean, noise = (torch.randn(1, 3, 48, 2, 2, generator=generator) for _ in range(2))
    backbone = FakeBackbone()

    def output(condition, conditional=True):
        return lambda x, t: backbone.predict(x, t, condition, control, conditional=conditional)

    return {
        "conditional": output(reference),
        "null": output(reference, False),
        "negative": output(bad),
        "mean": (reference + 0.25 * control).double().numpy(),
        "null_mean": (0.5 * reference).expand_as(control).double().numpy(),
        "bad_mean": (bad + 0.25 * control).double().numpy(),
        "clean": clean,
        "noise": noise,
    }


@pytest.mark.parametrize("t", [20, 300, 700, 979])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_expected_sds_direction_is_the_distance_from_the_guided_mean(world, t, guidance):
    """A pair of opposite noises has the expectation over all noise, because the score is linear here."""
    pair = [
        sds_direction(world["conditional"], world["null"], SCHEDULE, world["clean"], sign * world["noise"], t, guidance)
        for sign in (1, -1)
    ]
    guided = world["null_mean"] + guidance * (world["mean"] - world["null_mean"])
    variance = (ALPHA[t] * STD) ** 2 + SIGMA[t] ** 2
    expected = SIGMA[t] ** 2 * SIGMA[t] * ALPHA[t] * (world["clean"].double().numpy() - guided) / variance
    np.testing.assert_allclose(sum(pair).numpy() / 2, expected, atol=2e-5)
    single = SIGMA[t] ** 2 * (
        _epsilon(ALPHA[t] * world["clean"].double().numpy() + SIGMA[t] * world["noise"].double().numpy(), t, guided)
        - world["noise"].double().numpy()
    )
    np.testing.assert_allclose(pair[0].numpy(), single, atol=1e-4)


@pytest.mark.parametrize(
    ("t", "rungs"), [(30, [0, 30]), (450, [0, 200, 400, 450]), (700, [0, 200, 400, 600, 650, 700])]
)
def test_ism_compares_two_levels_of_one_inversion(world, t, rungs):
    x = world["clean"].double().numpy()
    for source, target in itertools.pairwise(rungs):
        found = _epsilon(x, source, world["null_mean"])
        x = ALPHA[target] * (x - SIGMA[source] * found) / ALPHA[source] + SIGMA[target] * found
    guided = world["null_mean"] + 7.5 * (world["mean"] - world["null_mean"])
    expected = SIGMA[t] ** 2 * (_epsilon(x, t, guided) - found)
    made = ism_direction(world["conditional"], world["null"], SCHEDULE, world["clean"], t, 50, 200, 7.5)
    np.testing.assert_allclose(made.numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("t", [100, 199, 200, 700])
def test_nfsd_leaves_the_noise_out(world, t):
    arguments = (world["conditional"], world["null"], world["negative"], SCHEDULE, world["clean"])
    made = nfsd_direction(*arguments, world["noise"], t, 7.5).numpy()
    variance = (ALPHA[t] * STD) ** 2 + SIGMA[t] ** 2
    condition = SIGMA[t] * ALPHA[t] * (world["null_mean"] - world["mean"]) / variance
    if t < 200:
        x = ALPHA[t] * world["clean"].double().numpy() + SIGMA[t] * world["noise"].double().numpy()
        domain = _epsilon(x, t, world["null_mean"])
    else:
        domain = SIGMA[t] * ALPHA[t] * (world["bad_mean"] - world["null_mean"]) / variance
        again = nfsd_direction(*arguments, -world["noise"], t, 7.5).numpy()
        np.testing.assert_allclose(made, again, atol=1e-4)  # the noise has no part in it
    np.testing.assert_allclose(made, SIGMA[t] ** 2 * (domain + 7.5 * condition), atol=1e-4)


def _distillation(*overrides):
    image = np.full((64, 64, 4), 255, np.uint8)
    image[..., :3] = (220, 120, 90)
    reference = Reference(image, np.full((478, 2), 20, np.float32))
    return ScoreDistillation(tiny_config(*overrides), FakeBackbone(), reference)


def _track(frames):
    return LandmarkTrack(np.zeros((frames, 478, 2), np.float32), np.zeros(frames, bool), np.zeros(frames, bool))


# Little guidance would leave NFSD mostly the way from its negative, which is dark.
@pytest.mark.parametrize(("method", "guidance"), [("sds", 1), ("ism", 1), ("nfsd", 7.5)])
def test_the_gradient_reaches_the_frames_through_the_encoder(method, guidance):
    """Of SDS the mean over many draws leads to the mean picture; all of them are finite and repeat from a seed."""
    distill = _distillation(f"distillation.method={method}", f"distillation.guidance={guidance}")
    frames = torch.full((2, 64, 64, 3), 0.5, requires_grad=True)
    gradients = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gradients.append(torch.autograd.grad(distill(frames, _track(2), rng), frames)[0])
    assert torch.isfinite(torch.stack(gradients)).all()
    assert torch.equal(
        torch.autograd.grad(distill(frames, _track(2), np.random.default_rng(3)), frames)[0], gradients[3]
    )
    descent = -torch.stack(gradients).mean((0, 1, 2, 3))
    wanted = torch.tensor([220, 120, 90]) / 255 - 0.5
    assert torch.nn.functional.cosine_similarity(descent, wanted, 0) > 0.8


def test_the_negative_of_nfsd_is_the_portrait_spoiled():
    """Blur, brightness and noise of the paper (sec. 9.1): stripes become their mean, 0.7 times as bright, noised."""
    image = np.full((96, 96, 4), 255, np.uint8)
    image[:, ::2, :3], image[:, 1::2, :3] = 200, 100
    image[:, :, 3] = 128  # half of it the white background
    landmarks = np.full((478, 2), 20, np.float32)
    made = spoiled(Reference(image, landmarks), (1.0, 1.0, 1.0), 7)
    assert made.landmarks is landmarks
    assert (made.image[..., 3] == 255).all()
    inside = made.image[24:72, 24:72, :3].astype(np.float64)
    assert inside.mean() == pytest.approx(0.7 * (150 * 128 / 255 + 127), abs=1)
    assert inside.std() == pytest.approx(0.1 * 255, rel=0.05)
    assert abs(inside[:, ::2].mean() - inside[:, 1::2].mean()) < 1.5
    assert np.array_equal(made.image, spoiled(Reference(image, landmarks), (1.0, 1.0, 1.0), 7).image)


def test_sds_leads_to_the_mean_and_stays():
    distill = _distillation("distillation.method=sds", "distillation.guidance=1")
    frames = torch.full((1, 64, 64, 3), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([frames], lr=0.02)
    rng = np.random.default_rng(0)
    for _ in range(150):
        optimizer.zero_grad()
        distill(frames, _track(1), rng).backward()
        optimizer.step()
    color = frames.detach().mean((0, 1, 2)) * 255
    torch.testing.assert_close(color, torch.tensor([220.0, 120.0, 90.0]), atol=4.0, rtol=0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distillation.method=sdss", "did you mean 'sds'"),
        ("distillation.timesteps=[0.5,0.2]", "must rise"),
        ("distillation.interval=0", r"distillation\.interval=0\.0 must be above 0"),
    ],
)
def test_impossible_values_are_named(override, words):
    with pytest.raises(ConfigError, match=words):
        check_distillation(tiny_config(override).distillation)


def test_it_runs_in_one_process_only():
    with pytest.raises(ConfigError, match=r"distillation\.method=sds .* add --serial"):
        generate_batch([], tiny_config("distillation.method=sds"))


def test_the_command_refuses_before_it_writes(tmp_path):
    arguments = ["generate", "sample:astronaut", "-o", str(tmp_path / "out"), "distillation.method=ism"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "add --serial" in result.stderr
    assert not (tmp_path / "out").exists()
