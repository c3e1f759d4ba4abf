"""Batches so small that tests can kill their processes: a photo's bytes, a portrait made beforehand, seconds each."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))

from tiny import tiny_config, tiny_portrait

from zero1toa.batch.job_file import AVATARS
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.records import Entry
from zero1toa.config import Config
from zero1toa.distributed.preparation import made_of
from zero1toa.portrait.keeping import keep_portrait
from zero1toa.storage import Storage
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.store import SymGENStore

CHECKPOINT_EVERY = 4
CLIPS = 6  # of every avatar: twelve iterations, one clip for two of them


def photo(number: int) -> bytes:
    """A photo of a face, different for each number."""
    from skimage import data

    pixels = np.array(data.astronaut()[:256, 96:352])
    pixels[0, 0] = number
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def fleet(folder: Path, output: Storage, count: int, *overrides: str) -> list[tuple[Entry, Config]]:
    """Portraits of a batch whose heads are fitted already, as an earlier job would have left them."""
    config = tiny_config(f"loop.checkpoint_every={CHECKPOINT_EVERY}", "tracking.wandb=disabled", *overrides)
    entries = []
    for number in range(count):
        data, name = photo(number), f"p{number}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        path.write_bytes(data)
        keep_portrait(output / AVATARS / name, tiny_portrait(), made_of(hashlib.sha256(data).hexdigest(), config))
        entries.append((Entry(name, str(path)), config))
    return entries


def check_all_done(output: Storage, count: int) -> None:
    """Every portrait ended once, as an avatar, and no committed clip is lost or torn."""
    history = Ledger(output).history()
    assert sorted(row.id for row in history) == sorted(f"p{number}" for number in range(count))
    assert {row.state for row in history} == {"done"}
    status = json.loads(output.read_text("status.json"))
    assert (status["counts"]["done"], status["complete"]) == (count, True)
    for row in history:
        folder = output / AVATARS / row.id
        assert output.exists(f"{row.bundle}/avatar.json")
        avatar = json.loads(folder.read_text("checkpoint/identity.json"))["avatar"]
        store = SymGENStore(RunFolder(folder, avatar).dataset, avatar)
        records = store.records()
        assert len({record.request_id for record in records}) == len(records) == CLIPS
        for key in {record.key for record in records}:
            assert store.load(key, store.version(key)).shape == (4, 48, 48, 3)


def redone_iterations(output: Storage, name: str) -> int:
    """Iterations that an avatar's log holds more than once."""
    assert output.local is not None
    lines = (output.local / AVATARS / name / "log.jsonl").read_text().splitlines()
    seen = Counter(r["iteration"] for r in map(json.loads, lines) if r["kind"] == "iteration")
    assert sorted(seen) == list(range(1, 13))
    return sum(seen.values()) - 12
