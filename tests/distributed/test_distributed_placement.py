"""Placement: shares of GPUs, preferred nodes, and what is said when there is too little room."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero1toa.distributed.placement import Placement, Room, plan, shortfall
from zero1toa.errors import ConfigError

HEAD, REFINE, RECON = {"role": "head"}, {"role": "refine", "market": "spot"}, {"role": "recon"}


def shares(**arguments):
    placement = plan(device="auto", **arguments)
    return placement.refinement["num_gpus"], placement.reconstruction["num_gpus"]


def of(refine: float, reconstruct: float, cpus: float = 1) -> Placement:
    return Placement(
        {"num_cpus": cpus, "num_gpus": refine}, {"num_cpus": cpus, "num_gpus": reconstruct}, {"num_cpus": 0}
    )


def test_given_shares_are_taken_as_they_are():
    assert shares(gpus=1, refiners=9, avatars=9, refine_gpus=0.5, reconstruct_gpus=0.125) == (0.5, 0.125)
    # Also before any machine with a GPU has started.
    assert shares(gpus=0, refiners=9, avatars=9, refine_gpus=1, reconstruct_gpus=0.25) == (1, 0.25)
    plan(device="cuda", gpus=0, refiners=1, avatars=1, refine_gpus=1, reconstruct_gpus=0.25)


@pytest.mark.parametrize(
    ("gpus", "refiners", "avatars", "given", "expected"),
    [
        (8, 4, 8, {"refine_gpus": 1.0}, (1, 0.25)),  # room for what a trainer gets anyway
        (2, 1, 8, {"refine_gpus": 1.0}, (1, 0.125)),  # eight on the GPU that is left
        (1, 1, 2, {"refine_gpus": 0.5}, (0.5, 0.25)),  # beside the refiner
        (1, 1, 3, {"refine_gpus": 0.5}, (0.5, 0.1666)),
        (4, 4, 1, {"reconstruct_gpus": 1.0}, (0.5, 1)),  # two refiners on a GPU, three GPUs for four of them
        (5, 4, 1, {"reconstruct_gpus": 1.0}, (1, 1)),
        (1, 1, 1, {"refine_gpus": 1.0}, (1, 0.25)),  # nothing fits: what is missing is said by shortfall
    ],
)
def test_the_share_that_is_not_given_is_the_largest_that_fits(gpus, refiners, avatars, given, expected):
    assert shares(gpus=gpus, refiners=refiners, avatars=avatars, **given) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "auto", "refine_gpus": 1.5}, "distributed.refine_gpus=1.5: give a fraction"),
        ({"device": "auto", "reconstruct_gpus": -0.5}, "distributed.reconstruct_gpus=-0.5"),
        ({"device": "cpu", "refine_gpus": 1}, "contradict"),
        ({"device": "cuda", "refine_gpus": 1}, "no GPU"),
    ],
)
def test_impossible_shares_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        plan(gpus=0, refiners=1, avatars=1, **arguments)


def test_on_a_labelled_cluster_every_actor_has_its_nodes_and_a_way_out():
    placement = plan(device="auto", gpus=2, refiners=1, avatars=4, labels=[HEAD, REFINE, RECON])
    assert placement.refinement["label_selector"] == {"role": "refine"}
    assert placement.reconstruction["label_selector"] == {"role": "recon", "market": "!spot"}
    assert placement.service["label_selector"] == {"role": "head"}
    for options in (placement.refinement, placement.reconstruction, placement.service):
        assert options["fallback_strategy"][-1] == {"label_selector": {}}
    assert {"label_selector": {"market": "!spot"}} in placement.service["fallback_strategy"]
    assert {"label_selector": {"market": "!spot"}} in placement.reconstruction["fallback_strategy"]


def test_wishes_are_known_before_the_nodes_that_meet_them_are_started():
    placement = plan(device="auto", gpus=0, refiners=1, avatars=4, labels=[HEAD], refine_gpus=1, reconstruct_gpus=0.25)
    assert placement.refinement["label_selector"] == {"role": "refine"}
    assert placement.reconstruction["label_selector"] == {"role": "recon", "market": "!spot"}


def preferred(options, nodes):
    """Indices of the nodes that Ray tries first: those that meet the first selector which any node meets."""
    chain = [options.get("label_selector", {}), *(f["label_selector"] for f in options.get("fallback_strategy", []))]
    for selector in chain:
        met = [
            index
            for index, node in enumerate(nodes)
            if all((node.get(k) != v[1:]) if v[0] == "!" else node.get(k) == v for k, v in selector.items())
        ]
        if met:
            return met
    return []


@given(
    st.lists(st.sampled_from([{}, HEAD, REFINE, RECON, {"market": "spot"}, {**RECON, "market": "spot"}]), min_size=1)
)
def test_no_service_is_on_a_spot_machine_if_there_is_another(nodes):
    placement = plan(device="cpu", gpus=0, refiners=1, avatars=1, labels=nodes)
    steady = {index for index, node in enumerate(nodes) if node.get("market") != "spot"}
    first = preferred(placement.service, nodes)
    assert set(first) <= (steady or set(range(len(nodes))))
    assert first
    if any(node == RECON for node in nodes):
        assert all(nodes[index] == RECON for index in preferred(placement.reconstruction, nodes))


def test_unlabelled_machines_need_no_selector():
    placement = plan(device="auto", gpus=4, refiners=1, avatars=1, labels=[{}, {"ray.io/node-id": "a"}])
    for options in (placement.refinement, placement.reconstruction, placement.service):
        assert "label_selector" not in options


def test_what_fits_lacks_nothing():
    assert shortfall(of(1, 0.25), [Room(16, 8), Room(16, 3)], 8, 12) is None
    assert shortfall(of(0, 0), [Room(5, 0)], 2, 3) is None
    assert shortfall(of(2, 0.5), [Room(8, 4)], 1, 4) is None


@pytest.mark.parametrize(
    ("placement", "nodes", "free", "message"),
    [
        (
            of(1, 0.25),
            [Room(64, 2)],
            False,
            "asked for 8 refiners with 1 GPU each and 12 trainers with 0.25 GPU each, which needs 11 GPUs; the cluster "
            "has 2: lower distributed.refiners or batch.at_once, or add nodes",
        ),
        (
            of(1, 0.25),
            [Room(8, 8), Room(8, 8)],
            False,
            "asked for 8 refiners with 1 GPU each and 12 trainers with 0.25 GPU each, which needs 20 CPUs; the cluster "
            "has 16: lower distributed.refiners or batch.at_once, or add nodes",
        ),
        (
            of(1, 0.25),
            [Room(64, 10.5)],
            True,
            "asked for 8 refiners with 1 GPU each and 12 trainers with 0.25 GPU each, which needs 11 GPUs; free in the "
            "cluster are 10.5: lower distributed.refiners or batch.at_once, wait for other jobs to end, or add nodes",
        ),
        (
            of(0, 0),
            [Room(4, 0)],
            False,
            "asked for 8 refiners with 1 CPU each and 12 trainers with 1 CPU each, which needs 20 CPUs; the cluster "
            "has 4: lower distributed.refiners or batch.at_once, or add nodes",
        ),
    ],
)
def test_what_is_missing_is_one_line(placement, nodes, free, message):
    assert shortfall(placement, nodes, 8, 12, free=free) == message


def test_room_in_the_wrong_pieces_is_named():
    apart = shortfall(of(1, 0.25), [Room(1, 0.5), Room(1, 0.5)], 1, 0)
    assert apart is not None
    assert "pieces that do not hold these actors" in apart
    assert "1 refiner with 1 GPU and 0 trainers" in apart
    assert shortfall(of(2, 0), [Room(4, 1), Room(4, 1)], 1, 0) is not None
    assert shortfall(of(0.25, 0.25), [Room(0, 4), Room(4, 0)], 1, 0) is not None


def fits_by_trying(pieces, cpus, actors):
    """Whether the actors fit, by trying every place of every actor."""
    if not actors:
        return True
    for node, index in itertools.product(range(len(pieces)), range(2)):
        if index < len(pieces[node]) and cpus[node] >= 1 and pieces[node][index] >= actors[0] - 1e-9:
            left = [list(node_pieces) for node_pieces in pieces]
            left[node][index] -= actors[0]
            if fits_by_trying(left, [c - (n == node) for n, c in enumerate(cpus)], actors[1:]):
                return True
    return False


@given(
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from([0.5, 0.25, 0.125]),
    st.integers(0, 2),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=3),
)
def test_room_is_judged_as_by_trying_everything(refine, reconstruct, refiners, avatars, nodes):
    """With shares that divide one another, and GPUs on machines with a CPU for each actor that fits there."""
    rooms = [Room(cpus + 8 * gpus, gpus) for cpus, gpus in nodes]
    actors = [refine] * refiners + [reconstruct] * avatars
    expected = fits_by_trying([[1.0] * gpus for _, gpus in nodes], [room.cpus for room in rooms], actors)
    assert (shortfall(of(refine, reconstruct), rooms, refiners, avatars) is None) == expected
