"""Time and memory of making an avatar from a photo, and where they go.

    python benchmarks/preview.py [--photo sample:astronaut] [--serial] [key=value ...]

Runs ``zero1toa generate`` as a user would, in a temporary folder, and samples the memory of all its processes (the
unique set size, so that shared pages count once). Goals of the preset ``preview`` on two quiet CPU cores: 6 minutes and
6 GB. Exits with 1 if a goal or a promise about the avatar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MAX_SECONDS, MAX_BYTES = 360, 6e9
_SAMPLE_SECONDS = 1.0


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", default="sample:astronaut")
    parser.add_argument("--serial", action="store_true", help="without Ray")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "avatar"
        command = [sys.executable, "-m", "zero1toa.cli", "generate", options.photo, "--output", str(output)]
        started = time.perf_counter()
        process = subprocess.Popen([*command, *(["--serial"] if options.serial else []), *options.overrides])
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        seconds = time.perf_counter() - started
        if process.returncode:
            return process.returncode
        about = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"\n{seconds:.0f} s from start to end (goal {MAX_SECONDS}), {peak / 1e9:.1f} GB (goal {MAX_BYTES / 1e9:g})")
    for phase, value in sorted(about["timings"].items(), key=lambda item: -item[1]):
        print(f"  {phase:<12} {value:7.1f} s")
    for name, value in about["figures"].items():
        print(f"  {name:<18} {value if isinstance(value, bool) else format(value, '.3f')}")
    missed = [name for name, kept in about["checks"].items() if not kept]
    for name in missed:
        print(f"  not kept: {name}")
    return int(seconds > MAX_SECONDS or peak > MAX_BYTES or bool(missed))


def tree_bytes(pid: int) -> float:
    """Memory of a process and all that it started, Ray's daemons included, in bytes."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for process in processes:
        try:
            total += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
