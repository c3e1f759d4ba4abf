from __future__ import annotations

import pytest
import torch

from zero1toa.render.threads import get_threads, set_threads


@pytest.fixture(autouse=True)
def _two_threads():
    """Always the threaded path, whatever the machine, and the process's own setting afterwards."""
    before = get_threads()
    set_threads(2)
    yield
    set_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
