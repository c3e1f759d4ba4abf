"""What a planned run costs, as far as measured rates tell."""

from __future__ import annotations

import dataclasses

from zero1toa.avatar.initialisation import orders_per_face
from zero1toa.config import Config
from zero1toa.diffusion.facts import backbone_spec, parameter_counts
from zero1toa.diffusion.memory import PEAKS, activations_gib, frames_at_once, weights_gib
from zero1toa.head.protocol import HeadModel
from zero1toa.planning.counting import Work, count_distillation, count_work
from zero1toa.planning.rates import DIFFUSION, TRAINING, DiffusionRate
from zero1toa.planning.schedule import PlannedSchedule, plan_schedule

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """Schedule and predicted cost of a run on one GPU. None stands for what no measured rate tells.

    Attributes:
        schedule: stages and requests.
        work: network evaluations of one refinement, or of one training iteration with score distillation.
        times: how often that happens.
        evaluations: evaluations of the diffusion network in the whole run, one frame each.
        teraflop: their arithmetic, 10^12 operations.
        refinement_seconds: all refinements.
        training_seconds: all training iterations.
        gaussians: Gaussians of the first avatar on the embedded head.
        parameters: parameters of each of the backbone's networks.
        weights_gib: their memory.
        clips_gib: memory of the dataset's pictures beside the trainer.
        activations_gib: measured peak of a refinement beyond the weights.
        notes: what the figures rest on and what is missing, one line each.
    """

    schedule: PlannedSchedule
    work: Work
    times: float
    evaluations: float
    teraflop: float | None
    refinement_seconds: float | None
    training_seconds: float | None
    gaussians: int
    parameters: dict[str, int]
    weights_gib: float
    clips_gib: float
    activations_gib: float | None
    notes: tuple[str, ...]


def plan_run(config: Config, head: HeadModel) -> Plan:
    """Plan a run.

    Args:
        config: its configuration.
        head: the embedded head; another head changes nothing but the number of Gaussians.

    Raises:
        ConfigError: for a configuration with which the run would fail, or a backbone of which nothing is known.
    """
    schedule = plan_schedule(config, head)
    diffusion, times = config.diffusion, float(len(schedule.requests))
    distilled = config.distillation.method != "none"
    name = diffusion.backbone
    work, parameters, rate = Work(), {}, None
    notes: list[str] = []
    if distilled:
        work = count_distillation(backbone_spec(name), config)
        times = config.loop.iterations * (1 - config.loop.portrait_share)
        notes.append(
            f"score distillation ({config.distillation.method}) instead of a dataset: evaluations per iteration "
            "are means over drawn noise levels; going back through the encoder was not measured"
        )
    elif diffusion.enabled:
        work = count_work(backbone_spec(name), diffusion, config.curriculum.frames)
    if diffusion.enabled:
        parameters = parameter_counts(name)
        rate = DIFFUSION.get(name)
        notes.append(_rate_note(name, rate))
        frames = min(config.loop.batch_frames, config.curriculum.frames) if distilled else config.curriculum.frames
        if rate is not None and frames != rate.frames:
            notes.append(f"clips of {frames} frames were not measured: times are scaled by frame")
    training = None if distilled else training_seconds(config)
    if training is not None:
        notes.append(f"training: predicted for {TRAINING.gpu}; {TRAINING.source}; times are scaled by frame")
    elif distilled:
        notes.append("training: iterations with score distillation were not measured beside their evaluations")
    else:
        notes.append(f"training: no rate is known for pictures of {config.render.size} pixels")
    activations = None if distilled else activations_gib(diffusion, config.curriculum.frames)
    if parameters:
        notes.append(_memory_note(name, diffusion.dtype, config.curriculum.frames, activations))
    changes: dict[str, int] | None = None if config.avatar.by_region else {}
    orders = orders_per_face(head, head.vertices(head.neutral()), config.avatar.gaussians_per_triangle, changes)
    clips = len({request.key for request in schedule.requests})
    frame_bytes = 3 * config.render.size**2
    return Plan(
        schedule=schedule,
        work=work,
        times=times,
        evaluations=times * work.frame_evaluations,
        teraflop=None if rate is None else times * _update_teraflop(work, rate),
        refinement_seconds=None if rate is None else times * _update_seconds(work, rate),
        training_seconds=training,
        gaussians=int((orders * (orders + 1) // 2).sum()),
        parameters=parameters,
        weights_gib=weights_gib(name, diffusion.dtype) if parameters else 0.0,
        clips_gib=clips * config.curriculum.frames * frame_bytes / _GIB,
        activations_gib=activations if diffusion.enabled else 0.0,
        notes=tuple(notes),
    )


def _rate_note(name: str, rate: DiffusionRate | None) -> str:
    if rate is None:
        return (
            f"refinement: no rate is known for the backbone '{name}', so no time is predicted; there are rates for "
            f"backbone={' and backbone='.join(DIFFUSION)}"
        )
    return f"refinement: predicted for {rate.gpu}; {rate.source}"


def _memory_note(name: str, dtype: str, frames: int, activations: float | None) -> str:
    if activations is None:
        return f"memory: weights and dataset are counted; activations of '{name}' were not measured and come on top"
    note = f"memory: activations after a measurement on {PEAKS[name].source}"
    at_once = frames_at_once(name, frames)
    if at_once != PEAKS[name].frames:
        note += f", for {at_once} frames on the line through one and two such clips at once"
    if at_once != frames:
        note += f"; clips of {frames} frames go through it in windows of {at_once}"
    return f"{note}, in bfloat16; float32 takes more" if dtype == "float32" else note


def _update_teraflop(work: Work, rate: DiffusionRate) -> float:
    total = work.single_frames * rate.single_teraflop + work.guided_frames * rate.guided_teraflop
    return total / rate.frames


def _update_seconds(work: Work, rate: DiffusionRate) -> float:
    total = work.single_frames * rate.single + work.guided_frames * rate.guided
    total += work.encoded_frames * rate.encode + work.decoded_frames * rate.decode
    return total / rate.frames


def training_seconds(config: Config) -> float | None:
    """Seconds of all training iterations; None for a picture size without a rate.

    Times are scaled by frame, and iterations on the portrait render one picture. The perceptual term counts as LPIPS
    unless it is off: what stands in for it where its weights are missing takes less.
    """
    if config.render.size != TRAINING.size:
        return None
    loss = config.loss
    each = TRAINING.without if loss.perceptual == 0 or loss.perceptual_kind == "none" else TRAINING.lpips
    share, frames = config.loop.portrait_share, min(config.loop.batch_frames, config.curriculum.frames)
    return config.loop.iterations * (share + (1 - share) * frames) * each / TRAINING.frames
