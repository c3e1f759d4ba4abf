"""Windows over clips that are longer than a backbone takes at once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from zero1toa.diffusion.fake import FakeBackbone
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.diffusion.windows import check_length, plan_windows, windowed
from zero1toa.errors import ConfigError


def _fake(length: int, overlap: int | None, shift: int = 0) -> FakeBackbone:
    backbone = FakeBackbone()
    backbone.spec = dataclasses.replace(backbone.spec, max_frames=length, window_overlap=overlap, window_shift=shift)
    return backbone


def test_plans_of_the_public_pipelines() -> None:
    assert plan_windows(30, 16, 4) == [[*range(16)], [*range(12, 28)], [*range(24, 30), *range(10)]]
    assert plan_windows(6, 4, 0) == [[0, 1, 2, 3], [4, 5, 0, 1]]
    assert plan_windows(6, 4, 2) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 0, 1]]
    assert plan_windows(6, 4, 2, shift=3)[0] == [3, 4, 5, 0]
    assert plan_windows(12, 12, 3) == [[*range(12)]]
    assert plan_windows(5, 12, 3) == [[*range(5)]]
    assert plan_windows(5, 12, 3, shift=3) == [[3, 4, 0, 1, 2]]
    with pytest.raises(ValueError, match="overlap of 4"):
        plan_windows(6, 4, 4)


@pytest.mark.parametrize("frames", range(1, 40))
def test_every_frame_is_in_a_window(frames: int) -> None:
    for length, overlap in ((1, 0), (5, 0), (5, 4), (16, 4), (12, 3)):
        for shift in (0, 3, 100):
            windows = plan_windows(frames, length, overlap, shift)
            assert set().union(*windows) == set(range(frames))
            assert {len(window) for window in windows} == {min(length, frames)}
            assert all(len(set(window)) == len(window) for window in windows)


class _Counting(FakeBackbone):
    """Its output says how often and where in a window a frame was predicted."""

    def __init__(self, length: int, overlap: int, shift: int = 0) -> None:
        super().__init__()
        self.spec = _fake(length, overlap, shift).spec
        self.calls: list[tuple[bool, list[int]]] = []
        self.windows = 0

    def window(self, control, frames):
        self.windows += 1
        return control[:, list(frames)]

    def predict(self, latents, timestep, reference, control, *, conditional):
        assert torch.equal(latents[..., 0, 0, 0], control[..., 0, 0, 0])  # both were cut alike
        self.calls.append((conditional, latents[0, :, 0, 0, 0].int().tolist()))
        place = torch.arange(latents.shape[1], dtype=torch.float32)[None, :, None, None, None]
        return (place + (10 if conditional else 0)).expand_as(latents).clone()


def test_predictions_of_a_frame_are_averaged() -> None:
    backbone = _Counting(4, 2)
    clip = torch.arange(6.0)[None, :, None, None, None].expand(1, 6, 48, 1, 1)
    predict = windowed(backbone, None, clip, 3.0, 6, [999, 499])
    output = predict(clip, 999)[0, :, 0, 0, 0]
    # Places of frames 0-5 in [0 1 2 3] [2 3 4 5] [4 5 0 1]; guidance 3 between 0 and 10 adds 30.
    places = [(0 + 2) / 2, (1 + 3) / 2, (2 + 0) / 2, (3 + 1) / 2, (2 + 0) / 2, (3 + 1) / 2]
    assert output.tolist() == pytest.approx([place + 30 for place in places])
    assert [frames for conditional, frames in backbone.calls if conditional] == plan_windows(6, 4, 2)
    predict(clip, 499)
    assert backbone.windows == 3  # windows that stay are prepared once


def test_windows_move_with_the_step_in_both_directions() -> None:
    backbone = _Counting(4, 2, shift=3)
    clip = torch.arange(6.0)[None, :, None, None, None].expand(1, 6, 48, 1, 1)
    timesteps = [999, 666, 333]
    predict = windowed(backbone, None, clip, 1.0, 6, timesteps)
    for order in (timesteps, timesteps[::-1]):
        for timestep in order:
            backbone.calls.clear()
            predict(clip, timestep)
            shift = 3 * timesteps.index(timestep)
            assert [frames for _, frames in backbone.calls] == plan_windows(6, 4, 2, shift)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_model_without_temporal_layers_does_not_notice_windows(shift: int) -> None:
    """The fake's frames are independent, so windows must not change anything, up and down included."""
    generator = torch.Generator().manual_seed(0)
    frames, maps, image = (
        torch.rand(shape, generator=generator) for shape in ((1, 9, 32, 32, 3),) * 2 + ((1, 32, 32, 3),)
    )
    results = []
    for backbone in (_fake(9, None), _fake(4, 1, shift)):
        reference, control = backbone.prepare_reference(image, image), backbone.prepare_control(maps)
        results.append(refine_latents(backbone, backbone.encode(frames), reference, control, steps=6, guidance=1.5))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


def test_models_without_windows_refuse_long_clips() -> None:
    check_length(_fake(4, 0).spec, 100)
    with pytest.raises(ConfigError, match="up to 4 frames, not 5"):
        check_length(_fake(4, None).spec, 5)
