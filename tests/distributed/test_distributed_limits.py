"""What a process may take of a GPU that it shares."""

from types import SimpleNamespace

import pytest
import torch

from zero1toa.distributed.limits import CONTEXT, limit_memory


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What torch was told, on a GPU of 60 GiB that is not there."""
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=60 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", told.append)
    return told


def test_sharers_leave_room_for_what_each_process_takes_itself(fractions: list[float]):
    limit_memory(0.25)
    (fraction,) = fractions
    assert 4 * (fraction * 60 + CONTEXT) == pytest.approx(60)


def test_a_tiny_share_is_still_one(fractions: list[float]):
    limit_memory(0.01)
    assert fractions == [0.005]


@pytest.mark.parametrize("share", [0.0, 1.0, 2.0])
def test_whole_gpus_and_none_have_no_limit(fractions: list[float], share: float):
    limit_memory(share)
    assert fractions == []


def test_without_a_gpu_nothing_happens(fractions: list[float], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit_memory(0.25)
    assert fractions == []


@pytest.mark.gpu
def test_torch_refuses_what_is_beyond_the_share():
    limit_memory(0.1)
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        held = torch.empty(int(total * 0.05), dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(total * 0.06), dtype=torch.uint8, device="cuda")
        assert held.is_cuda
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
