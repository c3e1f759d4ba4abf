import dataclasses

import numpy as np
import pytest
import torch

from zero1toa.config import DiffusionConfig, load
from zero1toa.diffusion.fake import FakeBackbone
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.errors import ConfigError
from zero1toa.symgen.refine import composite, load_refiner, prepare_reference, reach, refine, resize, transfer
from zero1toa.symgen.refinery import Refiner
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey


def request(frames):
    count = len(frames)
    points = np.random.default_rng(1).uniform(0.2, 0.8, (count, 478, 2)).astype(np.float32)
    track = LandmarkTrack(points, np.ones(count, bool), np.zeros(count, bool))
    return RefineRequest("ada", SampleKey("spatial", "a"), 0, 0, 0, frames, track, count, "fake", 0)


def pattern(size, count=3):
    """Smooth colours with a checkerboard of single pixels on top: detail that no half-sized picture can hold."""
    y, x = np.mgrid[:size, :size] / size
    smooth = np.stack([x, y, 0.5 + 0 * x], -1) * 120 + 60
    board = (np.indices((size, size)).sum(0) % 2)[..., None] * 24.0 - 12
    return np.tile(np.round(smooth + board).astype(np.uint8), (count, 1, 1, 1)), board


@pytest.fixture(scope="module")
def backbone():
    return FakeBackbone()


@pytest.fixture(scope="module")
def state(backbone):
    image = np.full((40, 40, 4), 255, np.uint8)
    image[..., :3] = (220, 120, 90)
    return prepare_reference(Reference(image, np.full((478, 2), 20, np.float32)), backbone, (1.0, 1.0, 1.0))


def test_strength_zero_gives_the_render_back(backbone, state):
    frames, _ = pattern(128)
    out, seconds = refine(request(frames), backbone, state, DiffusionConfig(strength=0.0, keep_detail=True))
    assert (out == frames).all()
    assert set(seconds) == {"encode", "denoise", "decode"}
    small, _ = pattern(64)
    assert (refine(request(small), backbone, state, DiffusionConfig(strength=0.0))[0] == small).all()


def test_keep_detail_keeps_what_the_backbone_cannot_hold(backbone, state):
    frames, board = pattern(128)
    options = {"steps": 20, "strength": 0.2, "guidance": 1.05}

    def detail(pictures):  # strength of the checkerboard
        return (pictures.astype(float) * np.sign(board)).mean()

    kept, _ = refine(request(frames), backbone, state, DiffusionConfig(keep_detail=True, **options))
    lost, _ = refine(request(frames), backbone, state, DiffusionConfig(keep_detail=False, **options))
    assert detail(frames) == pytest.approx(12, abs=0.2)
    assert detail(kept) > 10
    assert abs(detail(lost)) < 1
    # Both are changed in the same way where there is no detail: means over 8 x 8 blocks.
    blocks = [p.reshape(3, 16, 8, 16, 8, 3).astype(float).mean((2, 4)) for p in (kept, lost)]
    assert np.abs(blocks[0] - blocks[1])[:, 1:-1, 1:-1].mean() < 2
    assert np.abs(kept.astype(float) - frames).mean() > 3  # guidance did change the clip


def test_transfer_drops_the_detail_of_what_was_replaced():
    frames, _ = pattern(64, 1)
    render = torch.from_numpy(frames[None]).double() / 255
    encoded = resize(render, 32)
    assert torch.equal(transfer(render, encoded, encoded, (1.0, 1.0, 1.0)), render)
    slight = transfer(render, encoded, encoded + 0.03, (1.0, 1.0, 1.0))
    assert (slight - (render + 0.03)).abs().max() < 0.002
    replaced = transfer(render, encoded, encoded + 0.6, (1.0, 1.0, 1.0))
    assert (replaced - (resize(encoded, 64) + 0.6)).abs().max() < 0.002


def test_what_turns_into_background_near_the_outline_is_no_change():
    """A denoiser that draws the head 10 pixels smaller must not paint its rim white; inside the head white is white."""
    white = (1.0, 1.0, 1.0)
    render = torch.ones(1, 1, 200, 200, 3)
    render[:, :, 40:160, 40:160] = torch.tensor([0.4, 0.3, 0.2])
    smaller = render.clone()
    smaller[:, :, 40:160, 150:160] = 1.0
    smaller[:, :, 95:105, 95:105] = 0.95  # teeth, say
    darker = render.clone()
    darker[:, :, 40:160, 145:150] = 0.1
    out = transfer(render, render, smaller, white)[0, 0]
    assert (out[60:140, 150:160] - render[0, 0, 60:140, 150:160]).abs().max() < 0.02
    assert out[98:102, 98:102].min() > 0.9
    assert transfer(render, render, darker, white)[0, 0][100, 147, 0] < 0.2  # a colour, not the background


