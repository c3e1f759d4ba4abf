"""The serial loop: the paper in one process, and the oracle that the distributed loop must equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from zero1toa.avatar.bundle import store_bundle
from zero1toa.config import Config
from zero1toa.diffusion.memory import explained
from zero1toa.errors import ConfigError
from zero1toa.head.protocol import HeadModel
from zero1toa.storage import Storage
from zero1toa.symgen.alternation import Emit, alternate
from zero1toa.symgen.distillation.distillation import ScoreDistillation, check_distillation
from zero1toa.symgen.folder import STATE, RunFolder, open_run
from zero1toa.symgen.landmarks import choose_detector
from zero1toa.symgen.locks import lock_folder
from zero1toa.symgen.memory import training_explained
from zero1toa.symgen.progress import Progress, ProgressEvent, silent
from zero1toa.symgen.reconstruct import Fetch, Reconstruction
from zero1toa.symgen.refinery import Refiner, Refinery, SerialRefinery
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.staleness import Pace, StalenessPolicy
from zero1toa.symgen.store import LOCK, Reference, SymGENStore
from zero1toa.types import Portrait


def generate_serial(
    portrait: Portrait,
    config: Config,
    output: Path | Storage,
    progress: Progress = silent,
    head: HeadModel | None = None,
) -> GenerationResult:
    """Generate an avatar in this process, one clip refined after every ``loop.update_interval`` iterations.

    Leaves ``avatar/`` (the bundle), ``dataset/`` and ``checkpoint/`` in ``output``. The same call again continues from
    the last checkpoint; work that was committed is not repeated.

    Args:
        portrait: carved and fitted portrait.
        config: the configuration; of ``distributed`` nothing is used.
        output: the output folder.
        progress: receives the events.
        head: head model of the portrait; loaded as ``config.head`` when None.

    Raises:
        OutputError: if the folder cannot be written or belongs to another portrait or configuration.
        ConfigError: for values that cannot work together.
        AssetError: if the backbone's weights are not installed.
        DeviceMemoryError: if a GPU's memory runs out.
        BackboneError: if refinement keeps failing.
        KeyboardInterrupt: on Ctrl-C; the same call continues from the last checkpoint.
    """
    check_distillation(config.distillation)
    folder = open_run(output, portrait, config)
    policy = StalenessPolicy(config.loop.update_interval)
    with lock_folder(folder.dataset, LOCK):
        store = open_store(folder, portrait, behind=True)
        try:
            device = choose_device(config.device)
            refiner = Refiner(config, device)
            refinery = SerialRefinery(store, policy, refiner)
            distillation = None
            if config.distillation.method != "none":
                if refiner.backbone is None:
                    raise ConfigError("score distillation needs the diffusion model; leave diffusion.enabled on")
                with explained(config, device, "to prepare score distillation"):
                    distillation = ScoreDistillation(config, refiner.backbone, store.reference())
            result = run(
                portrait, config, folder, store.fetch, refinery, policy, progress, head=head, distillation=distillation
            )
        finally:
            store.flush()  # nobody else may write before
    assert result is not None  # nobody stops a serial run but an exception
    return result


def run(
    portrait: Portrait,
    config: Config,
    folder: RunFolder,
    fetch: Fetch,
    refinery: Refinery,
    policy: Pace,
    emit: Emit,
    *,
    head: HeadModel | None = None,
    distillation: ScoreDistillation | None = None,
    stopping: Callable[[], bool] = lambda: False,
    run_id: str = "",
) -> GenerationResult | None:
    """Reconstruct one avatar to the end and write its bundle, with any refinery.

    Args:
        portrait: carved and fitted portrait.
        config: the configuration.
        folder: from :func:`~zero1toa.symgen.folder.open_run`.
        fetch: reads committed clips.
        refinery: refines and commits clips.
        policy: when to submit and when to wait.
        emit: receives the events.
        head: head model of the portrait; loaded as ``config.head`` when None.
        distillation: the loss of clips where there is no dataset.
        stopping: asked once per iteration; True ends the run after a checkpoint.
        run_id: W&B run that the figures go to, kept in checkpoints.

    Returns:
        The result, or None if the run was stopped.

    Raises:
        DeviceMemoryError: if a GPU's memory runs out.
    """
    with lock_folder(folder.checkpoint, LOCK):
        return _run(portrait, config, folder, fetch, refinery, policy, emit, head, distillation, stopping, run_id)


def _run(
    portrait: Portrait,
    config: Config,
    folder: RunFolder,
    fetch: Fetch,
    refinery: Refinery,
    policy: Pace,
    emit: Emit,
    head: HeadModel | None,
    distillation: ScoreDistillation | None,
    stopping: Callable[[], bool],
    run_id: str,
) -> GenerationResult | None:
    if head is None:
        from zero1toa.head.registry import load_head

        head = load_head(config.head)
    detector, note = choose_detector(config.diffusion)
    device = choose_device(config.device)
    with training_explained(config, len(head.faces), device):
        trainer = Reconstruction(
            portrait,
            config,
            head,
            avatar_id=folder.avatar,
            fetch=fetch,
            detector=detector,
            distillation=distillation,
            device=device,
            notes=(note,) if note else (),
        )
        trainer.restore(folder.checkpoint, STATE)
        trainer.run_id = run_id
        first = trainer.step_count
        if not alternate(trainer, refinery, policy, folder, emit, stopping):
            return None
        bundle = trainer.bundle()
    store_bundle(folder.root, bundle)
    result = GenerationResult(
        avatar=folder.avatar,
        bundle=folder.bundle,
        dataset=folder.dataset,
        checkpoint=folder.checkpoint,
        iterations=trainer.iterations,
        continued_from=first,
        gaussians=len(trainer.gaussians),
        seconds=trainer.seconds,
        timings=dict(trainer.timings),
        losses=trainer.curve.points,
        requested=trainer.requested,
        refined=trainer.refined,
        superseded=trainer.superseded,
        expired=trainer.expired,
        refinements={str(key): count for key, count in sorted(trainer.refinements.items())},
        landmarks=trainer.landmark_counts.shares(),
        metrics=bundle.metrics,
        notes=tuple(trainer.notes),
    )
    emit(finished_event(result, trainer))
    return result


def finished_event(result: GenerationResult, trainer: Reconstruction) -> ProgressEvent:
    """The last event of a run, after its bundle is on disk."""
    counts = {name: getattr(result, name) for name in ("requested", "refined", "superseded", "expired")}
    return ProgressEvent(
        kind="finished",
        avatar=result.avatar,
        stage=trainer.stage,
        iteration=result.iterations,
        iterations=result.iterations,
        gaussians=result.gaussians,
        seconds=result.seconds,
        eta=0.0,
        timings=result.timings,
        **counts,
    )


def open_store(folder: RunFolder, portrait: Portrait, behind: bool = False) -> SymGENStore:
    """The dataset of a run, holding the portrait.

    Args:
        folder: of the run.
        portrait: the portrait.
        behind: write commits beside training.

    Raises:
        OutputError: if it cannot be written or belongs to another avatar.
    """
    store = SymGENStore(folder.dataset, folder.avatar, behind=behind)
    store.put_reference(Reference(portrait.image, portrait.landmarks))
    return store


def choose_device(name: str) -> torch.device:
    """The torch device that ``config.device`` names; ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: for an unknown name, or ``cuda`` without a CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not known; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but this machine has no CUDA device that torch can use; use device=auto")
    return torch.device(name)
