"""The two stages of a training run, by the clock: autoencoder, then diffusion on its latents."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero1toa.diffusion.autoencoder import Autoencoder, reconstruction_loss
from zero1toa.diffusion.compact import COMPACT_SPEC, CompactBackbone, CompactModel, channels_last
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.training import checkpoint
from zero1toa.diffusion.training.clips import encode_clips, make_clips
from zero1toa.diffusion.training.data import Budget, ClipSource, Pool, to_unit
from zero1toa.diffusion.training.log import CurveLog, RunningMean
from zero1toa.diffusion.training.natural import NaturalImages, held_out
from zero1toa.diffusion.training.objective import Batch, draw, losses
from zero1toa.diffusion.training.optimizer import MasterWeights, rate_at
from zero1toa.diffusion.training.settings import TrainingSettings
from zero1toa.diffusion.training.validate import (
    Setting,
    autoencoder_ceiling,
    evaluate,
    held_out_clips,
    psnr,
    summarize,
)
from zero1toa.errors import BackboneError

_FIRST_BATCHES = 4  # batches of data before the first step
_LATENT_NOISE = 0.03  # the decoder learns to bear latents that are slightly off
_POSITIONS = COMPACT_SPEC.max_frames


class Training:
    """State of a run: networks, data, clock and log.

    Args:
        settings: how to train.
        source: clips to train on.
        held_out_source: clips of other identities to validate on.
        device: where to train.
        output: folder for log and checkpoint.
        resume: continue from the folder's checkpoint if there is one.
        initial: trained networks to start from; their autoencoder is kept, so only the diffusion stage runs.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        source: ClipSource,
        held_out_source: ClipSource,
        device: torch.device,
        output: Path,
        resume: bool = False,
        initial: CompactModel | None = None,
    ) -> None:
        self.settings, self.source, self.device = settings, source, device
        self.held_out_source = held_out_source
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.generator = torch.Generator(device=device).manual_seed(settings.seed)
        self.host = torch.Generator().manual_seed(settings.seed)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # torch initialises layers from its global generator
            torch.manual_seed(settings.seed)
            model = initial or settings.networks()
        self.model = channels_last(model.to(device))
        self.checkpoint = output / "checkpoint.pt"
        self._with_autoencoder = initial is None
        self.stage = "autoencoder" if self._with_autoencoder else "diffusion"
        self.elapsed = 0.0  # seconds of this stage in earlier processes
        self.steps = 0
        self.validations: list[dict[str, Any]] = []
        state = checkpoint.load(self.checkpoint, device) if resume and self.checkpoint.is_file() else None
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.generator.set_state(state["generator"])
            self.stage, self.elapsed, self.steps = state["stage"], state["elapsed"], state["steps"]
            self.validations = state["validations"]
        self._weights_state = None if state is None else state["weights"]
        self.log = CurveLog(output / "training.jsonl", state["curve"] if state is not None else None)
        self.pool = Pool(settings.pool_clips)
        self.natural = NaturalImages(device)
        self.validation = held_out_clips(
            held_out_source,
            settings.validation_clips,
            settings.frames,
            settings.size,
            settings.seed,
        )

    def run(self) -> CompactModel:
        """Run what is left of both stages; returns the averaged networks in float32 on the CPU."""
        total = 60 * self.settings.minutes
        first = total * self.settings.autoencoder_share if self._with_autoencoder else 0.0
        if self.stage == "autoencoder":
            weights = self._train_autoencoder(first)
            weights.copy_average(self.model.autoencoder)
            self._finish_autoencoder()
            self.stage, self.elapsed, self.steps, self._weights_state = "diffusion", 0.0, 0, None
        weights = self._train_unet(total - first)
        return self._snapshot(weights).to("cpu")

    # Stage 1

    def _train_autoencoder(self, budget: float) -> MasterWeights:
        settings, network = self.settings, self.model.autoencoder
        weights = self._weights(network, settings.autoencoder_rate)
        moving = weights.network
        assert isinstance(moving, Autoencoder)
        natural = settings.image_batch // 4 if self.natural.names else 0
        if not natural:
            self.log.write(stage="autoencoder", note="no natural pictures found; training on heads alone")
        mean = RunningMean(self.device)
        clock = self._clock(budget)
        data = Budget(settings.reuse, settings.data_share)
        self._fill(data)
        while (progress := clock()) < 1:
            if data.due():
                self._refill(data, None)
            parts = [self._head_images(settings.image_batch - natural)]
            if natural:
                parts.append(self.natural.sample(self.generator, natural, settings.size))
            images = torch.cat(parts).to(self.dtype).contiguous(memory_format=torch.channels_last)
            latents = moving.encode_raw(images)
            noise = torch.randn(latents.shape, generator=self.generator, device=self.device, dtype=self.dtype)
            loss = reconstruction_loss(moving.decode_raw(latents + _LATENT_NOISE * noise), images)
            loss.backward()
            rate = rate_at(progress, settings.autoencoder_rate, settings.warmup)
            weights.step(rate)
            mean.add(loss)
            self.steps += 1
            self._housekeeping(weights, mean, rate, data, progress * budget)
        return weights

    def _head_images(self, count: int) -> Tensor:
        """Random frames ``[count, 3, H, W]`` in [0, 1]: two of the truth for each degraded one."""
        clips = torch.randint(self.pool.filled, (count,), generator=self.generator, device=self.device)
        frames = torch.randint(self.settings.frames, (count,), generator=self.generator, device=self.device)
        clean = 2 * count // 3
        tensors = self.pool.tensors
        chosen = (
            tensors["truth"][clips[:clean], frames[:clean]],
            tensors["degraded"][clips[clean:], frames[clean:]],
        )
        return to_unit(torch.cat(chosen))

    def _finish_autoencoder(self) -> None:
        """Normalise the latents, measure the ceiling, and turn the pool's pictures into latents."""
        network = self.model.autoencoder.requires_grad_(False)
        network.normalize(self._head_images(256))
        backbone = CompactBackbone(copy.deepcopy(self.model), self.device, self.dtype)
        record = {"autoencoder_db": autoencoder_ceiling(backbone, self.validation)}
        portrait = held_out(self.settings.size)
        if portrait is not None:
            tiles = portrait.to(self.device).permute(0, 2, 3, 1)[:, None]
            output = backbone.decode(backbone.encode(tiles))
            record["held_out_photo_db"] = float(psnr(output, tiles, torch.ones_like(tiles[..., :1])).mean())
        self.validations.append(record)
        self.log.write(stage="autoencoder", step=self.steps, **record)
        pictures, self.pool = self.pool, Pool(self.settings.pool_clips)
        encoder = self._encoder()
        for part in pictures.chunks(self.settings.data_clips):
            self.pool.add(encode_clips(encoder, part, self.dtype))

    # Stage 2

    def _train_unet(self, budget: float) -> MasterWeights:
        settings, unet = self.settings, self.model.unet
        self.model.autoencoder.requires_grad_(False)
        weights = self._weights(unet, settings.rate)
        tables = NoiseSchedule.from_config(COMPACT_SPEC.scheduler).tables(self.device)
        encoder = self._encoder()
        step = _Step(settings.compile, settings.short_frames, self.log)
        mean = RunningMean(self.device)
        clock = self._clock(budget)
        data = Budget(settings.reuse, settings.data_share)
        if not self.pool.filled:
            self._fill(data, encoder)
        while (progress := clock()) < 1:
            if data.due():
                self._refill(data, encoder)
            frames = settings.frames if progress > 1 - settings.long_share else settings.short_frames
            batch = self._batch(frames)
            draws = draw(batch.truth, settings, len(tables[0]), self.generator)
            clips = len(batch.truth)
            with_reference = clips - round(settings.reference_drop * clips)
            arguments = (tables, settings.repair_weight, settings.repair_floor, with_reference, self.dtype)
            loss = step(weights.network, batch, draws, *arguments)
            rate = rate_at(progress, settings.rate, settings.warmup)
            weights.step(rate)
            mean.add(loss)
            self.steps += 1
            self._housekeeping(weights, mean, rate, data, progress * budget)
        if not self.validations or self.validations[-1].get("step") != self.steps:
            self._validate(weights)
        return weights

    def _batch(self, frames: int) -> Batch:
        """Windows of ``frames`` frames from the pool's clips, at a random place and pace in time."""
        settings = self.settings
        drawn = self.pool.draw(self.generator, max(1, settings.step_frames // frames))
        stride = 1 + self._pick(settings.frames // frames)
        reach = stride * (frames - 1) + 1
        first = self._pick(settings.frames - reach + 1)
        window = slice(first, first + reach, stride)
        offset = self._pick(_POSITIONS - reach + 1)
        return Batch(
            truth=drawn["truth"][:, window],
            degraded=drawn["degraded"][:, window],
            maps=drawn["maps"][:, window],
            reference=drawn["reference"],
            reference_map=drawn["reference_map"],
            positions=torch.arange(offset, offset + reach, stride, device=self.device),
        )

    def _pick(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.host))

    # Both

    def _weights(self, network: torch.nn.Module, rate: float) -> MasterWeights:
        settings = self.settings
        moving = copy.deepcopy(network).train()
        weights = MasterWeights(moving, rate, settings.weight_decay, settings.ema, self.dtype)
        if self._weights_state is not None:
            weights.load_state_dict(self._weights_state)
        return weights

    def _encoder(self) -> Autoencoder:
        """The autoencoder in the training type, with its statistics in float32."""
        return CompactBackbone(copy.deepcopy(self.model), self.device, self.dtype).model.autoencoder

    def _clock(self, budget: float) -> Callable[[], float]:
        """Start a stage's time; returns the share of its budget that has passed, earlier processes included."""
        self._saved = self._validated = self._logged = time.monotonic()
        self._steps_logged = self.steps
        started = time.monotonic() - self.elapsed
        return lambda: (time.monotonic() - started) / budget

    def _fill(self, data: Budget, encoder: Autoencoder | None = None) -> None:
        for _ in range(_FIRST_BATCHES):
            self._refill(data, encoder)

    def _refill(self, data: Budget, encoder: Autoencoder | None) -> None:
        self._synchronize()
        started = time.monotonic()
        clips = make_clips(self.source, self.generator, self.settings.data_clips, self.settings)
        self.pool.add(clips if encoder is None else encode_clips(encoder, clips, self.dtype))
        self._synchronize()
        data.charge(time.monotonic() - started)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _snapshot(self, weights: MasterWeights) -> CompactModel:
        """A copy of the model with the averaged weights of the stage in training, float32."""
        model = copy.deepcopy(self.model)
        part = model.autoencoder if self.stage == "autoencoder" else model.unet
        weights.copy_average(part)
        return model

    def _housekeeping(
        self, weights: MasterWeights, mean: RunningMean, rate: float, data: Budget, elapsed: float
    ) -> None:
        """Log, validate and save when their times have come; none of them costs a step anything otherwise."""
        now, settings = time.monotonic(), self.settings
        if now - self._logged >= settings.log_seconds:
            loss = mean.read()
            self.log.write(
                stage=self.stage,
                step=self.steps,
                seconds=elapsed,
                loss=loss,
                rate=rate,
                steps_per_second=(self.steps - self._steps_logged) / (now - self._logged),
                data_share=data.spent / max(now - data.started, 1e-6),
                pool=self.pool.filled,
            )
            self._logged, self._steps_logged = now, self.steps
            if not math.isfinite(loss):
                raise BackboneError(f"the loss is {loss} at step {self.steps}; continue from {self.checkpoint}")
        if self.stage == "diffusion" and now - self._validated >= settings.validate_seconds:
            self._validate(weights)
            self._validated = time.monotonic()
        if now - self._saved >= settings.checkpoint_seconds:
            self._save(weights, elapsed)
            self._saved = time.monotonic()

    def _validate(self, weights: MasterWeights) -> None:
        backbone = CompactBackbone(self._snapshot(weights), self.device, self.dtype)
        setting = Setting()
        summary = summarize(evaluate(backbone, self.validation, setting), self.validation["kind"])
        self.validations.append({"step": self.steps, "setting": str(setting), **summary})
        self.log.write(stage="validation", step=self.steps, setting=str(setting), **summary)

    def _save(self, weights: MasterWeights, elapsed: float) -> None:
        state = {
            "model": self.model.state_dict(),
            "weights": weights.state_dict(),
            "generator": self.generator.get_state(),
            "stage": self.stage,
            "elapsed": elapsed,
            "steps": self.steps,
            "validations": self.validations,
            "curve": self.log.lines,
        }
        checkpoint.save(self.checkpoint, state)


class _Step:
    """Loss and gradients of a diffusion step, compiled if asked for and possible.

    Only the short windows are: the few steps on whole clips would not earn the minute that a second graph takes.
    """

    def __init__(self, compiled: bool, frames: int, log: CurveLog) -> None:
        self._log, self._frames = log, frames
        self._compiled: Callable[..., Tensor] | None = torch.compile(losses, dynamic=False) if compiled else None

    def __call__(self, unet: torch.nn.Module, batch: Batch, *arguments: Any) -> Tensor:
        if self._compiled is None or batch.truth.shape[1] != self._frames:
            return _gradients(losses, unet, batch, *arguments)
        try:
            return _gradients(self._compiled, unet, batch, *arguments)
        except Exception as error:
            self._log.write(stage="diffusion", note=f"torch.compile failed, going on without: {str(error)[:200]}")
            self._compiled = None
            for parameter in unet.parameters():
                parameter.grad = None
            return _gradients(losses, unet, batch, *arguments)


def _gradients(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    loss = function(*arguments).mean()
    loss.backward()
    return loss.detach()
