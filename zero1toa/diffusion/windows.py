"""Clips longer than a backbone takes at once: overlapping windows, whose predictions are averaged at every step.

The same windows are used in both directions, so that denoising undoes what inversion did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zero1toa.diffusion.inversion import Predict
from zero1toa.diffusion.protocol import BackboneSpec, ControlState, ReferenceState, VideoBackbone
from zero1toa.errors import ConfigError


def plan_windows(frames: int, length: int, overlap: int, shift: int = 0) -> list[list[int]]:
    """Which frames are predicted together.

    The last window wraps round to the clip's first frames, so that every window has the same length and every frame is
    predicted at least once.

    Args:
        frames: length of the clip.
        length: frames per window; a clip that is not longer is one window.
        overlap: frames that a window shares with the next.
        shift: by how many frames the windows are moved, round the end of the clip; a clip that is one window is
            rotated, which moves where in time the model believes its frames to be.

    Returns:
        Frame indices of each window.

    Raises:
        ValueError: if the overlap is not smaller than the length.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"an overlap of {overlap} frames does not fit windows of {length}")
    starts = range(0, frames, length - overlap) if frames > length else [0]
    return [[(start + shift + i) % frames for i in range(min(length, frames))] for start in starts]


def check_length(spec: BackboneSpec, frames: int) -> None:
    """Refuse a clip that the backbone takes neither at once nor in windows.

    Raises:
        ConfigError: naming the limit.
    """
    if frames > spec.max_frames and spec.window_overlap is None:
        raise ConfigError(f"{spec.name} takes clips of up to {spec.max_frames} frames, not {frames}; lower the frames")


def windowed(
    backbone: VideoBackbone,
    reference: ReferenceState,
    control: ControlState,
    guidance: float,
    frames: int,
    timesteps: Sequence[int],
    rescale: float = 0.0,
) -> Predict:
    """The model as a function of a whole clip's latents and a timestep.

    Predictions of a frame in several windows are averaged with equal weights. Guidance is linear in both predictions
    it mixes, so averaging guided predictions is the same as averaging each of them before. Rescaled guidance is not:
    each window is brought to its own spread, being all that the model sees at once.

    Args:
        backbone: the diffusion model.
        reference: of the clip's identity.
        control: of the whole clip.
        guidance: classifier-free guidance; 1 costs one evaluation, others two.
        frames: length of the clip.
        timesteps: of the run, noisiest first: a model whose windows move from step to step moves them by a timestep's
            place in this list, in both directions.
        rescale: of the guidance, see :func:`zero1toa.diffusion.guidance.guide`.

    Raises:
        ConfigError: for a clip that the backbone does not take.
    """
    spec = backbone.spec
    check_length(spec, frames)
    places = {timestep: place for place, timestep in enumerate(timesteps)}
    plan: list[list[int]] = []
    views: list[ControlState] = []  # of the plan's windows; windows that do not move are prepared once

    def predict(latents: Tensor, timestep: int, view: ControlState) -> Tensor:
        if guidance == 1.0:
            return backbone.predict(latents, timestep, reference, view, conditional=True)
        return backbone.predict_guided(latents, timestep, reference, view, guidance, rescale)

    def whole(latents: Tensor, timestep: int) -> Tensor:
        shift = spec.window_shift * places[timestep]
        windows = plan_windows(frames, spec.max_frames, spec.window_overlap or 0, shift)
        if windows == [list(range(frames))]:
            return predict(latents, timestep, control)
        if windows != plan:
            plan[:] = windows
            views[:] = [backbone.window(control, window) for window in windows]
        total = torch.zeros_like(latents, dtype=torch.float32)
        count = torch.zeros(frames, device=latents.device)
        for window, view in zip(windows, views, strict=True):
            index = torch.tensor(window, device=latents.device)
            output = predict(latents[:, index], timestep, view)
            total.index_add_(1, index, output.float())
            count.index_add_(0, index, torch.ones(len(window), device=latents.device))
        return total / count[:, None, None, None]

    return whole
