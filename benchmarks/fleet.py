"""What the batch system itself costs: dispatcher, store, and a rehearsed fleet that sleeps instead of computing.

``python benchmarks/fleet.py [--parts dispatcher store busy linear simulation]`` prints each figure beside its goal.
Nothing else may run on the machine. The rehearsal uses the real dispatcher, stores and actors on a private Ray.
Beside what dispatcher and store do through Ray stands what Ray does with the same calls to an actor that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.records import DatasetRef, Order, Refined
from zero1toa.distributed.rehearsal import Rehearsal, in_threads, rehearse, simulated
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.simulation.simulate import simulate
from zero1toa.distributed.store_actor import start_stores
from zero1toa.storage import Storage
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import Reference, SymGENStore
from zero1toa.types import LandmarkTrack, Receipt, RefineRequest, SampleKey

CYCLES = 4000
COMMITS = 1500
KILLS = 5
CLIPS = 50
"""Clips of an avatar, which take turns: commits are mostly new versions, as in a real dataset."""
KEY = SampleKey("spatial", "clip")


def order(number: int, avatar: str) -> Order:
    """A request without pictures."""
    dataset = DatasetRef(avatar, Storage("unused"), StalenessPolicy(1))
    return Order(f"{avatar}-{number}", dataset, (16, 512, 512, 3), (None,))


def receipt(one: Order) -> Receipt:
    """The answer to a request."""
    return Receipt(one.request_id, KEY, 1, 1, "committed")


def dispatcher_alone(cycles: int) -> float:
    """Cycles a second of submitting, leasing, committing and answering, in one process."""

    async def scenario() -> float:
        dispatcher = Dispatcher()
        start = time.perf_counter()
        for number in range(cycles):
            one = order(number, "ada")
            asking = asyncio.create_task(dispatcher.ask("ada", [one], [one.request_id], 10))
            turn = await dispatcher.next("w", (), 10)
            await dispatcher.done("ada", receipt(turn.orders[0]))
            await asking
        return cycles / (time.perf_counter() - start)

    return asyncio.run(scenario())


def dispatcher_on_ray(cycles: int, pairs: int = 8) -> float:
    """The same through Ray calls, with as many avatars and workers at a time, awaited by one thread."""
    import ray

    dispatcher: Any = ray.remote(Dispatcher).options(num_cpus=0).remote()
    ray.get(dispatcher.load.remote())

    async def avatar(number: int) -> None:
        for cycle in range(cycles // pairs):
            one = order(cycle, f"a{number}")
            answers, _ = await dispatcher.ask.remote(one.avatar, [one], [one.request_id], 10)
            assert answers

    async def worker(number: int) -> None:
        for _ in range(cycles // pairs):
            turn = await dispatcher.next.remote(f"w{number}", (), 30)
            await dispatcher.done.remote(turn.orders[0].avatar, receipt(turn.orders[0]))

    rate = _awaited(cycles, [call(number) for call in (avatar, worker) for number in range(pairs)])
    ray.kill(dispatcher)
    return rate


class Nothing:
    """An actor that does nothing, to see what its calls cost."""

    async def call(self, *arguments: object) -> None:
        """Take arguments of any kind."""


class NothingInThreads:
    """The same without asyncio."""

    def call(self, *arguments: object) -> None:
        """Take arguments of any kind."""


def three_empty_calls(cycles: int, pairs: int = 8) -> float:
    """Cycles a second of three calls that carry what the dispatcher's do, awaited alike."""
    import ray

    actor: Any = ray.remote(Nothing).options(num_cpus=0).remote()
    ray.get(actor.call.remote())

    async def avatar(number: int) -> None:
        for cycle in range(cycles // pairs):
            one = order(cycle, f"a{number}")
            await actor.call.remote(one.avatar, [one], [one.request_id], 10)

    async def worker(number: int) -> None:
        for cycle in range(cycles // pairs):
            await actor.call.remote(f"w{number}", (), 30)
            await actor.call.remote(f"a{number}", receipt(order(cycle, f"a{number}")))

    rate = _awaited(cycles, [call(number) for call in (avatar, worker) for number in range(pairs)])
    ray.kill(actor)
    return rate


def _awaited(count: int, calls: Sequence[Coroutine[Any, Any, None]]) -> float:
    """``count`` over the seconds that these coroutines take together."""

    async def together() -> float:
        start = time.perf_counter()
        await asyncio.gather(*calls)
        return count / (time.perf_counter() - start)

    return asyncio.run(together())


def _rate(count: int, calls: Sequence[tuple[Callable[[int], None], int]]) -> float:
    """``count`` over the seconds that these calls take at the same time."""
    start = time.perf_counter()
    in_threads(lambda one: one[0](one[1]), calls)
    return count / (time.perf_counter() - start)


def request(avatar: str, number: int) -> RefineRequest:
    """A request whose clip and render have half a mebibyte each: 1 MiB to commit."""
    frames = np.random.default_rng(number).integers(0, 256, (2, 296, 296, 3), np.uint8)
    track = LandmarkTrack(np.zeros((2, 478, 2), np.float32), np.ones(2, bool), np.zeros(2, bool))
    return RefineRequest(avatar, KEY, 0, 0, 0, frames, track, 1, "none", number)


def nth(like: RefineRequest, avatar: str, number: int) -> RefineRequest:
    """The same pictures as an avatar's commit of this number."""
    key, version = SampleKey("spatial", f"clip-{number % CLIPS}"), number // CLIPS
    return dataclasses.replace(like, avatar=avatar, key=key, base_version=version, seed=number)


def files_alone(folder: Path, commits: int) -> float:
    """The files of a commit a second, written and flushed by the shortest way, one after the other."""
    pictures, record = np.random.default_rng(0).bytes(1 << 20), bytes(300)

    def client(_: int) -> None:
        for number in range(commits):
            for name, content in (("pictures", pictures), ("record", record)):
                with (folder / f"{name}-{number}.tmp").open("xb", buffering=0) as file:
                    file.write(content)
                    os.fsync(file.fileno())
                os.replace(file.name, folder / f"{name}-{number}")

    folder.mkdir()
    return _rate(commits, [(client, 0)])


def store_alone(folder: Path, commits: int) -> float:
    """Commits a second of a store in this process."""
    store = SymGENStore(Storage(folder), "alone")
    made = [request(store.avatar, number) for number in range(32)]

    def client(_: int) -> None:
        for number in range(commits):
            one = nth(made[number % len(made)], store.avatar, number)
            assert store.commit(one, one.frames, {}).status == "committed"

    return _rate(commits, [(client, 0)])


def mebibytes_handed_over(calls: int, clients: int = 4) -> float:
    """Calls a second of an actor that is handed what is to be committed and does nothing with it."""
    import ray

    actor: Any = ray.remote(NothingInThreads).options(num_cpus=0, max_concurrency=8).remote()
    made = [request("made beforehand", number) for number in range(32)]
    ray.get(actor.call.remote())

    def client(_: int) -> None:
        for number in range(calls // clients):
            one = made[number % len(made)]
            ray.get(actor.call.remote(Refined(one, one.frames, {})))

    rate = _rate(calls, [(client, number) for number in range(clients)])
    ray.kill(actor)
    return rate


def store_commits(folder: Path, commits: int, kills: int, clients: int = 4) -> tuple[float, int]:
    """Commits a second through a store actor that is killed now and then, and how many of them are lost."""
    import ray

    (store,) = start_stores("none", clients, {"num_cpus": 0})
    datasets = []
    for number in range(clients):
        root = Storage(folder / f"a{number}")
        SymGENStore(root, root.name).put_reference(
            Reference(np.zeros((8, 8, 4), np.uint8), np.zeros((478, 2), np.float32))
        )
        datasets.append(DatasetRef(root.name, root, StalenessPolicy(1)))
    made = [request("made beforehand", number) for number in range(32)]
    ray.get(store.observe.remote(datasets[0], 0, 0))
    done, lock = [0], threading.Lock()
    strikes = [commits * (number + 1) // (kills + 1) for number in range(kills)]

    def client(dataset: DatasetRef) -> None:
        for number in range(commits // clients):
            one = nth(made[number % len(made)], dataset.avatar, number)
            answer = ray.get(store.commit.remote(dataset, Refined(one, one.frames, {})))
            assert answer.status in ("committed", "duplicate")
            with lock:
                done[0] += 1
                strike = bool(strikes) and done[0] >= strikes[0]
                if strike:
                    strikes.pop(0)
            if strike:
                os.kill(_process_of("ray::StoreActor"), signal.SIGKILL)

    start = time.perf_counter()
    in_threads(client, datasets)
    seconds = time.perf_counter() - start
    ray.kill(store)
    kept = 0
    for dataset in datasets:
        opened = SymGENStore(dataset.root, dataset.avatar)
        for record in opened.records():
            assert opened.load(record.key, record.version).shape == made[0].frames.shape
            kept += 1
    return commits / seconds, commits // clients * clients - kept


def _process_of(title: str) -> int:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_text().startswith(title):
                return int(folder.name)
        except OSError:
            continue
    raise RuntimeError(f"there is no process {title}")


def rehearsed(refiners: int, avatars: int) -> tuple[float, float, float]:
    """Share of time with a clip in hand, share spent refining, and clips a second, while all avatars are in work."""
    what = Rehearsal(refiners=refiners, avatars=avatars)
    with tempfile.TemporaryDirectory() as folder:
        out = rehearse(what, Storage(folder))
    return out.busy, out.steady * what.clip_seconds / refiners, out.steady


REHEARSALS = {
    "trainers wait": Rehearsal(refiners=2, avatars=2, updates=8, interval=5, iteration_seconds=0.3, clip_seconds=1.5),
    "refiners are busy": Rehearsal(
        refiners=2, avatars=4, updates=8, interval=5, iteration_seconds=0.15, clip_seconds=1.5
    ),
    "window 2": Rehearsal(
        refiners=2, avatars=2, updates=8, interval=5, iteration_seconds=0.3, clip_seconds=1.5, window=2, slack=1.0
    ),
}


def _share(rate: float, empty: float) -> str:
    return f"{rate / empty:.2f} of {empty:.0f}/s for the same calls to an actor that does nothing"


def measure_store(where: Path | None) -> None:
    """Print the store's rates. What they wrote is deleted when all are done.

    ext4 gives the inode of a deleted file to no other one for minutes, and looks for others one by one: after thousands
    of deletions that is a quarter of the store's time.
    """
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        plain = files_alone(folder / "plain", COMMITS)
        alone = store_alone(folder / "alone", COMMITS)
        told = f"{alone / plain:.2f} of {plain:.0f}/s for the same files without a store"
        print(f"store, in one process           {alone:8.0f} commits/s, {told}   goal 300", flush=True)
        empty = mebibytes_handed_over(COMMITS)
        for kills in (0, KILLS):
            rate, lost = store_commits(folder / f"kills-{kills}", COMMITS, kills)
            told = f"{lost} lost   goal 0" if kills else _share(rate, empty)
            print(f"store, {COMMITS} commits, {kills} kills     {rate:8.0f} commits/s, {told}", flush=True)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["dispatcher", "store", "busy", "linear", "simulation"])
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    if "dispatcher" in options.parts:
        print(f"dispatcher, in one process      {dispatcher_alone(CYCLES):8.0f} cycles/s   goal 500", flush=True)
    with ray_session(4):
        if "dispatcher" in options.parts:
            empty, rate = three_empty_calls(CYCLES), dispatcher_on_ray(CYCLES)
            print(f"dispatcher, through Ray         {rate:8.0f} cycles/s, {_share(rate, empty)}   goal 500", flush=True)
        if "store" in options.parts:
            measure_store(options.folder)
        if "busy" in options.parts:
            busy, refining, rate = rehearsed(8, 12)
            print(
                f"8 refiners, 12 avatars, W = 1   {100 * busy:8.1f} % of the time with a clip, {100 * refining:.1f} % "
                f"refining ({rate:.1f} clips/s)   goal 95 %",
                flush=True,
            )
        if "linear" in options.parts:
            _, _, one = rehearsed(1, 2)
            _, _, eight = rehearsed(8, 16)
            print(
                f"1 and 8 refiners                {one:8.2f} and {eight:.2f} clips/s: {eight / one / 8:.3f} of linear"
                "   goal 0.95",
                flush=True,
            )
        if "simulation" in options.parts:
            for name, what in REHEARSALS.items():
                with tempfile.TemporaryDirectory() as folder:
                    real, told = rehearse(what, Storage(folder)), simulate(simulated(what))
                print(
                    f"{name:32}{real.seconds:8.2f} s, simulated {told.makespan:.2f}: "
                    f"{real.seconds / told.makespan:.3f}; "
                    f"effective interval {real.effective_interval:.2f} and {told.effective_interval:.2f}   goal 5 %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