def test_a_change_ends_at_the_outline_of_the_head(backbone, state):
    frames = np.full((2, 128, 128, 3), 255, np.uint8)
    frames[:, 40:90, 50:80] = (180, 140, 120)
    config = DiffusionConfig(steps=4, guidance=2.0, strength=0.8, keep_detail=True)
    out, _ = refine(request(frames), backbone, state, config)
    change = np.abs(out.astype(int) - frames).max((0, -1))
    assert change[45:85, 55:75].mean() > 3  # on the head
    assert change[:, :50].max() == change[:40].max() == 0  # beside the head: nothing
    weights = reach(torch.from_numpy(frames[None]).float() / 255, (1.0, 1.0, 1.0))[0, 0, ..., 0]
    assert (weights[46:84, 56:74] == 1).all()
    row = weights[60, 48:58]
    assert (row.diff() >= 0).all()  # it rises evenly
    assert row[2] == 0  # the rim itself stays


def test_refinement_is_deterministic(backbone, state):
    frames, _ = pattern(64)
    config = DiffusionConfig(steps=4, guidance=1.5, strength=0.5)
    assert (
        refine(request(frames), backbone, state, config)[0] == refine(request(frames), backbone, state, config)[0]
    ).all()


def test_composite_puts_straight_alpha_on_the_background():
    image = np.zeros((4, 4, 4), np.uint8)
    image[...] = (200, 100, 50, 51)
    picture, matte = composite(image, (1.0, 0.5, 0.0), 4)
    expected = np.array([200, 100, 50]) / 255 * 0.2 + np.array([1.0, 0.5, 0.0]) * 0.8
    np.testing.assert_allclose(picture[2, 2].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(matte.numpy(), 0.2, atol=1e-6)
    assert composite(image, (1.0, 0.5, 0.0), 9)[0].shape == (9, 9, 3)


def test_clips_longer_than_the_backbone_takes_are_refused():
    config = load(["preset=preview", "diffusion.backbone=fake", "curriculum.frames=65"])
    with pytest.raises(ConfigError, match=r"curriculum\.frames=65"):
        load_refiner(config, torch.device("cpu"))


class Shown(FakeBackbone):
    """Says that it reads the clip's latents, and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, uses_source=True)
        self.given, self.first = [], []

    def prepare_control(self, maps, source=None):
        self.given.append(source)
        self.first.append(None)
        return super().prepare_control(maps, source)

    def predict(self, latents, timestep, reference, control, *, conditional):
        if self.first[-1] is None:
            self.first[-1] = (latents.clone(), timestep)
        return super().predict(latents, timestep, reference, control, conditional=conditional)


def test_a_backbone_that_is_shown_the_clip_starts_from_noise_of_the_request(state):
    frames, _ = pattern(64)
    backbone = Shown()
    options = {"steps": 5, "strength": 0.6, "guidance": 1.0}
    first, _ = refine(request(frames), backbone, state, DiffusionConfig(**options))
    again, _ = refine(request(frames), backbone, state, DiffusionConfig(start="noise", **options))
    assert (first == again).all()
    other, _ = refine(
        dataclasses.replace(request(frames), seed=1), backbone, state, DiffusionConfig(start="auto", **options)
    )
    assert (other != first).any()
    latents = backbone.encode(torch.from_numpy(frames[None]).float() / 255)
    assert torch.equal(backbone.given[0], latents)
    start, timestep = backbone.first[0]
    schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
    alpha, sigma = schedule.level(timestep)
    noise = ((start - alpha * latents) / sigma).flatten()
    assert timestep == schedule.timesteps(5, 0.6)[0]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1

    inverted, _ = refine(request(frames), backbone, state, DiffusionConfig(start="inversion", **options))
    assert backbone.given[-1] is None  # an inverted clip is carried by its noise alone
    plain, _ = refine(request(frames), FakeBackbone(), state, DiffusionConfig(**options))
    assert (inverted == plain).all()


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match=r"diffusion.start=middle.*auto, inversion or noise"):
        load_refiner(load(["diffusion.start=middle", "diffusion.backbone=fake"]), torch.device("cpu"))


@pytest.mark.parametrize(("backbone", "start"), [("compact", "inversion"), ("fake", "noise")])
def test_clips_refined_together_are_those_refined_one_by_one(backbone, start):
    """Two avatars' clips in one micro-batch: each keeps its own portrait, landmarks and seed."""
    config = load(
        [
            "preset=preview",
            f"diffusion.backbone={backbone}",
            f"diffusion.start={start}",
            "diffusion.steps=2",
            "curriculum.frames=2",
        ]
    )
    colours = {"ada": (220, 120, 90), "bob": (60, 110, 160)}
    frames, _ = pattern(64, 2)
    requests = [
        dataclasses.replace(request(frames if avatar == "ada" else frames[:, ::-1]), avatar=avatar, seed=seed)
        for seed, avatar in enumerate(colours)
    ]

    def reference(avatar):
        image = np.full((40, 40, 4), 255, np.uint8)
        image[..., :3] = colours[avatar]
        return Reference(image, np.random.default_rng(len(avatar)).uniform(5, 35, (478, 2)).astype(np.float32))

    together, seconds = Refiner(config, torch.device("cpu")).together(requests, reference)
    one_by_one = Refiner(config, torch.device("cpu"))
    assert set(seconds) == {"encode", "denoise", "decode"}
    for asked, frames in zip(requests, together, strict=True):
        alone, _ = one_by_one(asked, reference)
        assert np.abs(frames.astype(int) - alone).max() <= 1
        assert np.abs(frames.astype(int) - asked.frames).mean() > 1  # something was refined
    assert np.abs(together[0].astype(int) - together[1][:, ::-1]).mean() > 5
