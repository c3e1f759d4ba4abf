"""Settings of a training run, as they are recorded in its ``training.json``."""

from __future__ import annotations

import dataclasses

from zero1toa.diffusion.autoencoder import AutoencoderConfig
from zero1toa.diffusion.compact import CompactModel
from zero1toa.diffusion.compact_unet import COMPACT_UNET


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How the compact backbone is trained. Times are wall-clock, so that a run fits a rented hour exactly.

    Attributes:
        minutes: budget of the whole run without final validation.
        autoencoder_share: share of it for the autoencoder.
        seed: seed of networks, data and noise. Wall-clock budgets make the number of steps vary between runs.
        size: side of the frames in pixels.
        frames: length of the clips that the data source makes.
        short_frames: length of the windows that most steps train on; a divisor of ``frames``.
        long_share: last share of the diffusion time, which trains on whole clips.
        step_frames: frames per diffusion step; clips per step follow from the window length.
        image_batch: images per autoencoder step, a quarter of them natural.
        data_clips: clips per new batch of data.
        pool_clips: clips kept for reuse, newest replacing oldest.
        reuse: smallest number of steps between two new batches of data.
        data_share: largest share of the time spent on new data.
        autoencoder_rate: peak learning rate of the autoencoder.
        rate: peak learning rate of the UNet.
        weight_decay: AdamW's.
        ema: decay of the averaged weights.
        warmup: share of a stage in which its learning rate rises.
        repair_share: share of the clips whose degraded latents are noised; that is what refinement asks for.
        pure_share: share of those that are not mixed with the truth.
        repair_weight: weight of the repair loss.
        repair_timesteps: training timesteps of the repair loss, first and last; drawn more often near the first.
        repair_floor: squared latent error below which a degraded clip counts as good; see ``objective.losses``.
        reference_drop: share of the clips without reference.
        landmark_drop: share of the clips without landmarks.
        landmark_jitter: largest standard deviation of a clip's landmark errors, as a fraction of the frame.
        source_drop: share of the repaired clips without the latents of the clip to refine.
        encoder_widths: the autoencoder's, at half and quarter resolution.
        decoder_widths: likewise, at quarter and half resolution.
        unet_widths: the UNet's, finest resolution first.
        head_dim: channels of an attention head.
        compile: use ``torch.compile`` for the short windows; falls back to eager with a line in the log.
        validation_clips: clips of the validations during training.
        log_seconds: seconds between lines of the loss curve.
        validate_seconds: seconds between validations.
        checkpoint_seconds: seconds between checkpoints.
    """

    minutes: float = 11.0
    autoencoder_share: float = 0.12
    seed: int = 0
    size: int = 128
    frames: int = 16
    short_frames: int = 8
    long_share: float = 0.1
    step_frames: int = 512
    image_batch: int = 96
    data_clips: int = 32
    pool_clips: int = 1024
    reuse: int = 3
    data_share: float = 0.35
    autoencoder_rate: float = 1e-3
    rate: float = 6e-4
    weight_decay: float = 0.01
    ema: float = 0.999
    warmup: float = 0.02
    repair_share: float = 0.7
    pure_share: float = 0.6
    repair_weight: float = 2.0
    repair_timesteps: tuple[int, int] = (60, 999)
    repair_floor: float = 0.03
    reference_drop: float = 0.1
    landmark_drop: float = 0.08
    landmark_jitter: float = 0.004
    source_drop: float = 0.15
    encoder_widths: tuple[int, ...] = AutoencoderConfig().encoder_widths
    decoder_widths: tuple[int, ...] = AutoencoderConfig().decoder_widths
    unet_widths: tuple[int, ...] = COMPACT_UNET.channels
    head_dim: int = COMPACT_UNET.head_width
    compile: bool = False
    validation_clips: int = 32
    log_seconds: float = 5.0
    validate_seconds: float = 90.0
    checkpoint_seconds: float = 60.0

    def networks(self) -> CompactModel:
        """Untrained networks of these sizes."""
        coder = AutoencoderConfig(encoder_widths=self.encoder_widths, decoder_widths=self.decoder_widths)
        unet = dataclasses.replace(COMPACT_UNET, channels=self.unet_widths, head_width=self.head_dim)
        return CompactModel(coder, unet)

    def rehearsal(self) -> TrainingSettings:
        """The same run in one minute, with every part of it: to see that it works and how long a step takes."""
        return dataclasses.replace(
            self, minutes=1.0, autoencoder_share=0.25, validate_seconds=20.0, checkpoint_seconds=20.0, log_seconds=2.0
        )
