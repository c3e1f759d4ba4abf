from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zero1toa.distributed.leases import FIRST_LEASE, SHORTEST_LEASE, LeaseQueue, lease_length


def test_first_in_first_out_and_done():
    queue = LeaseQueue(10)
    assert queue.submit("a", "ada", 1)
    assert queue.submit("b", "bob", 2)
    assert not queue.submit("a", "ada", 1)
    first = queue.take("w1", now=0)
    assert (first.request_id, first.payload, first.attempts) == ("a", 1, 1)
    assert queue.take("w2", now=0).request_id == "b"
    assert queue.take("w3", now=0) is None
    assert queue.done("a")
    assert not queue.done("a")
    assert queue.state("a") == "unknown"
    assert queue.state("b") == "leased"


def test_expired_lease_goes_to_the_front():
    queue = LeaseQueue(10)
    queue.submit("a", "ada", None)
    queue.submit("b", "ada", None)
    queue.take("w1", now=0)
    assert queue.next_deadline() == 10
    assert queue.expire(9.9) == []
    assert queue.state("a") == "leased"
    queue.expire(10)
    again = queue.take("w2", now=10)
    assert (again.request_id, again.worker, again.attempts) == ("a", "w2", 2)
    assert queue.fail("a", "w1", "late report of the former holder") is None
    assert queue.state("a") == "leased"
    assert queue.done("a")  # work that was committed counts, whoever did it


def test_poison_after_three_attempts_keeps_the_reasons():
    queue = LeaseQueue(10, max_attempts=3)
    queue.submit("a", "ada", None)
    queue.take("w1", 0)
    assert queue.fail("a", "w1", "out of memory") is None
    queue.take("w1", 1)
    assert queue.release("w1", "w1 died") == []
    queue.take("w2", 2)
    poisoned = queue.expire(12)
    assert [lease.request_id for lease in poisoned] == ["a"]
    assert poisoned[0].reasons == ["out of memory", "w1 died", "w2: no answer within 10 s"]
    assert queue.state("a") == "unknown"
    assert queue.submit("a", "ada", None)  # asked for again later, it gets three new attempts
    queue.forget("ada")
    assert queue.state("a") == "unknown"


def test_a_worker_that_missed_the_answer_gets_the_same_request():
    queue = LeaseQueue(10)
    queue.submit("a", "ada", None)
    queue.submit("b", "ada", None)
    assert queue.take("w1", 0) is queue.take("w1", 3)
    assert queue.next_deadline() == 13
    assert queue.waiting == 1


def test_what_was_given_ahead_and_not_begun_was_no_attempt():
    queue = LeaseQueue(10, max_attempts=1)
    queue.submit("a", "ada", 1)
    queue.submit("b", "bob", 2)
    queue.take("w1", 0)
    assert queue.take("w1", 1, holding=["a"], ahead=True).request_id == "b"
    assert [lease.request_id for lease in queue.release("w1", "died")] == ["a"]
    again = queue.take("w2", 2)
    assert (again.request_id, again.attempts, again.reasons) == ("b", 1, [])
    queue.submit("c", "cleo", 3)
    assert queue.take("w2", 3, holding=["b"], ahead=True).request_id == "c"
    queue.done("b")
    assert queue.take("w2", 4, holding=["c"], ahead=True) is None  # it asks for more: it works on c
    assert [lease.request_id for lease in queue.expire(20)] == ["c"]


def test_a_worker_keeps_what_it_held_before_the_queue_was_lost():
    queue = LeaseQueue(10)
    for name in "abc":
        queue.submit(name, name, None)  # again, by avatars that wait for them
    assert queue.take("w1", 0, holding=["a", "b", "gone"], ahead=True).request_id == "c"
    assert queue.waiting == 0
    assert queue.take("w2", 0) is None
    assert queue.release("w1", "died") == []
    assert queue.waiting == 3


def test_a_request_given_ahead_that_cannot_be_fetched_was_an_attempt():
    queue = LeaseQueue(10, max_attempts=1)
    queue.submit("a", "ada", 1)
    queue.take("w1", 0, ahead=True)
    assert queue.fail("a", "w1", "its pictures are damaged").reasons == ["its pictures are damaged"]


def test_lease_length_follows_the_slowest_service():
    assert lease_length([1.0, 2.0]) == FIRST_LEASE
    assert lease_length([1.0, 2.0, 3.0]) == SHORTEST_LEASE
    assert lease_length([10.0, 40.0, 30.0]) == 120.0


class Machine(RuleBasedStateMachine):
    """Nothing that was submitted is ever lost, served twice at once, or tried more than three times."""

    def __init__(self):
        super().__init__()
        self.queue, self.now, self.open, self.done_ids = LeaseQueue(5, max_attempts=3), 0.0, set(), set()

    def given_up(self, leases):
        for lease in leases:
            assert lease.attempts == len(lease.reasons) == 3
            self.open.discard(lease.request_id)

    @rule(number=st.integers(0, 8))
    def submit(self, number):
        name = f"r{number}"
        if name not in self.done_ids:
            self.queue.submit(name, "ada", number)
            self.open.add(name)

    @rule(worker=st.sampled_from(["w1", "w2"]), ahead=st.booleans())
    def take(self, worker, ahead):
        lease = self.queue.take(worker, self.now, ahead=ahead)
        if lease is not None:
            assert lease.attempts <= 3
            assert lease.worker == worker

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def die(self, worker):
        self.given_up(self.queue.release(worker, "died"))

    @rule(worker=st.sampled_from(["w1", "w2"]), number=st.integers(0, 8))
    def fail(self, worker, number):
        lease = self.queue.fail(f"r{number}", worker, "error")
        self.given_up([lease] if lease else [])

    @rule(number=st.integers(0, 8))
    def finish(self, number):
        if self.queue.done(f"r{number}"):
            self.open.discard(f"r{number}")
            self.done_ids.add(f"r{number}")

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now += seconds
        self.given_up(self.queue.expire(self.now))

    @invariant()
    def nothing_is_lost(self):
        states = [self.queue.state(name) for name in self.open]
        assert "unknown" not in states
        assert states.count("queued") == self.queue.waiting
        assert states.count("leased") == self.queue.leased


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLeases = Machine.TestCase
