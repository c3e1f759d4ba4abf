"""A cluster of several nodes on this machine, whose parts a test can kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zero1toa.distributed.session import process_token


@contextmanager
def machines(head: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[Any]:
    """A :class:`ray.cluster_utils.Cluster` with a head; the environment names it, so that a driver finds it.

    Args:
        head: arguments of the head node.
        variables: further environment variables of everything.
    """
    # Short, because it holds sockets, whose paths have to stay under 108 characters.
    folder = tempfile.mkdtemp(prefix="z1am-")
    token = Path(folder) / "token"
    token.write_text(process_token())
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        # A dead node is noticed within two seconds instead of half a minute.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        for name, value in variables.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
