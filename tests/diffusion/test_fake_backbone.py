from __future__ import annotations

import numpy as np
import pytest
import torch

from zero1toa.diffusion.protocol import VideoBackbone
from zero1toa.diffusion.registry import backbones, load_backbone, register
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.errors import ConfigError
from zero1toa.types import LandmarkTrack


def _scene() -> tuple[VideoBackbone, torch.Tensor, object, object]:
    backbone = load_backbone("fake")
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(1, 3, 32, 32, 3, generator=generator)
    image = torch.rand(1, 32, 32, 3, generator=generator)
    points = np.full((3, 478, 2), 0.5, np.float32)
    track = LandmarkTrack(points, np.array([True, True, False]), np.zeros(3, bool))
    maps = torch.from_numpy(backbone.draw_control(track, 32))[None].float() / 255
    return backbone, frames, backbone.prepare_reference(image, image), backbone.prepare_control(maps)


def test_codec_is_lossless_and_protocol_holds() -> None:
    backbone, frames, _, _ = _scene()
    assert isinstance(backbone, VideoBackbone)
    torch.testing.assert_close(backbone.decode(backbone.encode(frames)), frames)


def test_round_trip_at_guidance_one_and_visible_change_above() -> None:
    backbone, frames, reference, control = _scene()
    latents = backbone.encode(frames)
    same = refine_latents(backbone, latents, reference, control, steps=50, fixed_point_iterations=4)
    assert float((backbone.decode(same) - frames).abs().max()) < 0.01
    changed = refine_latents(backbone, latents, reference, control, steps=5, guidance=1.5)
    again = refine_latents(backbone, latents, reference, control, steps=5, guidance=1.5)
    assert torch.equal(changed, again)
    assert float((backbone.decode(changed) - frames).abs().mean()) > 0.02
    untouched = refine_latents(backbone, latents, reference, control, steps=5, strength=0.0, guidance=1.5)
    assert torch.equal(untouched, latents)


def test_landmarks_move_the_result_and_empty_maps_do_not() -> None:
    backbone, frames, reference, control = _scene()
    latents = backbone.encode(frames)
    blank = backbone.prepare_control(torch.zeros_like(frames))
    with_lines = refine_latents(backbone, latents, reference, control, steps=5, guidance=1.5)
    without = refine_latents(backbone, latents, reference, blank, steps=5, guidance=1.5)
    assert not torch.allclose(with_lines[:, 0], without[:, 0])
    assert torch.equal(with_lines[:, 2], without[:, 2])  # the invalid frame drew nothing


def test_too_long_clips_are_refused() -> None:
    backbone = load_backbone("fake")
    with pytest.raises(ConfigError, match="up to 64 frames, not 65"):
        refine_latents(backbone, torch.zeros(1, 65, 48, 2, 2), None, None, steps=5)


def test_registry_names_and_errors() -> None:
    assert {"fake", "compact"} <= set(backbones())
    with pytest.raises(ConfigError, match="did you mean 'compact'"):
        load_backbone("compcat")
    with pytest.raises(ConfigError, match="unknown dtype"):
        load_backbone("fake", dtype="float17")
    with pytest.raises(ConfigError, match="already"):
        register("fake", "zero1toa.diffusion.other:load")
