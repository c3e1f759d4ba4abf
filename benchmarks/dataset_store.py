"""How long a commit of a refined clip takes, and what compression would cost.

    python benchmarks/dataset_store.py [--size 512] [--frames 16] [--folder .]

The clip is a photo with fine noise on white, so that it compresses about as pictures of an avatar do. Times are medians
of five; files are flushed to the disk, as the store does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import data, transform

from zero1toa.storage import Storage
from zero1toa.symgen.store import SymGENStore
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

KEY = SampleKey("spatial", "jawOpen-00")
REPEATS = 5


def pictures(frames: int, size: int, seed: int) -> NDArray[np.uint8]:
    """A photo in the middle of white, with noise of its own in each frame."""
    rng = np.random.default_rng(seed)
    photo = transform.resize(data.astronaut(), (size * 3 // 4, size * 3 // 4), preserve_range=True)
    noisy = photo + rng.integers(-2, 3, (frames, *photo.shape))
    clip = np.full((frames, size, size, 3), 255, np.uint8)
    edge = size // 8
    clip[:, edge : edge + len(photo), edge : edge + len(photo)] = noisy.clip(0, 255)
    return clip


def timed(call: Callable[[int], Any]) -> float:
    """Median time of a call, which is told how often it was made before."""
    times = []
    for attempt in range(REPEATS):
        began = time.perf_counter()
        call(attempt)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    options = parser.parse_args()
    render, refined = (pictures(options.frames, options.size, seed) for seed in range(2))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = SymGENStore(Path(folder) / "store", "bench")
        landmarks = LandmarkTrack(
            np.zeros((options.frames, 478, 2), np.float32),
            np.ones(options.frames, bool),
            np.zeros(options.frames, bool),
        )

        def commit(version: int) -> None:
            request = RefineRequest("bench", KEY, version, version, 0, render, landmarks, 1, "fake", version)
            assert store.commit(request, refined, {}).status == "committed"

        def compress(_: int) -> None:
            Storage(folder).write("packed.npz", lambda file: np.savez_compressed(file, frames=refined, render=render))

        stored, deflated = timed(commit), timed(compress)
        written = (*sorted(Path(folder, "store").rglob("00001.npz")), Path(folder) / "packed.npz")
        sizes = [path.stat().st_size / 1e6 for path in written]
        print(f"commit                {stored:8.3f} s {sizes[0]:8.1f} MB")
        print(f"compressed, the same  {deflated:8.3f} s {sizes[1]:8.1f} MB   {deflated / stored:.1f} times as long")
        print(f"load a clip           {timed(lambda _: store.load(KEY, 1)):8.3f} s")


if __name__ == "__main__":
    main()
