"""Features of refined clips are found once for each version, as far as they have room."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.symgen.target_features import TargetFeatures
from zero1toa.types import SampleKey

A, B = SampleKey("spatial", "a"), SampleKey("spatial", "b")
FRAME = 4 * (4 * 3 + 1)  # bytes of both parts of a frame of 2 x 2 pixels


class Finder:
    """Two parts of each frame: its pixels, and their mean."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, frames: Tensor) -> list[Tensor]:
        self.asked.append(len(frames))
        return [frames.flatten(1), frames.mean((1, 2, 3))]


def _clip(seed: int, frames: int = 5) -> Tensor:
    return torch.randint(0, 256, (frames, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_parts_are_those_of_the_frames_asked_for() -> None:
    find, clip = Finder(), _clip(0)
    features = TargetFeatures(find, 4, bound=1000)
    for numbers in ([4, 0, 1], [2, 3, 3]):
        frames = torch.tensor(numbers)
        pixels, means = features.of(A, clip, frames) or []
        expected = clip.double().flatten(1)[frames] / 255
        torch.testing.assert_close(pixels.double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(means.double(), expected.mean(1), rtol=1e-6, atol=1e-7)
    assert find.asked == [4, 4]  # once, always four together


def test_another_version_is_looked_at_anew() -> None:
    features = TargetFeatures(Finder(), 5, bound=1000)
    frames = torch.arange(5)
    features.of(A, _clip(0), frames)
    features.forget(A)
    features.forget(B)  # of which nothing is known
    pixels, _ = features.of(A, _clip(1), frames) or []
    torch.testing.assert_close(pixels, _clip(1).flatten(1) / 255)


def test_what_has_no_room_is_not_kept() -> None:
    find, frames = Finder(), torch.arange(5)
    features = TargetFeatures(find, 5, bound=9 * FRAME)
    assert features.of(A, _clip(0), frames) is not None
    for _ in range(3):
        assert features.of(B, _clip(1), frames) is None
    assert find.asked == [5]  # how much a frame takes is known by then
    features.forget(A)
    assert features.of(B, _clip(1), frames) is not None
    small = Finder()
    assert TargetFeatures(small, 5, bound=4 * FRAME).of(A, _clip(0), frames) is None
    assert small.asked == [5]


def test_nothing_is_asked_where_nothing_is_found() -> None:
    asked: list[int] = []

    def nothing(frames: Tensor) -> None:
        asked.append(len(frames))

    features = TargetFeatures(nothing, 5, bound=1000)
    assert features.of(A, _clip(0), torch.arange(5)) is None
    assert features.of(B, _clip(0), torch.arange(5)) is None
    assert asked == [5]
    finder = Finder()
    assert TargetFeatures(finder, 5).of(A, _clip(0), torch.arange(5)) is None  # a CPU has no memory to spare
