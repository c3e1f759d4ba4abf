"""The loop itself: train, ask for a refined clip, take it in (paper sec. 4.1). The same code runs with and without Ray.

Who refines is behind :class:`~zero1toa.symgen.refinery.Refinery`. The serial refinery answers before ``submit``
returns, which makes this the paper's loop; a distributed one answers later. At window 1 and slack 0 the trainer waits
for every answer, so the order of everything that touches the avatar is the same in both, and so is the result.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zero1toa.errors import BackboneError
from zero1toa.media import png
from zero1toa.symgen.failure import Failure
from zero1toa.symgen.folder import PREVIEW, STATE, RunFolder
from zero1toa.symgen.patience import MAX_ATTEMPTS
from zero1toa.symgen.progress import EventKind, ProgressEvent
from zero1toa.symgen.staleness import Pace
from zero1toa.types import Receipt

if TYPE_CHECKING:
    from zero1toa.symgen.reconstruct import Reconstruction
    from zero1toa.symgen.refinery import Refinery

Emit = Callable[[ProgressEvent], None]


def alternate(
    trainer: Reconstruction,
    refinery: Refinery,
    policy: Pace,
    folder: RunFolder,
    emit: Emit,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Run a reconstruction to its end, or until it is stopped.

    Checkpoints are written every ``loop.checkpoint_every`` iterations, at the end, and when stopped.

    Args:
        trainer: new or restored; its unanswered requests are submitted again.
        refinery: refines and commits clips.
        policy: when to submit and when to wait.
        folder: where checkpoint and preview go.
        emit: receives the events.
        stopping: asked once per iteration; True ends the loop after a checkpoint.

    Returns:
        True when all iterations are done, False if it was stopped.

    Raises:
        BackboneError: if a request was given up, after a checkpoint: every clip counts, and most of what is wrong with
            one is wrong with all.
    """
    session = _Session(trainer, folder, emit)
    session.say("started")
    for note in trainer.notes:
        session.say("notice", message=note)
    refinery.observe(trainer.step_count, trainer.epoch)
    for request in () if trainer.done else tuple(trainer.outstanding.values()):
        refinery.submit(request)
    while not trainer.done:
        if stopping():
            session.checkpoint(refinery)
            return False
        outstanding = trainer.outstanding
        if policy.may_submit(trainer.step_count, trainer.submitted, len(outstanding)):
            refinery.observe(trainer.step_count, trainer.epoch)
            asked = trainer.request()
            if asked is not None:
                refinery.submit(asked)
            continue
        renders = [request.render_step for request in outstanding.values()]
        ready = policy.may_train(trainer.step_count, trainer.submitted, renders)
        if outstanding:
            with trainer.timed("wait"):
                answers = refinery.answers(wait=not ready)
            for answer in answers:
                if isinstance(answer, Failure):
                    session.checkpoint(refinery)  # from which a run after the repair goes on, with this very request
                    clip = outstanding[answer.request_id].key
                    raise BackboneError(f"{clip} could not be refined in {MAX_ATTEMPTS} attempts: {answer.reason}")
                session.take(answer)
            if answers or not ready:
                continue
        session.iterate(refinery)
    session.checkpoint(refinery)
    return True


class _Session:
    """One call of the loop: events, previews, checkpoints."""

    def __init__(self, trainer: Reconstruction, folder: RunFolder, emit: Emit) -> None:
        self.trainer = trainer
        self.folder = folder
        self.emit = emit
        self.first = trainer.step_count
        self.start = time.monotonic()

    def say(self, kind: EventKind, **details: object) -> None:
        trainer = self.trainer
        done = trainer.step_count - self.first
        passed = time.monotonic() - self.start
        left = trainer.iterations - trainer.step_count
        event = ProgressEvent(
            kind=kind,
            avatar=trainer.avatar_id,
            stage=trainer.stage,
            iteration=trainer.step_count,
            iterations=trainer.iterations,
            requested=trainer.requested,
            refined=trainer.refined,
            superseded=trainer.superseded,
            expired=trainer.expired,
            gaussians=len(trainer.gaussians),
            seconds=trainer.seconds,
            eta=passed / done * left if done else None,
        )
        self.emit(dataclasses.replace(event, **details))  # type: ignore[arg-type]

    def take(self, answer: Receipt) -> None:
        asked = self.trainer.outstanding.get(answer.request_id)
        age = self.trainer.step_count - asked.render_step if asked is not None else None
        self.trainer.accept(answer)
        self.say("answered", message=f"{answer.key} {answer.status}", timings=answer.seconds, age=age)

    def iterate(self, refinery: Refinery) -> None:
        trainer, config = self.trainer, self.trainer.config.loop
        losses = trainer.step()
        if trainer.outstanding:
            refinery.observe(trainer.step_count, trainer.epoch)
        self.say("iteration", losses=losses)
        if config.preview_every and (trainer.step_count % config.preview_every == 0 or trainer.done):
            with trainer.timed("preview"):
                self.folder.root.write(PREVIEW, png(trainer.preview(), level=1))  # soon replaced
            self.say("preview", preview=self.folder.preview)
        if trainer.step_count % config.checkpoint_every == 0 and not trainer.done:
            self.checkpoint(refinery)

    def checkpoint(self, refinery: Refinery) -> None:
        refinery.flush()
        self.trainer.checkpoint(self.folder.checkpoint, STATE)
        refinery.settled(self.trainer.versions)
        self.say("checkpoint")
