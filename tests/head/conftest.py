from __future__ import annotations

import pytest
import torch

from zero1toa.head.canonical import CanonicalHead


@pytest.fixture(scope="session")
def head() -> CanonicalHead:
    torch.set_num_threads(1)
    return CanonicalHead.load()


@pytest.fixture(scope="session")
def head64(head: CanonicalHead) -> CanonicalHead:
    return head.to("cpu", torch.float64)
