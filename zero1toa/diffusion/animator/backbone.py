"""What the portrait animators do alike: the protocol of :mod:`zero1toa.diffusion.protocol` over their networks."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.acceleration import Replay
from zero1toa.diffusion.animator import autoencoder
from zero1toa.diffusion.animator.acceleration import accelerate, recorded_kernels
from zero1toa.diffusion.animator.attention import KeyValue, LayerContext
from zero1toa.diffusion.animator.drawing import DrawingStyle, draw_track
from zero1toa.diffusion.animator.guided import GuidedBackbone, Halves
from zero1toa.diffusion.animator.networks import AnimatorNetworks
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.types import LandmarkTrack


@dataclasses.dataclass(frozen=True)
class AnimatorReference:
    """What the denoiser knows of B identities: keys and values of each spatial transformer, made once.

    Attributes:
        layers: of the reference's features and of the prompt; the null prompt has a leading dimension of 1.
    """

    layers: tuple[LayerContext, ...]


@dataclasses.dataclass(frozen=True)
class AnimatorControl:
    """Landmark features of B clips.

    Attributes:
        frames: T.
        features: each ``[B * T, C, h, w]``; empty where they are only known per window.
        maps: landmark maps ``[B, T, H, W, 3]``, kept by an animator whose features depend on the window.
        prompt: prompt tokens that change with the frame ``[B, T, n, D]``, in place of the reference's prompt.
    """

    frames: int
    features: tuple[Tensor, ...]
    maps: Tensor | None = None
    prompt: Tensor | None = None


class AnimatorBackbone(GuidedBackbone[AnimatorReference, AnimatorControl]):
    """A portrait animator.

    Subclasses say how a portrait becomes a prompt and landmark maps become features, and what an unconditional
    prediction is without.

    Args:
        spec: facts about the model.
        style: how it draws landmarks.
        networks: filled with weights.
        device: where to compute.
        dtype: type in which the networks compute; latents and their arithmetic stay float32.
        half_reference: round reference features to half precision, as the released pipelines of AniPortrait and
            EchoMimic do whatever type they run in (changes a prediction by about 1e-4).
        compiled: compute the layers of denoiser and autoencoder by this package's kernels, and replay evaluations as
            CUDA graphs; nothing on other devices.
    """

    null_control: bool = False
    """Whether the unconditional prediction goes without landmark features as well."""

    def __init__(
        self,
        spec: BackboneSpec,
        style: DrawingStyle,
        networks: AnimatorNetworks,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        half_reference: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(spec, networks.denoiser.config, device, dtype)
        self.style = style
        self.networks = networks
        self._half_reference = half_reference
        networks.prepare(self._device, dtype)
        self.replay: Replay | None = None
        if compiled and self._device.type == "cuda":
            accelerate(networks, self._device, dtype)
            kernels = functools.partial(recorded_kernels, self._device)
            self.replay = Replay(self.evaluate, self._device, kernels)

    @abc.abstractmethod
    def portrait_prompt(self, image: Tensor) -> Tensor | None:
        """Tokens of portraits ``[B, H, H, 3]`` in [0, 1] as the image encoder gives them, or None without a prompt."""

    @abc.abstractmethod
    def null_prompt(self) -> Tensor:
        """Prompt tokens of the unconditional prediction, ``[1, 1, D]`` as the denoiser's cross-attention takes them."""

    def draw_control(self, landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
        """Landmark maps ``[T, size, size, 3]`` uint8, see :mod:`zero1toa.diffusion.animator.drawing`."""
        return draw_track(landmarks, self.style, size)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``[B, T, H, W, 3]`` in [0, 1], sides divisible by 64, to latents ``[B, T, 4, H/8, W/8]`` float32."""
        latents = autoencoder.encode(self.networks.autoencoder, self.images(frames))
        return latents.float().unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to frames ``[B, T, H, W, 3]`` float32 in [0, 1]."""
        flat = latents.to(self._device, self._dtype).flatten(0, 1)
        images = autoencoder.decode(self.networks.autoencoder, flat)
        return images.float().permute(0, 2, 3, 1).unflatten(0, latents.shape[:2])

    @torch.no_grad()
    def prepare_reference(self, image: Tensor, control: Tensor) -> AnimatorReference:
        """Reference portraits ``[B, H, H, 3]`` in [0, 1]; none of the animators reads their landmark maps."""
        latents = self.encode(image[:, None])[:, 0]
        return self.reference_state(latents, self.portrait_prompt(image))

    @torch.no_grad()
    def reference_state(self, latents: Tensor, prompt: Tensor | None) -> AnimatorReference:
        """State of portraits given as latents ``[B, 4, h, w]`` and image encoder tokens ``[B, n, D]``."""
        denoiser, reference = self.networks.denoiser, self.networks.reference
        latents = latents.to(self._device, self._dtype)
        prompt = None if prompt is None else prompt.to(self._device, self._dtype)
        features = reference(latents, None if prompt is None else reference.prompt_tokens(prompt))
        if self._half_reference:
            features = tuple(layer.half().to(self._dtype) for layer in features)
        null = self.null_prompt().to(self._device, self._dtype)
        tokens = null.expand(len(latents), -1, -1) if prompt is None else denoiser.prompt_tokens(prompt)
        keys = denoiser.project_reference(features)
        prompts, nulls = denoiser.project_prompt(tokens), denoiser.project_prompt(null)
        return AnimatorReference(tuple(LayerContext(*layer) for layer in zip(keys, prompts, nulls, strict=True)))

    @torch.no_grad()
    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> AnimatorControl:
        """Landmark features of maps ``[B, T, H, W, 3]`` in [0, 1]; the clip's latents are not read."""
        return AnimatorControl(maps.shape[1], self.networks.guider(self.images(maps)))

    def window(self, control: AnimatorControl, frames: Sequence[int]) -> AnimatorControl:
        """Landmark features of some frames of the clips."""
        index = torch.tensor(list(frames), device=self._device)
        features = tuple(
            feature.unflatten(0, (-1, control.frames)).index_select(1, index).flatten(0, 1)
            for feature in control.features
        )
        prompt = None if control.prompt is None else control.prompt.index_select(1, index)
        return AnimatorControl(len(index), features, prompt=prompt)

    @torch.no_grad()
    def run(
        self, latents: Tensor, timestep: int, reference: AnimatorReference, control: AnimatorControl, halves: Halves
    ) -> Tensor:
        """The denoiser's v; the null half sees neither reference nor prompt."""
        level = torch.full((1,), timestep, device=self._device)
        contexts = reference.layers
        if control.prompt is not None:
            contexts = self._with_prompt(contexts, control.prompt)
        evaluate = self.replay or self.evaluate
        return evaluate(latents.to(self._device), level, _known(control), contexts, halves)

    def evaluate(
        self,
        latents: Tensor,
        level: Tensor,
        features: tuple[Tensor, ...],
        contexts: tuple[LayerContext, ...],
        halves: Halves,
    ) -> Tensor:
        """Run the denoiser.

        Args:
            latents: ``[B, T, 4, h, w]``.
            level: timestep ``[1]``.
            features: landmark features of the clips.
            contexts: what the spatial transformers read.
            halves: which predictions of guidance to make.

        Returns:
            v, float32; of ``both`` the conditional ones first.
        """
        x, clips, twice = latents.to(self._dtype), len(latents), halves == "both"
        if self.null_control and halves == "both":
            x, twice = torch.cat([x, x]), False  # they differ from the start
            features = tuple(torch.cat([f, torch.zeros_like(f)]) for f in features)
        elif self.null_control and halves == "null":
            features = ()
        seeing = 0 if halves == "null" else clips
        return self.networks.denoiser(x, level, features, contexts, seeing, twice).float()

    def _with_prompt(self, contexts: tuple[LayerContext, ...], prompt: Tensor) -> tuple[LayerContext, ...]:
        """Contexts that read a prompt of each frame ``[B, T, n, D]`` instead of the identity's."""
        projected: tuple[KeyValue, ...] = self.networks.denoiser.project_prompt(prompt.flatten(0, 1))
        return tuple(layer._replace(prompt=own) for layer, own in zip(contexts, projected, strict=True))


def _known(control: AnimatorControl) -> tuple[Tensor, ...]:
    if not control.features:
        raise ValueError(f"the features of {control.frames} frames depend on their windows; ask for one by window()")
    return control.features
