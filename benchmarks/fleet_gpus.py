"""Avatars per hour on 1, 2, … GPUs of this machine, by the real fleet: refiners and trainers on a private Ray.

    python benchmarks/fleet_gpus.py --prepare portraits       # once, where MediaPipe is
    python benchmarks/fleet_gpus.py --portraits portraits --output fleet

Every measurement is a process of its own that sees some of the GPUs and as large a share of the cores. It runs avatars
of a shortened schedule (``--iterations``; the curriculum shrinks along, density control is off, landmarks are
projected) at window 1 and slack 0: on each GPU one refiner, and as many trainers as keep it busy. ``sd`` is the paper's
preset with Follow-Your-Emoji's networks and random weights, ``compact`` the standard preset with the shipped ones.

A window opens when every trainer has had two clips back, so that all is compiled and loaded, and closes when an
avatar's place falls idle or after ``--seconds``. Rates are least-squares slopes of clips and iterations over time in
the window; avatars per hour are iterations at that rate over the iterations of the whole schedule. The plain count of
the shortened avatars from start to end, start of all processes included, is in the JSON file where all ended in time.
GPU use is what nvidia-smi says once a second.

``--quick --device cpu`` tries the script itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from random_animator import RANDOM, register_random

from zero1toa.config import Config, load
from zero1toa.distributed.generate import run_on_ray
from zero1toa.distributed.limits import share_threads, thread_variables
from zero1toa.distributed.placement import Placement
from zero1toa.distributed.reconstruction import Outcome
from zero1toa.distributed.records import Job, Load
from zero1toa.media import write_text
from zero1toa.portrait.keeping import kept_portrait
from zero1toa.render.threads import available_cores
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent

WARM = 2  # clips that every avatar has had when the window opens
REFINER = 0.52  # of a GPU: more than half, so that no two refiners share one
STORE_BYTES = 2 * 2**30  # Ray's object store; a clip of 16 pictures at 512² is 13 MB
START_SECONDS = 180  # for processes to start, and to end


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured with one backbone.

    Attributes:
        values: configuration overrides.
        trainers: for each GPU, enough that its refiner, or where refinement is short the GPU, is seldom idle.
        iterations: of an avatar.
        waves: avatars that each trainer's place is given.
    """

    values: tuple[str, ...]
    trainers: int
    iterations: int
    waves: int


CASES = {
    "sd": Case(("preset=paper", f"diffusion.backbone={RANDOM}"), trainers=2, iterations=400, waves=1),
    "compact": Case(("preset=standard", "diffusion.backbone=compact"), trainers=4, iterations=1000, waves=3),
}
QUICK = (
    "preset=preview",
    "render.size=64",
    "diffusion.steps=2",
    "diffusion.strength=1.0",
    "avatar.gaussians_per_triangle=1",
    "curriculum.frames=2",
    "loop.update_interval=2",
)


class EnoughError(Exception):
    """Ends a run whose window has closed."""


