import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero1toa.symgen.staleness import StalenessPolicy

policies = st.builds(
    StalenessPolicy,
    interval=st.integers(1, 12),
    window=st.integers(1, 4),
    slack=st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0]),
    max_age=st.integers(0, 40),
)


def run(policy, iterations, delays):
    """Play a trainer against refiners that answer after drawn numbers of trainer turns; returns the event log."""
    log, step, submitted, turn = [], 0, 0, 0
    outstanding = []  # (render step, turn of the answer)
    delays = iter(delays)
    while step < iterations:
        turn += 1
        for item in [o for o in outstanding if o[1] <= turn]:
            outstanding.remove(item)
            log.append(("answer", step, step - item[0]))
        while policy.may_submit(step, submitted, len(outstanding)):
            outstanding.append((step, turn + next(delays, 1)))
            submitted += 1
            log.append(("submit", step, len(outstanding)))
        if policy.may_train(step, submitted, [o[0] for o in outstanding]):
            log.append(("train", step, len(outstanding)))
            step += 1
        else:
            assert outstanding, "the trainer waits for nothing"
    return log


@given(policies, st.integers(1, 80), st.lists(st.integers(1, 30), max_size=100))
@settings(deadline=None)
def test_bounds_hold_whatever_the_delays(policy, iterations, delays):
    log = run(policy, iterations, delays)
    lead = policy.slack * policy.interval
    assert all(count <= policy.window for kind, _, count in log if kind == "submit")
    # An answer is at most the lead old, rounded up to the iteration that was running.
    assert all(age <= max(lead, 0) + 1 for kind, _, age in log if kind == "answer")
    answered = 0
    for kind, step, _ in log:
        answered += kind == "answer"
        if kind == "train":
            assert step < answered * policy.interval + lead
    assert sum(kind == "train" for kind, *_ in log) == iterations


@given(st.integers(1, 12), st.integers(1, 80), st.lists(st.integers(1, 30), max_size=100))
def test_window_one_slack_zero_is_the_serial_loop(interval, iterations, delays):
    log = [(kind, step) for kind, step, _ in run(StalenessPolicy(interval), iterations, delays)]
    serial = []
    for step in range(iterations):
        if step % interval == 0:
            serial += [("submit", step), ("answer", step)]
        serial.append(("train", step))
    assert log == serial


@given(policies, st.integers(1, 200), st.lists(st.integers(1, 30), max_size=100))
@settings(deadline=None)
def test_the_papers_ratio_of_updates_to_iterations_is_kept(policy, iterations, delays):
    log = run(policy, iterations, delays)
    submitted = sum(kind == "submit" for kind, *_ in log)
    due = (iterations - 1) // policy.interval + 1
    assert due - policy.slack - 1 <= submitted <= due


def test_judgement():
    policy = StalenessPolicy(30, max_age=100)
    same = {"base_version": 3, "current_version": 3, "epoch": 1, "current_epoch": 1, "age": 100}
    assert policy.judge(**same) == "accept"
    assert policy.judge(**same | {"current_version": 4}) == "superseded"
    assert policy.judge(**same | {"age": 101}) == "expired"
    assert policy.judge(**same | {"current_epoch": 2}) == "expired"


@pytest.mark.parametrize("bad", [{"interval": 0}, {"window": 0}, {"slack": -1.0}, {"max_age": -1}])
def test_impossible_policies_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        StalenessPolicy(**{"interval": 30} | bad)
