"""Speed and memory of training and rendering an avatar on a GPU, and speed of a tenth of the paper's schedule.

    python benchmarks/avatar_speed.py --output speed [--parts train lpips memory render paper] [--backbone aniportrait]

Nothing is downloaded: LPIPS and the animator have random weights of the real size, and the clips that are trained on
are the avatar's own renders with noise; speed does not depend on either. The avatar is the paper preset's, with ten
Gaussians on each triangle of the embedded head. Figures are printed beside their limits and written to
``avatar_speed.json``.

``--tiny --device cpu`` runs the parts on a CPU, to try the script itself.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from figures import Figures
from numpy.typing import NDArray
from PIL import Image
from random_animator import NAMES, random_backbone
from skimage import data
from torch.nn import functional

from zero1toa.avatar import losses
from zero1toa.avatar.lpips_half import HalfPrecisionLpips
from zero1toa.avatar.perceptual import Perceptual, accelerated, lpips_network
from zero1toa.config import Config, load
from zero1toa.diffusion.registry import register
from zero1toa.errors import AssetError
from zero1toa.evaluation.live import LivePlayer
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.head.protocol import HeadModel
from zero1toa.head.registry import load_head
from zero1toa.planning.prediction import plan_run
from zero1toa.portrait.landmarks import detect_landmarks
from zero1toa.render.cameras import intrinsics, orbit, project
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.symgen.reconstruct import Reconstruction
from zero1toa.types import Portrait, SampleKey

PARTS = ("train", "lpips", "memory", "render", "paper")
LIMITS = {
    "training steps/s, 512²": ">= 25",
    "one by one, 512²": ">= 1500",
    "batched, 512²": ">= 4000",
    "whole schedule, extrapolated": "<= 20",
}
GAINS = (1.0, 1.5, 2.2)
"""Factors on VGG's random weights, with which features reach 20, thousands and more than float16 holds."""
SHARE = 10  # of the paper's schedule, a tenth


class Bench(Figures):
    """Measures, prints and keeps figures.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sizes = (64,) if options.tiny else (512, 1024)
        self.head = load_head("canonical")
        self.portrait = flat_portrait(self.head, self.sizes[0])
        super().__init__(torch.device(options.device), options.output / "avatar_speed.json", 44)

    def seconds(self, call: Callable[[], object], repeats: int, warm: int) -> float:
        """Median over three rounds of the time of a call, by the clock, the device idle before and after."""
        repeats, warm = (1, 1) if self.options.tiny else (repeats, warm)
        for _ in range(warm):
            call()
        rounds = []
        for _ in range(3):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            self.synchronize()
            rounds.append((time.perf_counter() - began) / repeats)
        return statistics.median(rounds)

    def config(self, *overrides: str) -> Config:
        """The paper preset on this device."""
        tiny = ["avatar.gaussians_per_triangle=1", "curriculum.spatial_clips=1"] if self.options.tiny else []
        given = ["preset=paper", f"device={self.device.type}", "loss.perceptual_kind=none", *tiny, *overrides]
        return load(given)


def flat_portrait(head: HeadModel, size: int) -> Portrait:
    """A grey square that is fitted by definition."""
    arkit = coefficients({})
    params = head.arkit(arkit, head.neutral())
    viewmat, K = orbit(8.0, 2.0, 0.8, head.center), intrinsics(24.0, size)
    points, _ = project(head.landmarks.positions(head.vertices(params), head.faces), viewmat, K)
    image = np.full((size, size, 4), (200, 160, 140, 255), np.uint8)
    return Portrait(
        image=image,
        landmarks=points.numpy().astype(np.float32),
        viewmat=viewmat.numpy(),
        K=K.numpy(),
        params=params,
        arkit=arkit.numpy(),
        residual=0.0,
        yaw=-8.0,
    )


def random_perceptual(device: torch.device) -> Perceptual:
    """LPIPS with random weights."""
    perceptual = Perceptual("none")
    perceptual.kind, perceptual.network = "lpips", accelerated(lpips_network(None), device)
    return perceptual


def noisy(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures with coarse noise, so that there is something to learn."""
    coarse = rng.integers(0, 60, (len(pictures), *(side // 8 for side in pictures.shape[1:3]), 3), np.uint8)
    return pictures // 2 + coarse.repeat(8, 1).repeat(8, 2)


def trainer_with_clips(bench: Bench, perceptual: Perceptual, *overrides: str) -> Reconstruction:
    """A trainer that has the first two clips of its dataset, which are its own renders with noise."""
    clips: dict[SampleKey, NDArray[np.uint8]] = {}
    with patch.object(losses, "Perceptual", lambda *_: perceptual):
        trainer = Reconstruction(
            bench.portrait, bench.config("density.every=0", *overrides), bench.head, avatar_id="bench",
            fetch=lambda key, _: (clips[key], len(clips[key])), device=bench.device,
        )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(2):
        request = trainer.request()
        assert request is not None
        clips[request.key] = noisy(request.frames, rng)
        trainer._install(request.key, 1)
    return trainer


def train(bench: Bench) -> None:
    """Steps a second on 8 frames of one clip: pose, rig, render, L1 and LPIPS, backward, Adam."""
    terms = {"without LPIPS, ": Perceptual("none"), "": random_perceptual(bench.device)}
    for size in bench.sizes:
        for label, term in terms.items():
            trainer = trainer_with_clips(bench, term, f"render.size={size}")
            seconds = bench.seconds(trainer.step, repeats=30, warm=10)
            name = f"training steps/s, {label}{size}²"
            bench.note(name, 1 / seconds, "1/s", LIMITS.get(name, ""))
        bench.note(f"Gaussians in training, {size}²", len(trainer.gaussians), "")
        if bench.cuda:
            bench.note(f"peak memory since the start, {size}²", torch.cuda.max_memory_allocated() / 1e9, "GB")


def lpips(bench: Bench) -> None:
    """How far LPIPS' gradient turns from float32's by precision and the weights' size, and how long it takes."""
    size = bench.sizes[0]
    coarse = torch.rand(8, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0)).to(bench.device)
    renders = functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1) * 2 - 1
    targets = (renders + 0.1 * torch.randn(renders.shape, device=bench.device)).clamp(-1, 1)

    def gradient(term: Callable[..., Any]) -> torch.Tensor:
        leaf = renders.clone().requires_grad_()
        term(leaf, targets).mean().backward()
        assert leaf.grad is not None
        return leaf.grad.double().flatten()

    for gain in GAINS:
        network = lpips_network(None).to(bench.device)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3):
                torch.nn.init.kaiming_normal_(layer.weight)
                layer.weight.mul_(gain)
        largest = max(float(x.abs().max()) for x in network.net(network.scaling_layer(renders)))
        with torch.backends.cudnn.flags(allow_tf32=False):
            exact = gradient(network)
        terms = {
            "as torch runs it": network,
            "float16 and bfloat16": HalfPrecisionLpips(network, compiled=False),
            "bfloat16": HalfPrecisionLpips(network, torch.bfloat16, torch.bfloat16, compiled=False),
        }
        for name, term in terms.items():
            found = gradient(term)
            angle = torch.rad2deg(torch.arccos((found @ exact / found.norm() / exact.norm()).clamp(-1, 1)))
            bench.note(f"features up to {largest:.0f}, {name}, gradient turns by", float(angle), "degrees")
    network = lpips_network(None)
    for name, term in (("as the package is", network.to(bench.device)), ("", accelerated(network, bench.device))):
        seconds = bench.seconds(lambda term=term: gradient(term), repeats=20, warm=4)
        bench.note(f"LPIPS with its gradient, {name or 'as trained with'}, {size}²", 1000 * seconds, "ms")


