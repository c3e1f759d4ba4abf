from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_head import PlainHead

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.schedule import Schedule, build_clips, next_clip
from zero1toa.types import SampleKey

PAPER = Schedule(CurriculumConfig())


def test_stages_of_the_paper():
    assert PAPER.open_stages(0) == ("spatial",)
    assert PAPER.open_stages(4999) == ("spatial",)
    assert PAPER.open_stages(5000) == ("spatial", "temporal_synthetic")
    assert PAPER.open_stages(8000) == ("spatial", "temporal_synthetic", "temporal_real")
    assert [PAPER.epoch(k) for k in (0, 4999, 5000, 7999, 8000)] == [0, 0, 1, 1, 2]
    assert [PAPER.stage(k) for k in (0, 5000, 9999)] == ["spatial", "temporal_synthetic", "temporal_real"]


def test_unlocked_frames_of_the_paper():
    assert [PAPER.unlocked("spatial", k) for k in (0, 299, 300, 4499, 4500, 9999)] == [1, 1, 2, 15, 16, 16]
    assert PAPER.unlocked("temporal_real", 8000) == 16


def test_a_stage_without_clips_is_skipped():
    schedule = Schedule(CurriculumConfig(spatial_clips=0))
    assert schedule.open_stages(0) == ("temporal_synthetic",)
    assert schedule.stage(9000) == "temporal_real"
    nothing = Schedule(CurriculumConfig(spatial_clips=0, synthetic_clips=0, real_clips=0))
    assert nothing.open_stages(10) == ()
    assert nothing.stage(10) == "portrait"


def refinements(config, iterations, interval, seed=0):
    head = PlainHead()
    keys = list(build_clips(config, head, head.neutral(), 32, seed))
    schedule, requested, order = Schedule(config), {}, []
    for number, step in enumerate(range(0, iterations, interval)):
        key = next_clip(keys, requested, schedule.open_stages(step), seed)
        requested[key] = number
        order.append((step, key))
    return order


def test_paper_schedule_refreshes_every_clip():
    order = refinements(CurriculumConfig(), 10_000, 30)
    assert len(order) == 334
    spatial = Counter(key for step, key in order if step < 5000)
    assert len(spatial) == 20
    assert max(spatial.values()) - min(spatial.values()) <= 1
    # A new stage's clips come first, each once.
    first = [key for step, key in order if step >= 5000][:10]
    assert {key.stage for key in first} == {"temporal_synthetic"}
    assert len(set(first)) == 10
    assert len({key for _, key in order}) == 40


def test_order_depends_on_the_seed_only():
    config = CurriculumConfig()
    assert refinements(config, 600, 30, seed=1) == refinements(config, 600, 30, seed=1)
    assert refinements(config, 600, 30, seed=1) != refinements(config, 600, 30, seed=2)


@given(st.integers(0, 50), st.lists(st.integers(0, 6), max_size=40))
def test_no_clip_waits_more_than_a_round(seed, delays):
    keys = [SampleKey("spatial", f"c{i}") for i in range(7)]
    requested, last = {}, {}
    for number in range(len(delays)):
        key = next_clip(keys, requested, ("spatial",), seed)
        assert number - last.get(key, number - 7) >= 7
        requested[key] = last[key] = number
    assert next_clip(keys, requested, ("temporal_real",), seed) is None


@pytest.mark.parametrize("step", [0, 7, 29, 30, 500, 20_000])
def test_unlocking_never_goes_back(step):
    schedule = Schedule(CurriculumConfig(unlock_interval=30, frames=8))
    assert schedule.unlocked("spatial", step) <= schedule.unlocked("spatial", step + 1) <= 8
