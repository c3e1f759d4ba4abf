"""The compact backbone's inversion comes back to renders of people that it was not trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zero1toa.config import DiffusionConfig
from zero1toa.diffusion.compact import CompactBackbone, read_weights
from zero1toa.evaluation.synthetic import HELD_OUT_SEED, SyntheticClips
from zero1toa.head.registry import load_head
from zero1toa.symgen.refine import prepare_reference, refine
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

SIZE, FRAMES = 128, 2


@pytest.mark.slow
def test_renders_come_back_from_inversion_at_the_documented_settings() -> None:
    """Whole refinements at guidance 1, against the autoencoder alone; the threshold is the project's, 30 dB."""
    torch.set_num_threads(1)
    clips = SyntheticClips(load_head("canonical"), HELD_OUT_SEED + 3)
    sample = clips.sample(torch.Generator().manual_seed(0), 1, FRAMES, SIZE)
    backbone = CompactBackbone(read_weights())
    portrait = np.full((SIZE, SIZE, 4), 255, np.uint8)
    portrait[..., :3] = _bytes(sample["reference"][0])
    landmarks = sample["reference_landmarks"][0].numpy() * SIZE
    reference = prepare_reference(Reference(portrait, landmarks), backbone, (1.0, 1.0, 1.0))
    track = LandmarkTrack(sample["landmarks"][0].numpy(), np.ones(FRAMES, bool), np.zeros(FRAMES, bool))
    for name in ("truth", "degraded"):
        render = _bytes(sample[name][0])
        frames = torch.from_numpy(render)[None].float() / 255
        plain = backbone.decode(backbone.encode(frames))[0].double().numpy()
        key = SampleKey("spatial", name)
        request = RefineRequest("trip", key, 0, 0, 0, render, track, FRAMES, "compact", seed=0)
        for steps, strength in ((25, 0.3), (25, 1.0)):
            config = DiffusionConfig(
                start="inversion", guidance=1.0, steps=steps, strength=strength, fixed_point_iterations=1
            )
            returned, _ = refine(request, backbone, reference, config)
            error = np.mean((returned / 255.0 - plain) ** 2)
            assert -10 * np.log10(error) >= 30.0, (name, steps, strength)


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
