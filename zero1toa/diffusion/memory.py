"""How much GPU memory a backbone needs, and which settings fit into what there is.

What a backbone needs is the memory of its weights, which is counted, and the peak of a refinement beyond them, as far
as that was measured. Both are least figures: torch's allocator, the CUDA context and an avatar that trains on the same
GPU come on top. So what is refused here could not have run, and what passes may still run out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from zero1toa.config import Config, DiffusionConfig
from zero1toa.diffusion.facts import backbone_spec, parameter_counts
from zero1toa.errors import ConfigError, DeviceMemoryError

_GIB = 2**30
_BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}  # ``auto`` is bfloat16 on a GPU


@dataclasses.dataclass(frozen=True)
class MeasuredPeak:
    """Peak of allocated memory in one refinement call, weights included, in bfloat16.

    Attributes:
        source: where and how it was measured.
        frames: frames of a clip.
        one: bytes, one clip.
        two: bytes, two clips in one call.
        prepared: bytes of them that the package's kernels hold of the weights in a form of their own.
    """

    source: str
    frames: int
    one: float
    two: float
    prepared: float


_SOURCE = "one NVIDIA H200, 2026-11-30, clips of {} frames at 512 pixels (docs/performance.md)"
_PREPARED = 1.737e9  # counted: 16 values of two bytes for each pair of channels of a residual block's convolutions


def _peak(frames: int, one: float, two: float) -> MeasuredPeak:
    return MeasuredPeak(_SOURCE.format(frames), frames, one, two, _PREPARED)


PEAKS: dict[str, MeasuredPeak] = {
    "follow_your_emoji": _peak(16, 10.76e9, 11.53e9),
    "aniportrait": _peak(16, 11.45e9, 12.27e9),
    "echomimic": _peak(12, 9.95e9, 10.55e9),
}
"""Peaks by backbone; the others were not measured."""


@functools.cache
def weights_gib(backbone: str, dtype: str) -> float:
    """Memory of a backbone's weights in GiB.

    Args:
        backbone: registry name.
        dtype: as ``diffusion.dtype``, for a GPU.

    Raises:
        ConfigError: for a backbone of which nothing is known before it is loaded.
    """
    return sum(parameter_counts(backbone).values()) * _BYTES.get(dtype, 2) / _GIB


def frames_at_once(backbone: str, frames: int) -> int:
    """Frames of a clip that a backbone takes at once; a longer clip goes through it in windows of so many."""
    return min(frames, backbone_spec(backbone).max_frames)


def activations_gib(diffusion: DiffusionConfig, frames: int) -> float | None:
    """Peak of refining one clip beyond the weights, in GiB; None where it was not measured.

    Other numbers of frames lie on the line through one and two measured clips. Of a clip that goes through the backbone
    in windows, what a window takes is a least figure (16 frames of EchoMimic, which takes 12, were measured: 0.08 GB
    more). Without the package's kernels, which float32 goes without as well, it is less by the weights that these hold
    in a form of their own. For the rest float32 has bfloat16's, and takes more.

    Args:
        diffusion: backbone, type and options.
        frames: frames of a clip.
    """
    peak = PEAKS.get(diffusion.backbone)
    if peak is None:
        return None
    slope = (peak.two - peak.one) / peak.frames
    total = peak.one + slope * (frames_at_once(diffusion.backbone, frames) - peak.frames)
    if diffusion.dtype == "float32" or diffusion.options.get("compiled") is False:
        total -= peak.prepared
    return total / _GIB - weights_gib(diffusion.backbone, "bfloat16")


def needed_gib(config: Config) -> float | None:
    """Least memory in GiB with which a configuration's backbone can refine; None if nothing is known of it."""
    try:
        weights = weights_gib(config.diffusion.backbone, config.diffusion.dtype)
    except ConfigError:  # registered from outside
        return None
    return weights + (_activations(config) or 0.0)


