"""What processes that compete for one machine do, in a module of its own that a new process loads in no time."""

import os
import signal
from pathlib import Path

from zero1toa.distributed.node import fetch_weights
from zero1toa.distributed.once import once
from zero1toa.storage import Storage

VERSIONS = {"torch": "1"}


def note(folder: Path, word: str) -> None:
    with (folder / "log").open("a") as file:
        file.write(f"{word}\n")


def compete(folder, barrier, answers):
    def build():
        note(folder, "build")
        (folder / "product").write_text("x")
        return [folder / "product"]

    barrier.wait()
    answers.put(once(folder, "thing", VERSIONS, build))


def build_for_ever(folder, begun):
    def build():
        note(folder, "build")
        (folder / "product").write_text("half")
        begun.set()
        signal.pause()
        return []

    once(folder, "thing", VERSIONS, build)


def fetch_beside(url, home, barrier, counts):
    os.environ["ZERO1TOA_HOME"] = str(home)
    barrier.wait()
    counts.put(len(fetch_weights(Storage(url))))
