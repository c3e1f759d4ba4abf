"""How a test run ends."""

from __future__ import annotations

import os
import sys

import pytest

_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the tests went."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without the destructors of C++ when Ray was used.

    Ray 2.60 stops the thread that exports metrics at the end of a process's first session, but not of later ones. A
    test run has many sessions, and now and then that thread is at work while the process takes its memory away: a
    segmentation fault after the last test has passed. Programs have one session.
    """
    if "ray" in sys.modules and _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
