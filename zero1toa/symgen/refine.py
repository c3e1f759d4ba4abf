"""Refinement of clips: encode, invert or noise, denoise under its landmarks, decode (paper sec. 4.1)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.config import Config, DiffusionConfig
from zero1toa.diffusion.guidance import check_rescale
from zero1toa.diffusion.memory import check_memory, explained
from zero1toa.diffusion.protocol import ReferenceState, VideoBackbone
from zero1toa.diffusion.sampling import refine_latents, seeded_noise
from zero1toa.errors import ConfigError
from zero1toa.symgen.store import Reference
from zero1toa.types import LandmarkTrack, RefineRequest

_REPLACED = 0.25  # change of colour at which two thirds of the detail are taken for gone
_REACH = 0.012  # depth under the outline at which changes begin, as a share of the frame's side
_RETREAT = 0.08  # and down to which the denoiser may take the head for background


def load_refiner(config: Config, device: torch.device) -> VideoBackbone:
    """Load the configured backbone and check that it takes the configured clips.

    Raises:
        ConfigError: for an unknown backbone, option or start, an impossible rescaling, or clips longer than it takes.
        AssetError: if its weights are not installed.
        DeviceMemoryError: if they do not fit into the GPU's memory.
    """
    from zero1toa.diffusion.registry import load_backbone

    check_memory(config, device)
    name, dtype, options = config.diffusion.backbone, config.diffusion.dtype, config.diffusion.options
    with explained(config, device, f"to load the backbone '{name}'"):
        backbone = load_backbone(name, device, dtype, options)
    if config.curriculum.frames > backbone.spec.max_frames and backbone.spec.window_overlap is None:
        raise ConfigError(
            f"curriculum.frames={config.curriculum.frames}, but the backbone '{backbone.spec.name}' takes clips of at "
            f"most {backbone.spec.max_frames} frames"
        )
    starts_from_noise(config.diffusion, backbone)
    check_rescale(config.diffusion.guidance_rescale)
    return backbone


def composite(image: NDArray[np.uint8], background: Sequence[float], size: int) -> tuple[Tensor, Tensor]:
    """Put a straight-alpha picture on the background and bring it to another size.

    Args:
        image: ``[H, W, 4]`` uint8.
        background: sRGB colour in [0, 1].
        size: side of the result in pixels.

    Returns:
        Picture ``[size, size, 3]`` and matte ``[size, size, 1]``, float32 in [0, 1] on CPU.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
    alpha = pixels[..., 3:]
    over = pixels[..., :3] * alpha + torch.tensor(list(background), dtype=torch.float32) * (1 - alpha)
    resized = resize(torch.cat([over, alpha], -1)[None, None], size)[0, 0].clamp(0, 1)
    return resized[..., :3].contiguous(), resized[..., 3:].contiguous()


def prepare_reference(reference: Reference, backbone: VideoBackbone, background: Sequence[float]) -> ReferenceState:
    """Reference features of one portrait; see :func:`prepare_references`."""
    return prepare_references([reference], backbone, background)


@torch.no_grad()
def prepare_references(
    references: Sequence[Reference], backbone: VideoBackbone, background: Sequence[float]
) -> ReferenceState:
    """Reference features of portraits, computed once per avatar.

    Args:
        references: portraits with their landmarks, one for each clip that is refined together.
        backbone: the diffusion model.
        background: colour that all clips have, so that the reference has it too.
    """
    size = backbone.spec.size
    pictures, controls = [], []
    for reference in references:
        pictures.append(composite(reference.image, background, size)[0])
        points = reference.landmarks[None, :, :2] / np.array([reference.image.shape[1], reference.image.shape[0]])
        track = LandmarkTrack(points.astype(np.float32), np.ones(1, bool), np.zeros(1, bool))
        controls.append(_to_tensor(backbone.draw_control(track, size), backbone.device))
    return backbone.prepare_reference(torch.stack(pictures).to(backbone.device), torch.cat(controls))


