"""Refinement through the portrait animators, as the loop calls them (tiny networks, seeded weights)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.diffusion.tiny_animators import NAMES, assemble, seeded_networks
from zero1toa.config import DiffusionConfig, load
from zero1toa.diffusion import registry
from zero1toa.errors import ConfigError
from zero1toa.symgen.refine import load_refiner, prepare_reference, refine
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

FRAMES = 5


def _request(name: str) -> RefineRequest:
    generator = np.random.default_rng(0)
    points = generator.uniform(0.2, 0.8, (FRAMES, 478, 2)).astype(np.float32)
    frames = generator.integers(0, 255, (FRAMES, 128, 128, 3), dtype=np.uint8)
    track = LandmarkTrack(points, np.ones(FRAMES, bool), np.zeros(FRAMES, bool))
    return RefineRequest("ada", SampleKey("spatial", "a"), 0, 0, 0, frames, track, FRAMES, name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_longer_than_the_window_is_refined(name: str) -> None:
    backbone = assemble(name, seeded_networks(name), {"size": 128, "max_frames": 3, "window_overlap": 1})
    image = np.full((96, 96, 4), 255, np.uint8)
    image[..., :3] = np.random.default_rng(1).integers(0, 255, (96, 96, 3))
    state = prepare_reference(Reference(image, np.full((478, 2), 40, np.float32)), backbone, (1.0, 1.0, 1.0))
    config = DiffusionConfig(backbone=name, steps=2, guidance=2.0)
    request = _request(name)
    first, seconds = refine(request, backbone, state, config)
    assert first.shape == request.frames.shape
    assert set(seconds) == {"encode", "denoise", "decode"}
    assert np.array_equal(first, refine(request, backbone, state, config)[0])
    other = refine(request, backbone, state, DiffusionConfig(backbone=name, steps=2, guidance=1.0))[0]
    assert not np.array_equal(first, other)


def test_the_loop_passes_options_and_allows_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def loader(device, dtype, *, betas: str = "linear"):
        given.append(betas)
        return assemble("aniportrait", seeded_networks("aniportrait"), {"max_frames": 3})

    monkeypatch.setitem(registry._LOADERS, "tiny", loader)
    config = ["preset=preview", "diffusion.backbone=tiny", "diffusion.options.betas=scaled_linear"]
    backbone = load_refiner(load([*config, "curriculum.frames=9"]), torch.device("cpu"))
    assert backbone.spec.max_frames == 3
    assert given == ["scaled_linear"]
    with pytest.raises(ConfigError, match="no option 'beta'; did you mean 'betas'"):
        load_refiner(load(["diffusion.backbone=tiny", "diffusion.options.beta=linear"]), torch.device("cpu"))