class Measured:
    """Avatars, and what is heard of them; see :class:`zero1toa.distributed.coordinator.Work`.

    Args:
        jobs: all avatars.
        places: avatars in work at a time.
        seconds: longest window.
    """

    def __init__(self, jobs: Sequence[Job], places: int, seconds: float) -> None:
        self._ready = deque((str(index), job) for index, job in enumerate(jobs))
        self._left = len(jobs)
        self._places = places
        self._seconds = seconds
        self._clips: Counter[str] = Counter()
        self._iterations: Counter[str] = Counter()
        self._loads: list[tuple[float, Load]] = []
        self._heard: list[tuple[float, int, int]] = []  # time, iterations and clips of all avatars
        self.opened = self.closed = 0.0
        self.ended_at = 0.0
        self.clip_seconds: list[float] = []

    def placed(self, placement: Placement) -> None:
        """Nothing depends on it."""

    def take(self) -> tuple[str, Job] | None:
        """The next avatar."""
        return self._ready.popleft() if self._ready else None

    def more(self) -> bool:
        """Whether any was not taken."""
        return bool(self._ready)

    def references(self) -> Sequence[Any]:
        """All are ready."""
        return ()

    def begun(self, key: str) -> None:
        """Nothing depends on it."""

    def event(self, key: str, event: ProgressEvent) -> None:
        """Count clips and iterations."""
        if event.kind == "notice":
            print(f"  {event.avatar}: {event.message}", flush=True)
        if event.kind == "iteration":
            self._iterations[key] = event.iteration
        if event.kind == "answered":
            self._clips[key] += 1
            self.clip_seconds.append(sum(event.timings.values()))

    def ended(self, key: str, outcome: Outcome | Exception) -> None:
        """Count an avatar; one that failed ends the measurement."""
        if isinstance(outcome, Exception):
            raise outcome
        self._left -= 1
        self.ended_at = time.monotonic()

    def tick(self, load: Load | None) -> None:
        """Open and close the window."""
        now = time.monotonic()
        if load is not None and (not self._loads or load != self._loads[-1][1]):
            self._loads.append((now, load))
        warm = sum(clips >= WARM for clips in self._clips.values()) >= self._places
        if not self.opened and warm and load is not None:
            self.opened = now
            self.clip_seconds.clear()
        if self.opened and not self.closed:
            self._heard.append((now, sum(self._iterations.values()), sum(self._clips.values())))
            if self._left < self._places or now - self.opened >= self._seconds:
                self.closed = now
        if self.opened and now - self.opened >= self._seconds:
            raise EnoughError

    def rates(self) -> dict[str, float]:
        """Iterations and clips a second, the refiners' busy share, and the median seconds of a clip."""
        if len(self._heard) < 3:
            raise SystemExit("the window closed before anything was measured: give more --iterations")
        seconds, iterations, clips = (np.array(column, float) for column in zip(*self._heard, strict=True))
        inside = [load for when, load in self._loads if self.opened <= when <= self.closed]
        present = inside[-1].present - inside[0].present if inside else 0.0
        return {
            "window": self.closed - self.opened,
            "iterations": float(np.polyfit(seconds - seconds[0], iterations, 1)[0]),
            "clips": float(np.polyfit(seconds - seconds[0], clips, 1)[0]),
            "clips in window": clips[-1] - clips[0],
            "clip seconds": statistics.median(self.clip_seconds) if self.clip_seconds else 0.0,
            "refiners busy": (inside[-1].worked - inside[0].worked) / present if present else 0.0,
        }


