"""How much GPU memory training an avatar takes, and which settings take less: what a user is told when it runs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from zero1toa import assets
from zero1toa.avatar.initialisation import COUNTS
from zero1toa.config import Config
from zero1toa.diffusion.memory import free_memory
from zero1toa.errors import DeviceMemoryError

_GIB = 2**30

_STEPS = ((8, 512, 120_560), (8, 1024, 120_560), (2, 512, 120_560), (8, 512, 36_168))
"""Frames, side of the pictures in pixels, and Gaussians of the measured training steps."""
_PEAKS = {
    "structure": (0.9277e9, 3.3490e9, 0.2854e9, 0.8504e9),
    "lpips": (2.3938e9, 9.2397e9, 0.6457e9, 2.3220e9),
}
"""Peaks of allocated memory in bytes in these steps, the dataset left out, by perceptual term."""
_SOURCE = "one NVIDIA H200, 2026-11-29 (docs/performance.md)"
_SIZES = (1024, 768, 512, 384, 256, 128)
"""Sides of pictures that are proposed."""


def training_gib(config: Config, faces: int) -> float | None:
    """About how much memory training takes in GiB, its dataset included; None where nothing was measured.

    Four steps were measured, which determine what one Gaussian takes, one Gaussian in one frame and one pixel in one
    frame. Without a perceptual term it is a little less than what is said here.

    Args:
        config: the run's configuration.
        faces: triangles of the head.
    """
    if config.distillation.method != "none":
        return None
    curriculum, size = config.curriculum, config.render.size
    frames = min(config.loop.batch_frames, curriculum.frames)
    rates = np.linalg.solve(np.array([_parts(*step) for step in _STEPS]), np.array(_PEAKS[_perceptual(config)]))
    step = float(rates @ _parts(frames, size, faces * config.avatar.gaussians_per_triangle))
    clips = curriculum.spatial_clips + curriculum.synthetic_clips + curriculum.real_clips
    return (step + 3.0 * clips * curriculum.frames * size**2) / _GIB


def training_settings_that_fit(config: Config, faces: int, budget: float) -> list[str]:
    """Changes to a configuration with which training takes less memory than now, and no more than ``budget`` GiB.

    Args:
        config: the run's configuration.
        faces: triangles of the head.
        budget: GiB.

    Returns:
        Each change alone, where it suffices, with what it takes; else a smaller picture and one frame together; else
        nothing.
    """
    now = training_gib(config, faces)
    if now is None:
        return []

    def first(changes: list[tuple[str, Config]]) -> list[str]:
        for said, changed in changes:
            takes = training_gib(changed, faces)
            if takes is not None and takes <= budget and takes < now:
                return [f"{said} (about {takes:.2f} GiB)"]
        return []

    frames = min(config.loop.batch_frames, config.curriculum.frames)
    fewer = [(f"loop.batch_frames={n}", _with_frames(config, n)) for n in range(frames - 1, 0, -1)]
    smaller = [
        (f"render.size={side}", dataclasses.replace(config, render=dataclasses.replace(config.render, size=side)))
        for side in _SIZES
        if side < config.render.size
    ]
    sparser = [
        (
            f"avatar.gaussians_per_triangle={count}",
            dataclasses.replace(config, avatar=dataclasses.replace(config.avatar, gaussians_per_triangle=count)),
        )
        for count in sorted(COUNTS, reverse=True)
        if count < config.avatar.gaussians_per_triangle
    ]
    plainer = dataclasses.replace(config, loss=dataclasses.replace(config.loss, perceptual_kind="structure"))
    alone = [*first(fewer), *first(smaller), *first(sparser), *first([("loss.perceptual_kind=structure", plainer)])]
    return alone or first([(f"loop.batch_frames=1 {said}", _with_frames(made, 1)) for said, made in smaller])


@contextmanager
def training_explained(config: Config, faces: int, device: torch.device) -> Iterator[None]:
    """Turn running out of GPU memory into an error that says what training takes and what takes less.

    Args:
        config: the run's configuration.
        faces: triangles of the head.
        device: where the avatar trains. What this process holds there on entering, a diffusion model, is not counted as
            the trainer's.

    Raises:
        DeviceMemoryError: in place of torch's.
    """
    others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        yield
    except torch.OutOfMemoryError as error:
        has, budget = free_memory(device, torch.cuda.memory_allocated(device))
        raise DeviceMemoryError(_explain(config, faces, has, budget - others / _GIB)) from error


def _explain(config: Config, faces: int, has: str, budget: float) -> str:
    takes = training_gib(config, faces)
    if takes is None:
        needs = "what training by score distillation takes was not measured"
        todo = "fewer loop.batch_frames take less"
    else:
        frames = min(config.loop.batch_frames, config.curriculum.frames)
        needs = (
            f"training takes about {takes:.1f} GiB with {frames} frames of {config.render.size} pixels, "
            f"{faces * config.avatar.gaussians_per_triangle} Gaussians and "
            f"{'LPIPS' if _perceptual(config) == 'lpips' else 'no LPIPS'}, after a measurement on {_SOURCE}"
        )
        fits = training_settings_that_fit(config, faces, budget)
        todo = f"in a new output folder these settings fit: {', '.join(fits)}" if fits else "no setting is known to fit"
    return (
        f"too little GPU memory to train the avatar: {has}; {needs}; {todo}; or free the GPU and run the same command "
        "again, which continues, or use a larger one"
    )


def _parts(frames: int, size: int, gaussians: int) -> tuple[int, int, int, int]:
    """What memory goes with: nothing, Gaussians, Gaussians in frames, pixels in frames."""
    return 1, gaussians, frames * gaussians, frames * size**2


def _perceptual(config: Config) -> str:
    asked = config.loss.perceptual_kind in ("auto", "lpips") and config.loss.perceptual > 0
    return "lpips" if asked and assets.find("vgg16") is not None else "structure"


def _with_frames(config: Config, frames: int) -> Config:
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, batch_frames=frames))
