"""One class behind which numbers and pictures of a run are kept: JSONL always, W&B where it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zero1toa.config import TrackingConfig
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.jsonl import JsonlLog, read_log
from zero1toa.tracking.wandb_run import WandbRun

_WANDB_EVERY = 5  # iterations between W&B records; the JSONL log has every one


class Tracker:
    """Keeps everything a run says; a :class:`zero1toa.symgen.progress.Progress` and a context manager.

    Nothing that goes wrong in W&B reaches the run.

    Attributes:
        wandb: the W&B run.
        run_id: id of the W&B run, to be kept in the checkpoint and given again when the avatar is continued.
        notices: every notice so far, in order.
    """

    def __init__(
        self,
        folder: Path,
        config: TrackingConfig,
        name: str,
        run_config: Mapping[str, Any],
        report: Callable[[str], None] = lambda line: None,
        *,
        run_id: str = "",
    ):
        """Open the log and start W&B; both continue where the log of an earlier call stops.

        Args:
            folder: the run's output folder; gets ``log.jsonl`` and ``wandb/``.
            config: where numbers go.
            name: avatar id.
            run_config: configuration, kept with the run.
            report: shows one line to the user.
            run_id: W&B run to continue, from the checkpoint; by the empty string it has the id of group and name.
        """
        logged = max((int(record.get("iteration", -1)) for record in read_log(folder / "log.jsonl")), default=-1)
        self._log = JsonlLog(folder / "log.jsonl")
        self.notices: list[str] = []
        self._report = report
        self._previews = 0
        self._media_every = config.media_every
        self.wandb = WandbRun(config, folder, name, run_config, self.notice, run_id=run_id, first_step=logged + 1)
        self.wandb.define(("train/*", "refine/*", "preview"), over="iteration")
        self.run_id = self.wandb.run_id
        self._log.write("run", {"name": name, "wandb": self.wandb.mode, "config": dict(run_config)})

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; the run counts as failed when an exception passes."""
        if error is not None:
            self._log.write("stopped", {"error": f"{type(error).__name__}: {error}"})
        self.wandb.close(failed=error is not None)
        self._log.close()

    def __call__(self, event: ProgressEvent) -> None:
        """Keep one event."""
        counts = {"requested": event.requested, "refined": event.refined, "gaussians": event.gaussians}
        refused = {"superseded": event.superseded, "expired": event.expired}
        base = {"iteration": event.iteration, "stage": event.stage, "seconds": round(event.seconds, 3)}
        if event.kind == "iteration":
            losses = {name: float(f"{value:.6g}") for name, value in event.losses.items()}
            self._log.write("iteration", {**base, "losses": losses, **counts})
            if event.iteration % _WANDB_EVERY == 0:
                train = {f"train/{key}": value for key, value in {**losses, **counts}.items()}
                self.wandb.log({"iteration": event.iteration, **train}, event.iteration)
        elif event.kind == "answered":
            timings = {phase: round(value, 4) for phase, value in event.timings.items()}
            answer = {"status": event.message, "age": event.age, "timings": timings}
            self._log.write("answered", {**base, **answer, **counts, **refused})
            age = {} if event.age is None else {"age": event.age}
            figures = {**timings, **age, "refined": event.refined, **refused}
            refine = {f"refine/{key}": value for key, value in figures.items()}
            self.wandb.log({"iteration": event.iteration, **refine}, event.iteration)
        elif event.kind == "preview" and event.preview is not None:
            if self._media_every > 0 and self._previews % self._media_every == 0:
                self.wandb.picture("preview", event.preview, event.iteration)
            self._previews += 1
        elif event.kind == "notice":
            self.notices.append(event.message)
            self._log.write("notice", {**base, "message": event.message})
        else:
            timings = {phase: round(value, 4) for phase, value in event.timings.items()}
            self._log.write(event.kind, {**base, "message": event.message, "timings": timings, **counts, **refused})

    def notice(self, message: str) -> None:
        """Keep and show one line about a fallback or a surprise."""
        self.notices.append(message)
        self._log.write("notice", {"message": message})
        self._report(message)

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Keep a record of another kind in the log."""
        self._log.write(kind, values)

    def results(self, metrics: Mapping[str, Any], picture: Path | None = None, video: Path | None = None) -> None:
        """Keep the final figures, and contact sheet and video where there are any."""
        self._log.write("results", {"metrics": dict(metrics)})
        self.wandb.summary(metrics)
        if picture is not None:
            self.wandb.picture("contact_sheet", picture)
        if video is not None:
            self.wandb.video("preview_video", video)
