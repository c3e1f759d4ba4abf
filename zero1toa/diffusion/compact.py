"""The embedded video diffusion backbone: small, landmark-guided, reference-conditioned, its weights in the package.

It is of the same family as the public portrait animators (mutual self-attention with a reference, motion attention,
landmark guider, v-prediction with zero terminal SNR), trained by ``python -m zero1toa.diffusion.training`` on synthetic
heads alone. Unlike them it is trained to *repair*: half of its training noises degraded renders and asks for the clean
clip, and it may look at the latents of the clip that is being refined.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext
from zero1toa.diffusion.animator.config import LATENT_CHANNELS, UNetConfig
from zero1toa.diffusion.animator.guided import GuidedBackbone, Halves
from zero1toa.diffusion.autoencoder import STRIDE, Autoencoder, AutoencoderConfig
from zero1toa.diffusion.compact_unet import COMPACT_UNET, CompactDenoiser, source_velocity
from zero1toa.diffusion.landmark_map import draw_control
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.diffusion.schedule import LINEAR_ZERO_SNR, NoiseSchedule
from zero1toa.errors import AssetError
from zero1toa.types import LandmarkTrack

WEIGHTS = Path(__file__).parent / "weights" / "compact.safetensors"
FORMAT = "zero1toa-compact-3"

COMPACT_SPEC = BackboneSpec(
    name="compact",
    size=128,
    max_frames=32,
    latent_channels=LATENT_CHANNELS,
    latent_stride=STRIDE,
    scheduler=LINEAR_ZERO_SNR,
    steps=10,
    guidance=1.5,
    uses_source=True,
)


@dataclasses.dataclass(frozen=True)
class CompactControl:
    """What the network reads of a clip.

    Attributes:
        guided: its landmarks and, if given, the latents of the clip being refined, as features ``[B, T, C, h, w]``.
        source: these latents ``[B, T, 4, h, w]`` float32.
    """

    guided: Tensor
    source: Tensor | None


class CompactModel(nn.Module):
    """Autoencoder and UNet: everything that is trained and stored."""

    def __init__(self, autoencoder: AutoencoderConfig | None = None, unet: UNetConfig | None = None) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(autoencoder or AutoencoderConfig())
        self.unet = CompactDenoiser(unet or COMPACT_UNET)

    def metadata(self) -> dict[str, str]:
        """What a weights file says about itself."""
        sizes = {
            "autoencoder": dataclasses.asdict(self.autoencoder.config),
            "unet": dataclasses.asdict(self.unet.config),
        }
        return {"format": FORMAT, "config": json.dumps(sizes)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> CompactModel:
        """The untrained network that a weights file describes."""
        sizes = json.loads(metadata["config"])
        plain: dict[str, dict[str, Any]] = {
            part: {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            for part, fields in sizes.items()
        }
        return CompactModel(AutoencoderConfig(**plain["autoencoder"]), UNetConfig(**plain["unet"]))


def save_weights(model: CompactModel, path: Path, extra: Mapping[str, str] | None = None) -> None:
    """Write half-precision weights with the sizes in the file's metadata; the file appears whole or not at all.

    Args:
        model: the trained network.
        path: the ``.safetensors`` file.
        extra: more metadata, such as how it was trained.
    """
    from safetensors.torch import save_file

    buffers = {name for name, _ in model.named_buffers()}  # latent statistics: eight numbers, kept exact
    state = {
        name: (value.float() if name in buffers else value.half()).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(state, temporary, {**model.metadata(), **(extra or {})})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_weights(path: Path = WEIGHTS) -> CompactModel:
    """Load a weights file, in float32 on the CPU.

    Raises:
        AssetError: if the file is missing, damaged, or not one of this backbone.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise AssetError(
            f"the compact backbone's weights {path} are missing; reinstall zero1toa, "
            "or make them with 'python -m zero1toa.diffusion.training' on a GPU"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError) as error:
        raise AssetError(f"{path} is damaged ({error}); install it again") from error
    if metadata.get("format") != FORMAT:
        raise AssetError(f"{path} holds '{metadata.get('format')}' weights, not '{FORMAT}'; install the matching file")
    model = CompactModel.from_metadata(metadata)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AssetError(f"{path} does not fit the network it describes: {str(error).splitlines()[0]}") from error
    return model