class GpuUse:
    """What nvidia-smi says once a second of the GPUs that this process sees; nothing on a machine without."""

    def __init__(self, device: str) -> None:
        self.samples: list[tuple[float, str, float, float]] = []  # time, index, busy percent, MiB in use
        self._process: subprocess.Popen[str] | None = None
        if device == "cpu":
            return
        command = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        seen = os.environ["CUDA_VISIBLE_DEVICES"]
        self._process = subprocess.Popen([*command, f"--id={seen}", "--loop=1"], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            index, busy, memory = line.split(",")
            self.samples.append((time.monotonic(), index.strip(), float(busy), float(memory)))

    def between(self, begin: float, end: float) -> dict[str, dict[str, float]]:
        """Mean use and most memory of each GPU between two times; ends the sampling."""
        if self._process is not None:
            self._process.terminate()
        found = {}
        for index in sorted({index for _, index, _, _ in self.samples}):
            rows = [row[2:] for row in self.samples if row[1] == index and begin <= row[0] <= end]
            if rows:
                busy, memory = zip(*rows, strict=True)
                found[index] = {"percent": statistics.mean(busy), "GiB": max(memory) / 1024}
        return found


def configure(options: argparse.Namespace, name: str, gpus: int) -> tuple[Config, int]:
    """The configuration of a measurement, and the iterations of the schedule that it shortens."""
    case = CASES[name]
    given = [*case.values, *(QUICK if options.quick else ())]
    if options.quick:
        given = [value for value in given if value not in ("preset=paper", "preset=standard")]
        given += ["diffusion.options.tiny=true"] if name == "sd" else []
    whole = load(given)
    iterations = options.iterations or (24 if options.quick else case.iterations)
    part = iterations / whole.loop.iterations
    shrunk = {
        "curriculum.temporal_start": whole.curriculum.temporal_start,
        "curriculum.real_start": whole.curriculum.real_start,
        "curriculum.unlock_interval": whole.curriculum.unlock_interval,
    }
    given += [f"{key}={max(round(value * part), 1)}" for key, value in shrunk.items()]
    given += [f"loop.iterations={iterations}", "density.every=0", "diffusion.landmarks=project"]
    given += ["distributed.window=1", "distributed.slack=0.0", f"distributed.refiners={gpus}"]
    given += [f"device={options.device}"]
    if options.device != "cpu":
        share = int((1 - REFINER) / trainers_of(options, name) * 1e4) / 1e4
        given += [f"distributed.refine_gpus={REFINER}", f"distributed.reconstruct_gpus={share}"]
    return load([*given, *options.overrides]), whole.loop.iterations


def trainers_of(options: argparse.Namespace, name: str) -> int:
    """Trainers for each GPU."""
    return int(options.trainers or CASES[name].trainers)


def measure(options: argparse.Namespace, name: str, gpus: int) -> dict[str, Any]:
    """One measurement, in a process that sees the GPUs it is for."""
    import ray

    register_random()
    config, whole = configure(options, name, gpus)
    places = gpus * trainers_of(options, name)
    waves = 1 if options.quick else CASES[name].waves
    folders = sorted(path for path in options.portraits.iterdir() if path.is_dir())
    portraits = [portrait for folder in folders if (portrait := kept_portrait(Storage(folder))) is not None]
    if not portraits:
        raise SystemExit(f"{options.portraits} holds no portraits; make some with --prepare {options.portraits}")
    with tempfile.TemporaryDirectory(prefix="fleet-", dir=options.work) as folder:
        jobs = [
            Job(
                portraits[index % len(portraits)],
                Storage(Path(folder) / f"avatar-{index:03d}"),
                dataclasses.replace(config, seed=index),
            )
            for index in range(places * waves)
        ]
        work, use = Measured(jobs, places, options.seconds), GpuUse(options.device)
        began = time.monotonic()
        variables = thread_variables(share_threads(config.distributed.threads, gpus + places))
        # Not the fleet's own session, because every worker has to learn of the random backbone.
        ray.init(
            address="local",
            num_cpus=gpus + places,
            num_gpus=0 if options.device == "cpu" else gpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": variables, "worker_process_setup_hook": "random_animator.register_random"},
        )
        try:
            run_on_ray(work, config, avatars=places)
            finished = True
        except EnoughError:
            finished = False
        finally:
            ray.shutdown()
    rates = work.rates()
    figures: dict[str, Any] = {
        "backbone": name,
        "gpus": gpus,
        "refiners": gpus,
        "trainers": places,
        "cores": available_cores(),
        "iterations of an avatar": config.loop.iterations,
        "avatars per hour": rates["iterations"] / whole * 3600,
        "first clips after": work.opened - began,
        "start to end, shortened avatars per hour": len(jobs) / (work.ended_at - began) * 3600 if finished else None,
        **rates,
        "gpu": use.between(work.opened, work.closed),
    }
    return figures


def launch(options: argparse.Namespace, name: str, gpus: int, most: int) -> dict[str, Any] | None:
    """A measurement in a process of its own; None if it failed."""
    target = options.output / f"{name}-{gpus}.json"
    target.unlink(missing_ok=True)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    seen = devices[:gpus] if devices != [""] else [str(index) for index in range(gpus)]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Ray's workers inherit it all: GPUs, where the random backbone lies, and the share of the cores.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["CUDA_VISIBLE_DEVICES"] = "" if options.device == "cpu" else ",".join(seen)
    environment.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    environment.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: max(len(cores) * gpus // most, 1)]
    command = [sys.executable, __file__, *sys.argv[1:], "--backbones", name, "--gpus", str(gpus), "--alone"]
    process = subprocess.Popen(
        ["taskset", "--cpu-list", ",".join(map(str, cores)), *command], env=environment, start_new_session=True
    )
    try:
        process.wait(options.seconds + START_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{name} on {gpus}: no end after {options.seconds + START_SECONDS:.0f} s", flush=True)
    finally:
        if process.poll() is None:  # Ray's processes end when their driver is gone
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return json.loads(target.read_text(encoding="utf-8")) if target.is_file() else None


def table(results: Sequence[dict[str, Any]]) -> str:
    """Results as Markdown."""
    lines = [
        "| backbone | GPUs | refiners + trainers | avatars/h | ratio | clips/s | clip, s | refiners busy | GPU use | "
        "GPU memory, GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        first = next(one for one in results if one["backbone"] == result["backbone"])
        ratio = result["avatars per hour"] / first["avatars per hour"]
        use = ", ".join(f"{gpu['percent']:.0f} %" for gpu in result["gpu"].values()) or "-"
        memory = ", ".join(f"{gpu['GiB']:.1f}" for gpu in result["gpu"].values()) or "-"
        lines.append(
            f"| {result['backbone']} | {result['gpus']} | {result['refiners']} + {result['trainers']} "
            f"| {result['avatars per hour']:.2f} | {ratio:.2f} | {result['clips']:.2f} | {result['clip seconds']:.2f} "
            f"| {result['refiners busy']:.0%} | {use} | {memory} |"
        )
    return "\n".join(lines)


def prepare(folder: Path, count: int) -> None:
    """Photograph synthetic people and fit their heads; avatars share them when there are fewer."""
    from exact_pictures import portrait_of

    from zero1toa.evaluation.synthetic import held_out_subject
    from zero1toa.head.registry import load_head

    head = load_head("canonical")
    for index in range(count):
        portrait_of(held_out_subject(index, head), folder, load(["preset=paper"]).portrait, head)
        print(f"{index + 1} of {count}", flush=True)


def ready(device: str) -> None:
    """Compile what the GPUs need, in a process that leaves nothing on them."""
    code = (
        "import torch; from zero1toa.config import load; from zero1toa.distributed.node import prepare_node; "
        "prepare_node(load([]), torch.device('cuda', 0))"
    )
    if device != "cpu":
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        print(f"GPU extension ready after {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, help="make portraits in this folder, and nothing else")
    parser.add_argument("--count", type=int, default=2, help="portraits to make")
    parser.add_argument("--portraits", type=Path, default=Path("portraits"), help="folder that --prepare has filled")
    parser.add_argument("--output", type=Path, default=Path("fleet"), help="folder of the results")
    parser.add_argument(
        "--work", type=Path, help="where avatars are written meanwhile; the temporary folder if not given"
    )
    parser.add_argument("--backbones", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--gpus", nargs="+", type=int, help="numbers of GPUs; 1 and all if not given")
    parser.add_argument("--seconds", type=float, default=90.0, help="longest window")
    parser.add_argument("--trainers", type=int, default=0, help="for each GPU; 0 takes what suits the backbone")
    parser.add_argument("--iterations", type=int, default=0, help="of an avatar; 0 takes what suits the backbone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny pictures and networks")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--overrides", nargs="*", default=[], help="key=value configuration of every measurement")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.count)
        return
    if options.alone:
        name, gpus = options.backbones[0], options.gpus[0]
        figures = measure(options, name, gpus)
        write_text(options.output / f"{name}-{gpus}.json", json.dumps(figures, indent=1))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a measurement ends with its parent
    options.output.mkdir(parents=True, exist_ok=True)
    listed = (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout if options.device == "cuda" else ""
    )
    print(listed, flush=True)
    numbers = options.gpus or sorted({1, len(listed.splitlines()) or 2})
    ready(options.device)
    results = []
    for name in options.backbones:
        for gpus in numbers:
            began = time.monotonic()
            found = launch(options, name, gpus, max(numbers))
            print(f"{name} on {gpus}: {time.monotonic() - began:.0f} s", flush=True)
            if found is not None:
                results.append(found)
                write_text(
                    options.output / "fleet_gpus.json", json.dumps({"machine": listed, "results": results}, indent=1)
                )
                print(table(results), flush=True)
    if len(results) < len(options.backbones) * len(numbers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
