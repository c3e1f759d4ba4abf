"""A Ray cluster to work on: the one that is there, or a private one on this machine that leaves nothing behind."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TOKENS = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
_PREFIX = "z1a-"


def sweep(parent: Path) -> None:
    """Remove the folders of private clusters whose process was killed; it could not do that itself.

    Args:
        parent: where the folders lie; their names hold the process id.
    """
    for folder in parent.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


@functools.cache
def process_token() -> str:
    """The token of all private clusters of this process: Ray reads it once, and would refuse the next cluster's."""
    return secrets.token_hex(32)


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep the caller's answer to SIGTERM: ``ray.init`` puts in its place one that exits with code 15 and no word.

    Where the caller has none, Ray's stays, since it lets the work be put away. Only the main thread has answers.
    """
    own = signal.getsignal(signal.SIGTERM)
    if not callable(own) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:  # it came while Ray was starting
            own(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, own)


@contextmanager
def ray_session(cpus: int, *, dashboard: bool = False, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connect to Ray, and disconnect on leaving.

    A connection that the caller made is used and kept. Else ``RAY_ADDRESS`` (set within ``ray job submit``) names the
    cluster. Else a cluster is started on this machine, with its files in a temporary folder (in ``RAY_TMPDIR`` if
    that is set), and stopped on leaving; it ends with this process even if that is killed.

    Args:
        cpus: CPUs that a private cluster offers: as many as busy actors, whatever the machine has.
        dashboard: start Ray's dashboard with a private cluster.
        variables: environment of all workers.
    """
    # uv's hook would start every worker through `uv run` again, and it is read when Ray is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray is about to change what an empty GPU request hides; its warning about that says nothing to users.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": dict(variables or {})},
    }
    if os.environ.get("RAY_ADDRESS"):
        with _kept_sigterm():
            ray.init(**quiet)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Short, because the path of a socket in it has to stay under 108 characters.
    parent = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())
    Path(parent).mkdir(parents=True, exist_ok=True)
    sweep(Path(parent))
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
    own_token = not any(name in os.environ for name in _TOKENS)
    if own_token:  # Ray would write one into the home folder, which may be read-only
        token = Path(folder) / "token"
        token.write_text(process_token())
        os.environ[_TOKENS[0]] = str(token)
    try:
        with _kept_sigterm():
            ray.init(address="local", num_cpus=cpus, include_dashboard=dashboard, _temp_dir=folder, **quiet)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        if own_token:
            os.environ.pop(_TOKENS[0], None)
        shutil.rmtree(folder, ignore_errors=True)