def channels_last(model: CompactModel) -> CompactModel:
    """The model with its weights laid out channels last, which halves the time of a forward pass on a CPU."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


class CompactBackbone(GuidedBackbone[tuple[LayerContext, ...], CompactControl]):
    """The compact network as a :class:`zero1toa.diffusion.protocol.VideoBackbone`."""

    def __init__(
        self, model: CompactModel, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(COMPACT_SPEC, model.unet.config, device, dtype)
        self._schedule = NoiseSchedule.from_config(COMPACT_SPEC.scheduler)
        model = channels_last(model.to(self._device)).eval().requires_grad_(False)
        statistics = model.autoencoder.mean.clone(), model.autoencoder.std.clone()
        model.to(dtype)
        model.autoencoder.mean, model.autoencoder.std = statistics
        self.model = model

    def draw_control(self, landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
        """Landmark maps ``[T, size, size, 3]`` uint8; see :mod:`zero1toa.diffusion.landmark_map`."""
        return draw_control(landmarks, size)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``[B, T, H, W, 3]`` in [0, 1], sides divisible by 16, to latents ``[B, T, 4, H/4, W/4]`` float32."""
        return self.model.autoencoder.encode(self.images(frames)).float().unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to frames ``[B, T, H, W, 3]`` float32 in [0, 1]."""
        autoencoder = self.model.autoencoder
        images = autoencoder.decode(latents.to(self._device, self._dtype).flatten(0, 1))
        return images.float().permute(0, 2, 3, 1).unflatten(0, latents.shape[:2])

    @torch.no_grad()
    def prepare_reference(self, image: Tensor, control: Tensor) -> tuple[LayerContext, ...]:
        """Keys and values of reference portraits ``[B, H, W, 3]`` with landmark maps of the same shape."""
        latents = self.model.autoencoder.encode(self.images(image[:, None])).to(self._dtype)
        return self.model.unet.reference(latents, self.images(control[:, None]))

    @torch.no_grad()
    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> CompactControl:
        """Landmark features of maps ``[B, T, H, W, 3]``, with the latents of the clip being refined if given."""
        flagged = None
        if source is not None:
            source = source.to(self._device, torch.float32)
            flagged = torch.cat([source, torch.ones_like(source[:, :, :1])], 2).to(self._dtype)
        guided = self.model.unet.guide(self.images(maps).unflatten(0, maps.shape[:2]), flagged)
        return CompactControl(guided, source)

    def window(self, control: CompactControl, frames: Sequence[int]) -> CompactControl:
        """What the network reads of some frames."""
        source = None if control.source is None else control.source[:, list(frames)]
        return CompactControl(control.guided[:, list(frames)], source)

    @torch.no_grad()
    def run(
        self,
        latents: Tensor,
        timestep: int,
        reference: tuple[LayerContext, ...],
        control: CompactControl,
        halves: Halves,
    ) -> Tensor:
        """The network's v; the null half sees landmarks and source but no reference."""
        seeing, twice = 0 if halves == "null" else len(latents), halves == "both"
        level = torch.full((1,), timestep, device=self._device)
        positions = torch.arange(latents.shape[1], device=self._device)
        latents, source = latents.to(self._device, torch.float32), control.source
        given = None if source is None else torch.ones(len(latents), device=self._device)
        x, guided = latents.to(self._dtype), control.guided
        output = self.model.unet(x, level, positions, guided, reference, seeing, given, twice).float()
        if source is None:
            return output
        shortcut = source_velocity(latents, source, *self._schedule.level(timestep))
        return output + shortcut.repeat(1 + twice, 1, 1, 1, 1)


def load(device: torch.device, dtype: torch.dtype) -> CompactBackbone:
    """Registry loader.

    Raises:
        AssetError: if the weights file is missing or damaged.
    """
    return CompactBackbone(read_weights(), device, dtype)