def settings_that_fit(config: Config, budget: float) -> list[str]:
    """Changes to a configuration that need less memory than it does, and no more than ``budget`` GiB.

    Only what is known to help is listed: half precision, torch's own layers and fewer frames in a clip where their
    share was measured, and the compact backbone.
    """
    needed = needed_gib(config)
    found: list[str] = []

    def consider(said: str, changed: Config) -> bool:
        less = needed_gib(changed)
        fits = less is not None and less <= budget and (needed is None or less < needed)
        if fits:
            found.append(f"{said} ({_at_least(changed)} {less:.2f} GiB)")
        return fits

    diffusion = config.diffusion
    if diffusion.dtype == "float32":
        consider("diffusion.dtype=bfloat16", _changed(config, dtype="bfloat16"))
    if _activations(config) is not None:
        plain = {**diffusion.options, "compiled": False}
        consider("diffusion.options.compiled=false", _changed(config, options=plain))
        for frames in range(config.curriculum.frames - 1, 0, -1):
            fewer = dataclasses.replace(config, curriculum=dataclasses.replace(config.curriculum, frames=frames))
            if consider(f"curriculum.frames={frames}", fewer):
                break
    if diffusion.backbone != "compact":
        consider("diffusion.backbone=compact", _changed(config, backbone="compact", dtype="auto", options={}))
    return found


def device_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a CUDA device that are free, with what torch keeps for this process unused, and bytes it has in all."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def free_memory(device: torch.device, held: int) -> tuple[str, float]:
    """What is free on a CUDA device, in words, and GiB that are free or held.

    Args:
        device: the device.
        held: bytes that this process holds and could do without.
    """
    free, total = device_memory(device)
    said = f"of its {total / _GIB:.1f} GiB {free / _GIB:.1f} are free"
    if held:
        said += f" and {held / _GIB:.1f} held by this process"
    return said, (free + held) / _GIB


def check_memory(config: Config, device: torch.device) -> None:
    """Refuse a backbone that cannot fit into a GPU's free memory, before it is loaded.

    Args:
        config: the run's configuration.
        device: where the backbone goes; other devices than CUDA are not asked.

    Raises:
        DeviceMemoryError: saying how much is free, how much is needed, and which settings fit.
    """
    if device.type != "cuda":
        return
    needed = needed_gib(config)
    if needed is not None and device_memory(device)[0] < needed * _GIB:
        raise DeviceMemoryError(_explain(config, device, f"to load the backbone '{config.diffusion.backbone}'", held=0))


@contextmanager
def explained(config: Config, device: torch.device, doing: str) -> Iterator[None]:
    """Turn running out of GPU memory into the error that :func:`check_memory` raises.

    Args:
        config: the run's configuration.
        device: where the backbone is.
        doing: what needs the memory, as in "to refine a clip".

    Raises:
        DeviceMemoryError: in place of torch's.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        held = torch.cuda.memory_allocated(device)
        raise DeviceMemoryError(_explain(config, device, doing, held)) from error


def _explain(config: Config, device: torch.device, doing: str, held: int) -> str:
    has, budget = free_memory(device, held)
    name = config.diffusion.backbone
    needed, activations = needed_gib(config), _activations(config)
    needs = f"what '{name}' needs is not known"
    if needed is not None and activations is None:
        needs = f"the weights of '{name}' alone need {needed:.1f} GiB, and a refinement more that was not measured"
    elif needed is not None and activations is not None:
        needs = (
            f"'{name}' needs at least {needed:.1f} GiB: {needed - activations:.1f} for weights and {activations:.1f} "
            f"to refine a clip of {config.curriculum.frames} frames, after a measurement on {PEAKS[name].source}"
        )
    fits = settings_that_fit(config, budget)
    todo = f"these settings fit: {', '.join(fits)}" if fits else "no setting is known to fit"
    return f"too little GPU memory {doing}: {has}; {needs}; {todo}; or free the GPU, or use a larger one"


def _activations(config: Config) -> float | None:
    """Score distillation goes back through the encoder and forms no refinement: nothing was measured of it."""
    if config.distillation.method != "none":
        return None
    return activations_gib(config.diffusion, config.curriculum.frames)


def _at_least(config: Config) -> str:
    return "weights alone" if _activations(config) is None else "at least"


def _changed(config: Config, **values: Any) -> Config:
    return dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, **values))
