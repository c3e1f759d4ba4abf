"""How often a refinement, or a step of score distillation, asks its backbone: counted with one that only counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.config import Config, DiffusionConfig
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.symgen.distillation.distillation import ScoreDistillation
from zero1toa.symgen.refine import refine
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

_DRAWS = 400  # of the noise level, on which the number of evaluations depends
_SIDE = 8  # of the pictures that are "refined": as small as the code around the backbone takes


@dataclasses.dataclass
class Work:
    """What one refinement, or on average one step of score distillation, asks of its backbone.

    Attributes:
        single_frames: frames in single evaluations, conditional or not, summed over all of them.
        guided_frames: frames in guided evaluations, each of which evaluates the network twice.
        encoded_frames: frames encoded.
        decoded_frames: frames decoded.
        calls: calls of the network, a guided one counted twice.
    """

    single_frames: float = 0
    guided_frames: float = 0
    encoded_frames: float = 0
    decoded_frames: float = 0
    calls: float = 0

    @property
    def frame_evaluations(self) -> float:
        """Evaluations of the network, one frame each."""
        return self.single_frames + 2 * self.guided_frames


class CountingBackbone:
    """A :class:`~zero1toa.diffusion.protocol.VideoBackbone` that predicts zeros and counts.

    Args:
        spec: of the backbone that it stands for.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        self.spec = dataclasses.replace(spec, size=_SIDE)
        self.work = Work()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def draw_control(self, landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
        """Empty maps."""
        return np.zeros((len(landmarks.points), size, size, 3), np.uint8)

    def encode(self, frames: Tensor) -> Tensor:
        """Zeros ``[B, T, 1, 1, 1]``."""
        self.work.encoded_frames += frames.shape[1]
        return frames.new_zeros(*frames.shape[:2], 1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Black frames."""
        self.work.decoded_frames += latents.shape[1]
        return latents.new_zeros(*latents.shape[:2], _SIDE, _SIDE, 3)

    def prepare_reference(self, image: Tensor, control: Tensor) -> None:
        """Nothing to prepare."""

    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> None:
        """Nothing to prepare."""

    def window(self, control: None, frames: Sequence[int]) -> None:
        """Nothing to choose."""

    def predict(self, latents: Tensor, timestep: int, reference: None, control: None, *, conditional: bool) -> Tensor:
        """Zeros; one evaluation."""
        self.work.calls += 1
        self.work.single_frames += latents.shape[1]
        return torch.zeros_like(latents)

    def predict_guided(
        self, latents: Tensor, timestep: int, reference: None, control: None, guidance: float, rescale: float = 0.0
    ) -> Tensor:
        """Zeros; two evaluations."""
        self.work.calls += 2
        self.work.guided_frames += latents.shape[1]
        return torch.zeros_like(latents)


def count_work(spec: BackboneSpec, config: DiffusionConfig, frames: int) -> Work:
    """What refining one clip asks of a backbone.

    Args:
        spec: the backbone's.
        config: steps, strength, guidance, start.
        frames: length of the clip.

    Raises:
        ConfigError: for values with which the run would fail too.
    """
    backbone = CountingBackbone(spec)
    track = LandmarkTrack(np.zeros((frames, 478, 2), np.float32), np.zeros(frames, bool), np.zeros(frames, bool))
    pictures = np.zeros((frames, _SIDE, _SIDE, 3), np.uint8)
    request = RefineRequest("plan", SampleKey("spatial", "plan"), 0, 0, 0, pictures, track, frames, spec.name, seed=0)
    refine(request, backbone, None, config)
    return backbone.work


def count_distillation(spec: BackboneSpec, config: Config) -> Work:
    """What one step of score distillation asks of a backbone, on average over the drawn noise levels.

    Args:
        spec: the backbone's.
        config: the run's configuration.

    Raises:
        ConfigError: for values with which the run would fail too.
    """
    backbone = CountingBackbone(spec)
    image, landmarks = np.zeros((_SIDE, _SIDE, 4), np.uint8), np.zeros((478, 2), np.float32)
    distillation = ScoreDistillation(config, backbone, Reference(image, landmarks))
    frames = min(config.loop.batch_frames, config.curriculum.frames)
    track = LandmarkTrack(np.zeros((frames, 478, 2), np.float32), np.zeros(frames, bool), np.zeros(frames, bool))
    rng = np.random.default_rng(config.seed)
    for _ in range(_DRAWS):
        distillation(torch.zeros(frames, _SIDE, _SIDE, 3), track, rng)
    total = dataclasses.asdict(backbone.work)
    return Work(**{name: value / _DRAWS for name, value in total.items()})
