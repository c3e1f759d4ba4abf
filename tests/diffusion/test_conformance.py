"""What every backbone must do. A new one joins by a line in ``BACKBONES``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion.test_compact import tiny_model
from tests.diffusion.tiny_animators import NAMES, assemble, seeded_networks
from zero1toa.diffusion import registry
from zero1toa.diffusion.compact import CompactBackbone
from zero1toa.diffusion.fake import FakeBackbone
from zero1toa.diffusion.inversion import invert
from zero1toa.diffusion.protocol import VideoBackbone
from zero1toa.diffusion.sampling import denoise
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.windows import windowed
from zero1toa.types import LandmarkTrack

BACKBONES: dict[str, Callable[[], Any]] = {
    "fake": FakeBackbone,
    "compact": lambda: CompactBackbone(tiny_model()),
    **{name: lambda name=name: assemble(name, seeded_networks(name)) for name in NAMES},
}
SIDE, FRAMES = 128, 3


def test_every_backbone_of_this_package_is_here() -> None:
    own = {name for name, loader in registry._LOADERS.items() if str(loader).startswith("zero1toa.")}
    assert set(BACKBONES) == own


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> VideoBackbone:
    return BACKBONES[request.param]()


def _frames(seed: int, batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.rand(batch, frames, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(seed))


def _latents(backbone: VideoBackbone, seed: int = 2, batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    stride = backbone.spec.latent_stride
    shape = (batch, frames, backbone.spec.latent_channels, SIDE // stride, SIDE // stride)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _references(backbone: VideoBackbone, seed: int = 1) -> Any:
    image, control = _frames(seed, frames=1)[:, 0], _frames(seed + 10, frames=1)[:, 0]
    return backbone.prepare_reference(image, control)


def test_the_protocol_holds(backbone: VideoBackbone) -> None:
    assert isinstance(backbone, VideoBackbone)
    spec = backbone.spec
    assert spec.size % 64 == 0
    assert spec.window_overlap is None or 0 <= spec.window_overlap < spec.max_frames
    assert len(NoiseSchedule.from_config(spec.scheduler).timesteps(spec.steps)) == spec.steps
    assert backbone.device == torch.device("cpu")


def test_landmarks_are_drawn_where_there_are_any(backbone: VideoBackbone) -> None:
    points = np.random.default_rng(0).uniform(0.2, 0.8, (3, 478, 2)).astype(np.float32)
    maps = backbone.draw_control(LandmarkTrack(points, np.array([True, False, True]), np.zeros(3, bool)), SIDE)
    assert maps.shape == (3, SIDE, SIDE, 3)
    assert maps.dtype == np.uint8
    assert [bool(frame.any()) for frame in maps] == [True, False, True]
    assert not np.array_equal(maps[0], maps[2])


def test_frames_go_to_latents_and_back(backbone: VideoBackbone) -> None:
    frames = _frames(0)
    latents = backbone.encode(frames)
    assert latents.shape == _latents(backbone).shape
    assert latents.dtype == torch.float32
    decoded = backbone.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.float32
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    assert torch.equal(backbone.decode(latents * 50).clamp(0, 1), backbone.decode(latents * 50))
    # Frames are coded one by one, and always to the same latents.
    torch.testing.assert_close(backbone.encode(frames[1:, 2:]), latents[1:, 2:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.decode(latents[1:, 2:]), decoded[1:, 2:], atol=1e-5, rtol=1e-4)
    assert torch.equal(backbone.encode(frames), latents)


def test_gradients_pass_the_encoder(backbone: VideoBackbone) -> None:
    """Against the difference of two encodings; frames that ask for none get latents without a graph."""
    frames = _frames(0, batch=1, frames=1) * 0.5 + 0.25
    assert not backbone.encode(frames).requires_grad
    latents = backbone.encode(frames)
    weights = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    asked = frames.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((backbone.encode(asked) * weights).sum(), asked)
    step = 4e-4 * gradient / gradient.abs().mean()
    difference = ((backbone.encode(frames + step) - backbone.encode(frames - step)).double() * weights).sum() / 2
    assert float(difference) == pytest.approx(float((gradient.double() * step).sum()), rel=0.03)


def test_predictions_have_the_shape_of_latents_and_are_repeatable(backbone: VideoBackbone) -> None:
    latents, reference, control = _latents(backbone), _references(backbone), backbone.prepare_control(_frames(3))
    for conditional in (True, False):
        first = backbone.predict(latents, 499, reference, control, conditional=conditional)
        assert first.shape == latents.shape
        assert first.dtype == torch.float32
        assert bool(first.isfinite().all())
        assert torch.equal(first, backbone.predict(latents, 499, reference, control, conditional=conditional))


def test_guidance_is_its_formula(backbone: VideoBackbone) -> None:
    latents, reference, control = _latents(backbone), _references(backbone), backbone.prepare_control(_frames(3))
    conditional = backbone.predict(latents, 999, reference, control, conditional=True)
    null = backbone.predict(latents, 999, reference, control, conditional=False)
    assert float((conditional - null).abs().max()) > 1e-3
    for guidance in (0.0, 1.0, 2.5):
        together = backbone.predict_guided(latents, 999, reference, control, guidance)
        torch.testing.assert_close(together, null + guidance * (conditional - null), atol=1e-4, rtol=1e-4)


def test_rescaled_guidance_has_the_spread_of_the_conditional_prediction(backbone: VideoBackbone) -> None:
    latents, reference, control = _latents(backbone), _references(backbone), backbone.prepare_control(_frames(3))
    conditional = backbone.predict(latents, 999, reference, control, conditional=True)
    null = backbone.predict(latents, 999, reference, control, conditional=False)
    for clip in range(len(latents)):
        wanted, other = conditional[clip].double(), null[clip].double()
        mixed = other + 2.5 * (wanted - other)
        expected = 0.7 * mixed * (wanted.var() / mixed.var()).sqrt() + 0.3 * mixed
        together = backbone.predict_guided(latents, 999, reference, control, 2.5, 0.7)[clip]
        torch.testing.assert_close(together.double(), expected, atol=1e-4, rtol=1e-4)


def test_only_the_conditional_prediction_sees_the_reference(backbone: VideoBackbone) -> None:
    latents, control = _latents(backbone), backbone.prepare_control(_frames(3))
    one, other = _references(backbone, 1), _references(backbone, 5)
    seen = [backbone.predict(latents, 499, state, control, conditional=True) for state in (one, other)]
    assert float((seen[0] - seen[1]).abs().max()) > 1e-3
    if not isinstance(backbone, FakeBackbone):  # whose null prediction is the reference's grey
        unseen = [backbone.predict(latents, 499, state, control, conditional=False) for state in (one, other)]
        assert torch.equal(*unseen)


def test_landmarks_and_noise_level_reach_the_prediction(backbone: VideoBackbone) -> None:
    latents, reference = _latents(backbone), _references(backbone)
    control, other = (backbone.prepare_control(_frames(seed)) for seed in (3, 7))
    base = backbone.predict(latents, 499, reference, control, conditional=True)
    assert float((base - backbone.predict(latents, 499, reference, other, conditional=True)).abs().max()) > 1e-3
    assert float((base - backbone.predict(latents, 99, reference, control, conditional=True)).abs().max()) > 1e-3


def test_a_batch_of_identities_is_one_by_one(backbone: VideoBackbone) -> None:
    latents, maps = _latents(backbone), _frames(3)
    image, drawn = _frames(1, frames=1)[:, 0], _frames(11, frames=1)[:, 0]
    control, reference = backbone.prepare_control(maps), backbone.prepare_reference(image, drawn)
    together = backbone.predict_guided(latents, 499, reference, control, 1.7)
    for i in range(2):
        alone = backbone.predict_guided(
            latents[i : i + 1],
            499,
            backbone.prepare_reference(image[i : i + 1], drawn[i : i + 1]),
            backbone.prepare_control(maps[i : i + 1]),
            1.7,
        )
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_window_is_the_control_of_its_frames(backbone: VideoBackbone) -> None:
    latents, maps, reference = _latents(backbone), _frames(3, frames=5), _references(backbone)
    for window in ([4, 0, 2], [0, 1, 2]):
        view = backbone.window(backbone.prepare_control(maps), window)
        direct = backbone.prepare_control(maps[:, window])
        outputs = [backbone.predict(latents, 499, reference, control, conditional=True) for control in (view, direct)]
        torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_long_clips_go_up_and_down_in_windows(name: str) -> None:
    """Two small steps up the noise range, solved to convergence, are undone by two down, only if windows agree."""
    windows = {"max_frames": 3, "window_overlap": 1}
    backbone = BACKBONES[name]()
    backbone.spec = dataclasses.replace(backbone.spec, **windows)
    frames, image = _frames(0, 1, 5), _frames(1, 1, 1)[:, 0]
    reference, control = backbone.prepare_reference(image, image), backbone.prepare_control(frames)
    latents = backbone.encode(frames)
    schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
    timesteps = schedule.timesteps(1000, 2 / 1000)
    predict = windowed(backbone, reference, control, 1.0, 5, timesteps)
    up = invert(predict, schedule, latents, timesteps, fixed_point_iterations=8)
    down = denoise(windowed(backbone, reference, control, 1.0, 5, timesteps), schedule, up, timesteps)
    assert float((up - latents).abs().max()) > 0.02
    assert float((down - latents).abs().max()) < 1e-3