def memory(bench: Bench) -> None:
    """Peak of training's allocated memory, its dataset and what LPIPS keeps of it left out, over several sizes."""
    terms = {"structure": Perceptual("structure"), "lpips": random_perceptual(bench.device)}
    size = bench.sizes[0]
    for kind, (side, frames, count) in itertools.product(
        ("structure", "lpips"), ((size, 8, 10), (2 * size, 8, 10), (size, 2, 10), (size, 8, 3))
    ):
        gc.collect()
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        overrides = (f"render.size={side}", f"loop.batch_frames={frames}", f"avatar.gaussians_per_triangle={count}")
        trainer = trainer_with_clips(bench, terms[kind], *overrides)
        for _ in range(4 if kind == "lpips" else 0):
            trainer.step()  # compiles; what that needs for a moment is no part of training
        if bench.cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(4):
            trainer.step()
        name = f"{kind}, {side}², {frames} frames, {len(trainer.gaussians)} Gaussians"
        if bench.cuda:
            dataset = trainer._features.nbytes + sum(pictures.nbytes for pictures in trainer._clips.values())
            bench.note(name, (torch.cuda.max_memory_allocated() - before - dataset) / 1e9, "GB")
        del trainer


def render(bench: Bench) -> None:
    """Pictures a second with skinning: every picture has a pose and a camera of its own."""
    trainer = Reconstruction(
        bench.portrait, bench.config("density.every=0"), bench.head, avatar_id="bench", fetch=_nothing,
        device=bench.device,
    )  # fmt: skip
    player = AvatarPlayer(trainer.bundle(), bench.head, bench.device)
    frames = 64
    arkit = torch.rand(frames, len(ARKIT_NAMES), generator=torch.Generator().manual_seed(0)).to(bench.device) / 2
    azimuths = np.linspace(-40, 40, frames, dtype=np.float32)
    for size in bench.sizes:
        viewmats, Ks = player.cameras(azimuths, 0.0, size, frames)
        seconds = bench.seconds(lambda s=size: player.render(arkit.cpu(), azimuths, 0.0, s), repeats=1, warm=1)
        bench.note(f"player, pictures brought to the host, {size}²", frames / seconds, "1/s")
        if not bench.cuda:
            continue
        live = LivePlayer(player, size)
        for name, batch in (("one by one", 1), ("batched", 32)):

            def play(live: LivePlayer = live, v: Any = viewmats, K: Any = Ks, batch: int = batch) -> None:
                for start in range(0, frames, batch):
                    part = slice(start, start + batch)
                    live(arkit[part], v[part], K[part])

            began = time.perf_counter()
            play()
            bench.note(f"first call, {name}, {size}²", time.perf_counter() - began, "s")
            name = f"{name}, {size}²"
            bench.note(name, frames / bench.seconds(play, repeats=3, warm=2), "1/s", LIMITS.get(name, ""))


