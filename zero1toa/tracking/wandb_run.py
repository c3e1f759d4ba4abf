"""One Weights & Biases run that can never stop a generation: online, else offline, else none, said once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zero1toa.config import TrackingConfig

SYSTEM = "system"
"""Job type of a batch's own run, and the end of its id."""

_ONLINE_TIMEOUT = 20.0  # seconds to reach the server before falling back
_LONGEST_ID = 64
_RECORDS_RESUME = (
    0,
    31,
)  # first W&B whose offline runs remember that they continue another; older ones print a warning


def run_identity(group: str, name: str, job_type: str = "avatar") -> str:
    """The id of a run: the same for the same job and portrait, so that a job that is submitted again continues it.

    Args:
        group: name of the job, or the empty string.
        name: id of the portrait, or anything unique in the job.
        job_type: what kind of run it is.

    Returns:
        ``<group>-<name>``; with a digest at the end where characters had to be replaced or left out, or where it would
        be the id of the job's system run, since two runs with one id would be mixed.
    """
    wanted = "-".join(part for part in (group, name) if part)
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted)
    if safe == wanted and len(safe) <= _LONGEST_ID and (name != SYSTEM or job_type == SYSTEM):
        return safe
    digest = hashlib.sha256(f"{job_type}/{wanted}".encode()).hexdigest()[:8]
    return f"{safe[: _LONGEST_ID - len(digest) - 1]}-{digest}"


class WandbRun:
    """A W&B run, or nothing where W&B does not work.

    Every call swallows W&B's own errors after reporting the first one: a picture that cannot be uploaded is no reason
    to lose an avatar.

    Attributes:
        mode: ``online``, ``offline`` or ``disabled``, as it came out.
        run_id: id of the run, also where there is none; to be kept with what the run is about, and given again.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        name: str,
        run_config: Mapping[str, Any],
        report: Callable[[str], None],
        *,
        job_type: str = "avatar",
        run_id: str = "",
        first_step: int = 0,
    ):
        """Start the run, or continue one.

        With ``run_id`` or ``first_step`` it continues the run of that id. Without, it begins anew: a run of the same id
        is replaced, as what it tells of is made again from the start.

        Args:
            config: mode, project and group.
            folder: where W&B makes its ``wandb`` folder.
            name: avatar id, or what else the run is about.
            run_config: configuration to store with it.
            report: takes one line about a fallback.
            job_type: kind of run, to filter by.
            run_id: id of the run to continue; the empty string makes it from group and name.
            first_step: first step that was not logged before; earlier ones, which a run repeats when it goes on from a
                checkpoint, are left out.
        """
        self._report = report
        self._run: Any = None
        self._step = first_step
        self.mode = "disabled"
        name = "-".join(part for part in (config.label, name) if part)
        self.run_id = run_id or run_identity(config.group, name, job_type)
        continues = bool(run_id) or first_step > 0
        for mode in {"online": ("online", "offline"), "offline": ("offline",)}.get(config.wandb, ()):
            try:
                self._run = _start(mode, config, folder, name, run_config, job_type, self.run_id, continues)
                self._step = max(first_step, self._run.starting_step)
            except Exception as error:  # W&B raises its own, and others when its service cannot start
                self._report(f"W&B {mode} is not available: {_line(error)}")
                continue
            self.mode = mode
            break

    def define(self, keys: Sequence[str], over: str) -> None:
        """Draw keys (with ``*`` at their end for all that begin so) over another key instead of over the step."""

        def define() -> None:
            self._run.define_metric(over)
            for key in keys:
                self._run.define_metric(key, step_metric=over)

        self._attempt(define)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log scalars.

        Args:
            values: by key.
            step: not below the last one; a lower one was logged before and is left out.
        """
        self._put(lambda: dict(values), step)

    def picture(self, name: str, path: str | Path, step: int | None = None) -> None:
        """Log a picture; nothing happens if it cannot be read.

        Args:
            name: key.
            path: path or fsspec URL of an image file.
            step: as :meth:`log`; None is the last one.
        """
        image = _read_picture(path) if self._run is not None else None
        if image is not None:
            self._put(lambda: {name: self._module().Image(image)}, step)

    def video(self, name: str, path: Path) -> None:
        """Log an encoded video file at the last step; raw arrays would need another encoder."""
        self._put(lambda: {name: self._module().Video(str(path), format="mp4")})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table at the last step; a column holds one type, or None."""
        table = [list(row) for row in rows]
        self._put(lambda: {name: self._module().Table(columns=list(columns), data=table)})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final figures."""
        self._attempt(lambda: self._run.summary.update(dict(values)))

    def close(self, *, failed: bool = False) -> None:
        """Finish the run."""
        self._attempt(lambda: self._run.finish(exit_code=1 if failed else 0))
        self._run = None

    def _put(self, make: Callable[[], dict[str, Any]], step: int | None = None) -> None:
        if step is not None and step < self._step:
            return  # W&B would leave it out, too, with a warning each time
        self._step = self._step if step is None else step
        self._attempt(lambda: self._run.log(make(), step=self._step))

    def _module(self) -> Any:
        import wandb

        return wandb

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            self.mode = "disabled"
            self._report(f"W&B stopped working and is left out from here: {_line(error)}")


def _start(
    mode: str,
    config: TrackingConfig,
    folder: Path,
    name: str,
    run_config: Mapping[str, Any],
    job_type: str,
    run_id: str,
    continues: bool,
) -> Any:
    import wandb

    resumes = continues and (mode == "online" or _version(wandb.__version__) >= _RECORDS_RESUME)
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project=config.project,
        group=config.group or None,
        name=name,
        id=run_id,
        job_type=job_type,
        dir=str(folder),
        config=dict(run_config),
        resume="allow" if resumes else None,
        # One process may track several avatars.
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=_ONLINE_TIMEOUT, silent=True, console="off", disable_git=True, x_disable_stats=True
        ),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _read_picture(path: str | Path) -> Any:
    import fsspec
    from PIL import Image

    try:
        with fsspec.open(str(path), "rb") as file:
            return Image.open(file).convert("RGB")
    except Exception:  # every protocol has errors of its own
        return None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
