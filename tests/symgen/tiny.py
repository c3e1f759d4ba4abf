"""A portrait and a configuration so small that a whole generation takes seconds."""

from __future__ import annotations

import functools

import numpy as np
import torch
from omegaconf import OmegaConf

from zero1toa.config import Config
from zero1toa.head.arkit import coefficients
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project
from zero1toa.types import Portrait

SIZE = 48


@functools.cache
def tiny_portrait() -> Portrait:
    """The canonical head smiling a little, each vertex splatted as a dot of skin colour."""
    head = load_head("canonical")
    arkit = coefficients({"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4})
    params = head.arkit(arkit, head.neutral())
    view = orbit(8.0, 2.0, 0.8, head.center)
    K = intrinsics(24.0, SIZE)
    vertices = head.vertices(params)
    pixels, _ = project(vertices, view, K)
    points, _ = project(head.landmarks.positions(vertices, head.faces), view, K)
    image = np.zeros((SIZE, SIZE, 4), np.uint8)
    for dx in (-0.5, 0.5):
        x, y = np.clip(np.floor(pixels.numpy() + dx).astype(int), 0, SIZE - 1).T
        image[y, x] = (200, 150, 120, 255)
    return Portrait(
        image=image,
        landmarks=points.numpy().astype(np.float32),
        viewmat=view.numpy(),
        K=K.numpy(),
        params=params,
        arkit=arkit.numpy(),
        residual=0.0,
        yaw=-8.0,
    )


def tiny_config(*overrides: str) -> Config:
    """Four clips of four frames, twelve iterations, the closed-form backbone."""
    torch.set_num_threads(1)
    # From the defaults and not from a preset, whose values are tuned for pictures.
    values = OmegaConf.from_dotlist(
        [
            "device=cpu",
            "avatar.opacity=0.5",
            "density.every=0",
            "diffusion.guidance=1.5",
            "diffusion.strength=0.3",
            "diffusion.keep_detail=true",
            "curriculum.fovy=[20.0,30.0]",
            "avatar.gaussians_per_triangle=1",
            "avatar.landmark_offset=false",
            "avatar.hair_volume=false",
            "avatar.project_portrait=false",
            f"render.size={SIZE}",
            "loss.perceptual_kind=none",
            "diffusion.backbone=fake",
            "diffusion.steps=4",
            "diffusion.landmarks=project",
            "curriculum.frames=4",
            "curriculum.spatial_clips=2",
            "curriculum.synthetic_clips=1",
            "curriculum.real_clips=1",
            "curriculum.unlock_interval=2",
            "curriculum.temporal_start=6",
            "curriculum.real_start=9",
            "loop.iterations=12",
            "loop.update_interval=2",
            "loop.batch_frames=2",
            "loop.checkpoint_every=4",
            "loop.preview_every=6",
            "distributed.slack=0",
            "distributed.threads=1",
            *overrides,
        ]
    )
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    assert isinstance(config, Config)
    return config
