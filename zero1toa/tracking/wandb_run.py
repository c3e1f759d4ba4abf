"""One Weights & Biases run that can never stop a generation: online, else offline, else none, said once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zero1toa.config import TrackingConfig

_ONLINE_TIMEOUT = 20.0  # seconds to reach the server before falling back


class WandbRun:
    """A W&B run, or nothing where W&B does not work.

    Every call swallows W&B's own errors after reporting the first one: a picture that cannot be uploaded is no reason
    to lose an avatar.

    Attributes:
        mode: ``online``, ``offline`` or ``disabled``, as it came out.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        name: str,
        run_config: Mapping[str, Any],
        report: Callable[[str], None],
    ):
        """Start the run.

        Args:
            config: mode, project and group.
            folder: where W&B makes its ``wandb`` folder.
            name: avatar id; with the group it forms the run's id, so that a continued avatar continues its run.
            run_config: configuration to store with it.
            report: takes one line about a fallback.
        """
        self._report = report
        self._run: Any = None
        self.mode = "disabled"
        wanted = config.wandb
        for mode in {"online": ("online", "offline"), "offline": ("offline",)}.get(wanted, ()):
            try:
                self._run = _start(mode, config, folder, name, run_config)
            except Exception as error:  # W&B raises its own, and others when its service cannot start
                self._report(f"W&B {mode} is not available: {_line(error)}")
                continue
            self.mode = mode
            break
        self._define()

    def log(self, values: Mapping[str, Any]) -> None:
        """Log scalars; keys under ``train/`` are drawn over ``iteration``."""
        self._attempt(lambda: self._run.log(dict(values)))

    def picture(self, name: str, path: Path) -> None:
        """Log an image file."""
        self._attempt(lambda: self._run.log({name: self._module().Image(str(path))}))

    def video(self, name: str, path: Path) -> None:
        """Log an encoded video file; raw arrays would need another encoder."""
        self._attempt(lambda: self._run.log({name: self._module().Video(str(path), format="mp4")}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final figures."""
        self._attempt(lambda: self._run.summary.update(dict(values)))

    def close(self, *, failed: bool = False) -> None:
        """Finish the run."""
        self._attempt(lambda: self._run.finish(exit_code=1 if failed else 0))
        self._run = None

    def _define(self) -> None:
        def define() -> None:
            self._run.define_metric("iteration")
            for group in ("train/*", "refine/*", "preview"):
                self._run.define_metric(group, step_metric="iteration")

        self._attempt(define)

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


def _start(mode: str, config: TrackingConfig, folder: Path, name: str, run_config: Mapping[str, Any]) -> Any:
    import wandb

    group = config.group or None
    identity = "-".join(part for part in (config.group, name) if part)
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project=config.project,
        group=group,
        name=name,
        id=re.sub(r"[^A-Za-z0-9_-]+", "-", identity)[:120],
        job_type="avatar",
        dir=str(folder),
        config=dict(run_config),
        resume="allow" if mode == "online" else None,
        # One process may track several avatars.
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=_ONLINE_TIMEOUT, silent=True, console="off", disable_git=True, x_disable_stats=True
        ),
    )


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