def paper(bench: Bench) -> None:
    """A tenth of the paper's schedule end to end, everything in one process, after what is compiled once."""
    name = bench.options.backbone
    backbone = random_backbone(name, bench.options.tiny, bench.device, torch.bfloat16 if bench.cuda else torch.float32,
                               compiled=bench.cuda)  # fmt: skip
    register("random", lambda device, dtype: backbone)
    perceptual = random_perceptual(bench.device)
    full = bench.config()
    short = {
        "loop.iterations": full.loop.iterations // SHARE,
        "curriculum.temporal_start": full.curriculum.temporal_start // SHARE,
        "curriculum.real_start": full.curriculum.real_start // SHARE,
        "curriculum.unlock_interval": full.curriculum.unlock_interval // SHARE,
        # Random weights lead nowhere: growing after their gradients would tell nothing about a run with real ones.
        "density.every": 0,
        "diffusion.backbone": "random",
        # They lead to no faces either, in which landmarks could be found; how long that takes is measured below.
        "diffusion.landmarks": "project",
    }
    overrides = [f"{key}={value}" for key, value in short.items()]
    if bench.options.tiny:
        overrides += ["loop.iterations=4", "loop.update_interval=2", "diffusion.steps=2", "render.size=64"]
    started: list[float] = []

    def progress(event: ProgressEvent) -> None:
        if event.kind == "started":
            started.append(time.perf_counter())

    with patch.object(losses, "Perceptual", lambda *_: perceptual), tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        warm = bench.config(*overrides, "loop.iterations=2", "loop.update_interval=1")
        generate_serial(bench.portrait, warm, Path(folder) / "warm", head=bench.head)
        bench.note("compiling and recording, once a machine", time.perf_counter() - began, "s")
        began = time.perf_counter()
        config = bench.config(*overrides)
        result = generate_serial(bench.portrait, config, Path(folder) / "run", progress, bench.head)
        ended = time.perf_counter()
    setup, loop = started[0] - began, ended - started[0]
    bench.note("first avatar and clips", setup, "s")
    bench.note("a tenth of the schedule", loop / 60, "min")
    bench.note("iterations in it", result.iterations, "")
    bench.note("refinements in it", result.refined, "")
    for phase, spent in sorted(result.timings.items(), key=lambda item: -item[1]):
        bench.note(f"  of it {phase}", spent, "s")
    bench.note("  of it the rest, mostly writing the dataset", loop - sum(result.timings.values()), "s")
    bench.note("whole schedule, landmarks projected, extrapolated", (setup + SHARE * loop) / 60, "min")
    detection = detection_seconds(bench, full)
    if detection is None:
        print("MediaPipe is not installed here: how long it takes to find landmarks in renders is not measured")
    else:
        bench.note("finding landmarks in a clip", 1000 * detection, "ms")
        whole = "whole schedule, extrapolated"
        bench.note(whole, (setup + SHARE * (loop + result.refined * detection)) / 60, "min", LIMITS[whole])
    real = ("loss.perceptual_kind=lpips", f"diffusion.backbone={name}", "diffusion.landmarks=project")
    plan = plan_run(bench.config(*real), bench.head)
    known = [part for part in (plan.refinement_seconds, plan.training_seconds) if part is not None]
    bench.note("whole schedule, as zero1toa plan predicts", sum(known) / 60, "min")


def detection_seconds(bench: Bench, config: Config) -> float | None:
    """Time of finding landmarks in a clip that shows a face; None without MediaPipe."""
    size = config.render.size
    face = np.asarray(Image.fromarray(data.astronaut()[:256, 96:352]).resize((size, size)))
    clip = np.repeat(face[None], config.curriculum.frames, 0)
    try:
        found = detect_landmarks(clip).valid.all()
    except AssetError:
        return None
    assert found
    return bench.seconds(lambda: detect_landmarks(clip), repeats=10, warm=2)


def _nothing(key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
    raise AssertionError(f"nothing was committed for {key}")


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of avatar_speed.json")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--backbone", choices=NAMES, default=NAMES[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU runs")
    bench = Bench(parser.parse_args())
    print(f"{bench.record['device']}, torch {torch.__version__}, {bench.record['date']}")
    for part in bench.options.parts:
        {"train": train, "lpips": lpips, "memory": memory, "render": render, "paper": paper}[part](bench)


if __name__ == "__main__":
    main()