def refine(
    request: RefineRequest,
    backbone: VideoBackbone,
    reference: ReferenceState,
    config: DiffusionConfig,
    background: Sequence[float] = (1.0, 1.0, 1.0),
) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Refine one clip; see :func:`refine_together`."""
    (frames,), seconds = refine_together([request], backbone, reference, config, background)
    return frames, seconds


@torch.no_grad()
def refine_together(
    requests: Sequence[RefineRequest],
    backbone: VideoBackbone,
    reference: ReferenceState,
    config: DiffusionConfig,
    background: Sequence[float] = (1.0, 1.0, 1.0),
) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
    """Refine clips of one shape together, each with its own portrait.

    With ``config.keep_detail`` the result is the render plus the change that the denoiser made, measured between two
    decoded pictures, see :func:`transfer`: what the autoencoder loses is lost in both and cancels, and what the render
    has above the backbone's resolution stays. Without it every round through the autoencoder blurs the dataset, and the
    avatar after it. Noise to start from is drawn from the request's seed, so the result does not depend on the worker.

    Args:
        requests: renders ``[T, H, W, 3]`` uint8 and their landmarks, B of them.
        backbone: the diffusion model.
        reference: :func:`prepare_references` of their avatars, in the same order.
        config: steps, guidance, strength, ``keep_detail``.
        background: sRGB colour behind the head.

    Returns:
        Refined pictures of each, shaped as the render, and seconds by phase of all together: ``encode``, ``denoise``
        (inversion and guided denoising), ``decode``.
    """
    size, device = backbone.spec.size, backbone.device
    render = torch.stack([_to_tensor(request.frames, device) for request in requests])
    side = render.shape[2]
    seconds: dict[str, float] = {}
    with _timed("encode", seconds, device):
        latents = backbone.encode(resize(render, size).clamp(0, 1))
        maps = torch.stack([_to_tensor(backbone.draw_control(one.landmarks, size), device) for one in requests])
        noise = None
        if starts_from_noise(config, backbone):
            # Each clip's own, so that it does not matter which clips it is refined with.
            own = [seeded_noise(part, one.seed) for part, one in zip(latents.split(1), requests, strict=True)]
            noise = torch.cat(own)
        shown = noise is not None and backbone.spec.uses_source
        control = backbone.prepare_control(maps, latents if shown else None)
    with _timed("denoise", seconds, device):
        refined = refine_latents(
            backbone,
            latents,
            reference,
            control,
            steps=config.steps,
            strength=config.strength,
            guidance=config.guidance,
            inversion_guidance=config.inversion_guidance,
            guidance_rescale=config.guidance_rescale,
            fixed_point_iterations=config.fixed_point_iterations,
            noise=noise,
        )
    with _timed("decode", seconds, device):
        pictures = backbone.decode(refined).float()
        if config.keep_detail:
            pictures = transfer(render, backbone.decode(latents.float()).float(), pictures, background)
        else:
            pictures = resize(pictures, side)
        frames = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return list(frames), seconds


def starts_from_noise(config: DiffusionConfig, backbone: VideoBackbone) -> bool:
    """Whether clips are noised instead of inverted.

    Raises:
        ConfigError: for an unknown ``diffusion.start``.
    """
    if config.start not in ("auto", "inversion", "noise"):
        raise ConfigError(f"diffusion.start={config.start} is unknown; choose auto, inversion or noise")
    return backbone.spec.uses_source if config.start == "auto" else config.start == "noise"


def transfer(render: Tensor, encoded: Tensor, refined: Tensor, background: Sequence[float]) -> Tensor:
    """Apply to a render what the denoiser changed: ``render + up(refined - encoded)``, within two limits.

    Detail, ``render - up(encoded)``, is kept only as far as the picture under it is: where the denoiser has put
    something else, as on an outline that it moved, the old edge's sharpness would stand as a dark and a bright line
    beside the new one. And the change ends at the head's outline, see :func:`reach`; what turns into background near
    the outline is an outline that was drawn further in, and no change either.

    Args:
        render: ``[B, T, S, S, 3]``.
        encoded: the render after the autoencoder, ``[B, T, s, s, 3]``.
        refined: the decoded result of the denoiser, ``[B, T, s, s, 3]``.
        background: sRGB colour behind the head.

    Returns:
        ``[B, T, S, S, 3]``; the render itself where ``refined`` equals ``encoded``.
    """
    side = render.shape[2]
    change = resize(refined - encoded, side)
    shown = resize(encoded, side)
    detail = render - shown
    largest = change.abs().amax(-1).flatten(0, 1)[:, None]
    largest = F.max_pool2d(largest, 3, 1, 1).reshape(*render.shape[:-1], 1)
    gone = 1 - torch.exp(-((largest / _REPLACED) ** 2))
    within = reach(render, background) * (1 - _retreat(shown, change, render, background))
    return render + (change - gone * detail) * within


def _retreat(encoded: Tensor, change: Tensor, render: Tensor, background: Sequence[float]) -> Tensor:
    """How far a change turns head into background, near the outline ``[B, T, S, S, 1]`` in [0, 1]."""
    empty = torch.tensor(list(background), dtype=render.dtype, device=render.device)
    before = (encoded - empty).norm(dim=-1, keepdim=True)
    after = (encoded + change - empty).norm(dim=-1, keepdim=True)
    turned = 1 - after / before.clamp_min(0.05)
    near = 1 - reach(render, background, _RETREAT)
    return near * ((turned - 0.1) / 0.2).clamp(0, 1)


def reach(render: Tensor, background: Sequence[float], depth: float = _REACH) -> Tensor:
    """Where a change can be learnt: inside the rendered head, not on its rim.

    Gaussians are bound to the head, so a wisp of hair that the diffusion draws into the empty background cannot become
    part of the avatar, and an outline that it draws a pixel further in or out only colours the rim, worse with every
    round. The outline is known from the portrait's matte already.

    Args:
        render: ``[B, T, H, W, 3]``.
        background: sRGB colour behind the head.
        depth: depth under the outline at which changes begin, as a share of the frame's side.

    Returns:
        Weights ``[B, T, H, W, 1]`` in [0, 1] that fall off smoothly.
    """
    batch, count, height, width = render.shape[:4]
    empty = torch.tensor(list(background), dtype=render.dtype, device=render.device)
    covered = ((render - empty).abs().amax(-1) > 2 / 255).flatten(0, 1)[:, None].float()
    margin = max(1, round(depth * width))
    inner = 1 - F.max_pool2d(1 - covered, 2 * margin + 1, 1, margin)
    soft = F.avg_pool2d(inner, 2 * margin + 1, 1, margin, count_include_pad=False) * inner
    return soft.reshape(batch, count, height, width, 1)


def resize(frames: Tensor, size: int) -> Tensor:
    """Bring ``[B, T, H, W, C]`` to ``[B, T, size, size, C]``: antialiased bicubic, which may overshoot slightly."""
    if frames.shape[2] == size and frames.shape[3] == size:
        return frames
    batch, count = frames.shape[:2]
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2)
    out = F.interpolate(planes, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return out.permute(0, 2, 3, 1).unflatten(0, (batch, count)).contiguous()


def _to_tensor(frames: NDArray[np.uint8], device: torch.device) -> Tensor:
    # A copy, because frames that come from another process are read-only.
    return torch.from_numpy(np.array(frames)).to(device).float() / 255


@contextmanager
def _timed(phase: str, seconds: dict[str, float], device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[phase] = time.perf_counter() - start
