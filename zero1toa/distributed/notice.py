"""Passes a spot machine's notice on to Ray: ``python -m zero1toa.distributed.notice``, started beside Ray's worker.

AWS announces the end of a spot machine two minutes ahead, at an address that only the machine itself sees. Ray does
not look there. On Kubernetes nothing of this is needed: a pod that is about to end gets SIGTERM, and Ray drains then.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime

METADATA = "http://169.254.169.254/latest"
"""Address of a machine's own metadata at AWS."""

_EVERY = 5.0  # seconds between looks
_MARGIN = 10.0  # seconds before the end at which everything should be over
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy sees this machine's metadata


def watch(
    announce: Callable[[float], None], address: str = METADATA, pause: Callable[[float], None] = time.sleep
) -> None:
    """Wait for the notice, and announce it once.

    Args:
        announce: called with the seconds that are left.
        address: where metadata is served.
        pause: called between looks with the seconds to wait.
    """
    while True:
        end = read_notice(address)
        if end is not None:
            announce(max((end - datetime.now(UTC)).total_seconds() - _MARGIN, 0.0))
            return
        pause(_EVERY)


def read_notice(address: str = METADATA) -> datetime | None:
    """When this machine will be taken away, or None if it was not announced (or nobody answers, as off AWS)."""
    try:
        session = urllib.request.Request(
            f"{address}/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        with _DIRECT.open(session, timeout=2) as answer:
            token = answer.read().decode()
        question = urllib.request.Request(
            f"{address}/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
        )
        with _DIRECT.open(question, timeout=2) as answer:
            notice = json.loads(answer.read())
        return datetime.fromisoformat(str(notice["time"]))
    except (OSError, ValueError, KeyError, TypeError):  # also HTTP 404, which is the usual answer
        return None


def _announce(seconds: float) -> None:
    import ray

    from zero1toa.distributed.drain import drain_node

    ray.init(address="auto", log_to_driver=False)
    node = ray.get_runtime_context().get_node_id()
    drain_node(node, seconds, f"spot machine, taken away in {seconds:.0f} s")
    print(f"node {node} is drained: it is taken away in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    watch(_announce)
