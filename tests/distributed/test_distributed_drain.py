"""Nodes that are taken away, and room on a cluster of several nodes: what Ray really tells."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zero1toa.distributed.drain import drain_node, draining_nodes, on_nodes, seconds_left
from zero1toa.distributed.placement import Placement, plan
from zero1toa.distributed.room import await_room, free_rooms, total_rooms
from zero1toa.distributed.session import process_token
from zero1toa.errors import ConfigError


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head and a spot machine. The short folder holds sockets, whose paths have to stay under 108 characters."""
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="z1ac-")
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(process_token())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, "labels": {"role": "head"}},
        )
        try:
            made.add_node(num_cpus=4, num_gpus=1, labels={"role": "refine", "market": "spot"})
            ray.init(address=made.address, log_to_driver=False)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_seconds_are_counted_from_now():
    assert seconds_left({"a": 12_500, "b": 0, "c": 4_000}, 10.0) == {"a": 2.5, "b": None, "c": 0.0}


@pytest.mark.slow
def test_room_is_found_or_waited_for_or_refused(cluster):
    placement = plan(
        device="auto", gpus=1, refiners=1, avatars=2, refine_gpus=0.5, reconstruct_gpus=0.25, labels=[{"role": "head"}]
    )
    assert sorted((room.cpus, room.gpus) for room in total_rooms()) == [(2, 0), (4, 1)]
    heard = []
    await_room(placement, 1, 2, 0, heard.append)
    assert heard == []
    with pytest.raises(ConfigError, match=r"which needs 2 GPUs; the cluster has 1: lower distributed.refiners"):
        await_room(placement, 3, 2, 0.5, heard.append)
    assert len(heard) == 1
    # What the refused request had reserved is free again.
    wait_until(lambda: sorted(room.gpus for room in free_rooms()) == [0, 1])

    # A machine that comes while it is waited for, as an autoscaler's does. Ray starts nodes in the main thread only.
    unlabelled = Placement(*({"num_cpus": 1, "num_gpus": share} for share in (0.5, 0.25)), {"num_cpus": 0})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(await_room, unlabelled, 3, 2, 120, heard.append)
        wait_until(lambda: len(heard) == 2)
        cluster.add_node(num_cpus=4, num_gpus=1)
        waiting.result()
    assert sum(room.gpus for room in total_rooms()) == 2


def test_a_drained_node_shows_and_its_actors_are_found_and_nothing_new_starts_there(cluster):
    import ray

    @ray.remote
    class Actor:
        def node(self):
            return ray.get_runtime_context().get_node_id()

        def work(self, started):
            ray.get(started.set.remote())
            time.sleep(600)

    @ray.remote
    class Flag:
        def set(self):
            return True

    spot = next(node["NodeID"] for node in ray.nodes() if node["Labels"].get("market") == "spot")
    wish = {"label_selector": {"role": "refine"}, "fallback_strategy": [{"label_selector": {}}], "num_cpus": 1}
    flag = Flag.options(num_cpus=0, label_selector={"role": "head"}).remote()
    leaving, staying = (
        Actor.options(**wish).remote(),
        Actor.options(num_cpus=0, label_selector={"role": "head"}).remote(),
    )
    assert ray.get(leaving.node.remote()) == spot
    assert ray.get(staying.node.remote()) != spot
    leaving.work.remote(flag)  # busy: it answers nobody until the end
    assert draining_nodes() == {}
    assert on_nodes([leaving, staying], draining_nodes()) == []

    drain_node(spot, 60, "test")
    wait_until(lambda: draining_nodes())
    assert list(draining_nodes()) == [spot]
    assert 0 < draining_nodes()[spot] <= 60
    assert on_nodes([leaving, staying], draining_nodes()) == [leaving]
    # The node table says nothing of it, so room is counted without the node.
    assert next(node for node in ray.nodes() if node["NodeID"] == spot)["Alive"]
    assert sum(room.cpus for room in total_rooms()) == sum(
        node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != spot
    )

    newcomer = Actor.options(**wish).remote()
    assert ray.get(newcomer.node.remote()) != spot
    # When nothing runs there any more, Ray ends the node.
    ray.kill(leaving)
    wait_until(lambda: not next(node for node in ray.nodes() if node["NodeID"] == spot)["Alive"])
    assert draining_nodes() == {}
