"""The SymGEN dataset of one avatar on disk: every refined clip, its version, and the order in which they came.

Layout under the store's folder, on any fsspec URL::

    store.json                              format and avatar id
    reference.npz                           the portrait, written once, never overwritten
    objects/<stage>/<name>/<version>.npz    pictures of one version of a clip
    commits/<sequence>.json                 one record per version, written last

Pictures become part of the dataset by their commit record, which is written after them; everything else in memory is an
index that listing ``commits/`` rebuilds. Every file appears complete or not at all, so that no reader ever sees a torn
one. A commit is idempotent by its request's id: whoever is unsure whether a commit succeeded repeats it. One process
writes at a time and, where the folder is in a file system, holds :data:`LOCK`.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import OutputError, StoreError
from zero1toa.storage import Storage
from zero1toa.types import Receipt, RefineRequest, SampleKey

FORMAT = 1

LOCK = ".lock"
"""Lock file in the store's folder, of the one process that writes; taken before the store is opened."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One commit.

    Attributes:
        sequence: position in the avatar's commit log, from 1.
        request_id: the request that was refined.
        key: the sample.
        version: version that this commit made.
        epoch: curriculum epoch of the request.
        render_step: training iteration at which the clip was rendered.
        unlocked: open frames of the clip; its poses follow from it.
        seconds: refinement time by phase.
    """

    sequence: int
    request_id: str
    key: SampleKey
    version: int
    epoch: int
    render_step: int
    unlocked: int
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The portrait as the diffusion model and the dataset see it.

    Attributes:
        image: straight alpha ``[H, W, 4]`` uint8.
        landmarks: ``[478, 2]`` float32 in pixels.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


class SymGENStore:
    """Versioned clips of one avatar in a folder.

    Attributes:
        root: the folder.
        avatar: avatar id.

    Args:
        root: the folder, as a storage or a path; it is made if it does not exist.
        avatar: avatar id; a folder that belongs to another avatar is refused.
        behind: write each commit beside what the caller does next. It is on disk after :meth:`flush` or the next one,
            which raise what went wrong; a process that ends before has committed nothing.

    Raises:
        OutputError: if the folder cannot be written or belongs to another avatar.
        StoreError: if a commit record or its newest pictures cannot be read.
    """

    def __init__(self, root: Storage | Path, avatar: str, behind: bool = False) -> None:
        self.root = root if isinstance(root, Storage) else Storage(root)
        self.avatar = avatar
        self._writer = ThreadPoolExecutor(1, "commit") if behind else None
        self._writing: Future[None] | None = None
        self._records: list[Record] = []
        self._by_request: dict[str, Record] = {}
        self._newest: dict[SampleKey, Record] = {}
        self._latest: tuple[SampleKey, int, NDArray[np.uint8]] | None = None  # refined pictures of the last commit
        self._claim()
        self._rebuild()

    def commit(self, request: RefineRequest, frames: NDArray[np.uint8], seconds: Mapping[str, float]) -> Receipt:
        """Make refined pictures the next version of their clip.

        Args:
            request: what was refined.
            frames: refined pictures, shaped as ``request.frames``.
            seconds: refinement time by phase, kept in the record.

        Returns:
            A receipt with status ``committed``; ``duplicate`` if this request was committed before (nothing changes);
            or ``superseded`` if the clip has moved on since the render was made (nothing changes).

        Raises:
            StoreError: for the portrait, which is never overwritten, or pictures of another shape than the render.
            OutputError: if the disk is full or the folder cannot be written.
        """
        self.flush()
        if request.key.stage == "portrait":
            raise StoreError("the portrait is the one clip of the dataset that is never overwritten")
        if frames.shape != request.frames.shape or frames.dtype != np.uint8:
            raise StoreError(
                f"{request.key}: refined pictures must be uint8 {list(request.frames.shape)}, "
                f"got {frames.dtype} {list(frames.shape)}"
            )
        done = self.find(request.request_id)
        if done is not None:
            return done
        current = self.version(request.key)
        if current != request.base_version:
            return Receipt(request.request_id, request.key, current, self.sequence, "superseded", dict(seconds))
        record = Record(
            sequence=self.sequence + 1,
            request_id=request.request_id,
            key=request.key,
            version=current + 1,
            epoch=request.epoch,
            render_step=request.render_step,
            unlocked=request.unlocked,
            seconds={name: round(float(value), 6) for name, value in seconds.items()},
        )
        if self._writer is None:
            self._write(record, frames, request.frames)
        else:
            self._writing = self._writer.submit(self._write, record, frames, request.frames)
        self._index(record)
        self._latest = record.key, record.version, frames
        return Receipt(record.request_id, record.key, record.version, record.sequence, "committed", record.seconds)

    def _write(self, record: Record, frames: NDArray[np.uint8], render: NDArray[np.uint8]) -> None:
        # Not compressed: refiners wait for this, deflating takes ten times as long, and old versions are deleted soon.
        pictures = {"frames": frames, "render": render}
        self.root.write(_object(record.key, record.version), lambda file: np.savez(file, **pictures))
        self.root.write(_commit(record.sequence), json.dumps(dataclasses.asdict(record), indent=1))

    def flush(self) -> None:
        """Wait until all commits are on disk.

        Raises:
            OutputError: if the disk is full or the folder cannot be written.
        """
        if self._writing is not None:
            self._writing.result()  # a failure stays, so that no later commit leaves a gap
            self._writing = None

    def find(self, request_id: str) -> Receipt | None:
        """What a repeated commit of a request would answer, or None if it was not committed: then there is work."""
        done = self._by_request.get(request_id)
        if done is None:
            return None
        return Receipt(done.request_id, done.key, done.version, done.sequence, "duplicate", dict(done.seconds))

    def version(self, key: SampleKey) -> int:
        """Newest version of a clip; 0 before its first refinement."""
        record = self._newest.get(key)
        return 0 if record is None else record.version

    @property
    def sequence(self) -> int:
        """Sequence number of the last commit, 0 in an empty dataset."""
        return len(self._records)

    def records(self) -> list[Record]:
        """All commits in order."""
        return list(self._records)

    def record(self, key: SampleKey, version: int) -> Record:
        """The commit that made a version.

        Raises:
            StoreError: if there is no such version.
        """
        for record in reversed(self._records):
            if record.key == key and record.version == version:
                return record
        raise StoreError(f"the dataset in {self.root} has no version {version} of {key}")

    def load(self, key: SampleKey, version: int) -> NDArray[np.uint8]:
        """Pictures ``[T, H, W, 3]`` uint8 of a committed version.

        Raises:
            StoreError: if the version does not exist, was pruned, or cannot be read.
        """
        return self._pictures(key, version, "frames")

    def load_render(self, key: SampleKey, version: int) -> NDArray[np.uint8]:
        """The render ``[T, H, W, 3]`` uint8 that refinement turned into a committed version, to show what it did.

        Raises:
            StoreError: if the version does not exist, was pruned, or cannot be read.
        """
        return self._pictures(key, version, "render")

    def _pictures(self, key: SampleKey, version: int, name: str) -> NDArray[np.uint8]:
        self.record(key, version)
        self.flush()
        path = _object(key, version)
        try:
            with np.load(BytesIO(self.root.read(path))) as archive:
                pictures: NDArray[np.uint8] = archive[name]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{self.root.locate(path)} is missing or damaged ({error}); delete the output folder to begin anew"
            ) from error
        return pictures

    def kept(self, key: SampleKey) -> list[int]:
        """Versions of a clip whose pictures are still there, the oldest first; the newest is always among them."""
        names = (name.removesuffix(".npz") for name in self.root.files(_objects(key), ".npz"))
        numbers = sorted(int(name) for name in names if name.isdigit())
        return [number for number in numbers if number <= self.version(key)]

    def fetch(self, key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
        """Pictures of a committed version, and how many of its frames were open; raises as :meth:`load`.

        Training asks for a clip as soon as it is committed: that one is still in memory.
        """
        if self._latest is not None and self._latest[:2] == (key, version):
            frames = self._latest[2]
        else:
            frames = self.load(key, version)
        return frames, self.record(key, version).unlocked

    def prune(self, oldest: Mapping[SampleKey, int]) -> int:
        """Delete pictures that no checkpoint can ask for any more; the commit records stay.

        Args:
            oldest: for each clip the version that the last checkpoint trains on. Newer versions are kept, since a run
                that continues from the checkpoint meets them again.

        Returns:
            Number of files deleted.
        """
        deleted = 0
        for key, version in oldest.items():
            for number in self.kept(key):
                if number < min(version, self.version(key)):
                    self.root.delete(_object(key, number))
                    deleted += 1
        return deleted

    def put_reference(self, reference: Reference) -> None:
        """Keep the portrait with the dataset; a repeated call with the same portrait changes nothing.

        Raises:
            OutputError: if the folder already holds another portrait.
        """
        if self.root.exists(_REFERENCE):
            kept = self.reference()
            if not (
                np.array_equal(kept.image, reference.image) and np.array_equal(kept.landmarks, reference.landmarks)
            ):
                raise OutputError(f"{self.root} holds the dataset of another portrait; choose another output folder")
            return
        image, landmarks = reference.image, reference.landmarks
        self.root.write(_REFERENCE, lambda file: np.savez_compressed(file, image=image, landmarks=landmarks))

    def reference(self) -> Reference:
        """The portrait of this dataset.

        Raises:
            StoreError: before :meth:`put_reference`, or if the file is damaged.
        """
        try:
            with np.load(BytesIO(self.root.read(_REFERENCE))) as archive:
                return Reference(archive["image"], archive["landmarks"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise StoreError(f"{self.root.locate(_REFERENCE)} is missing or damaged ({error})") from error

    def _claim(self) -> None:
        if self.root.exists(_ABOUT):
            about = self._read_json(_ABOUT)
            if about.get("format") != FORMAT or about.get("avatar") != self.avatar:
                raise OutputError(
                    f"{self.root} holds the dataset of avatar '{about.get('avatar')}' (format {about.get('format')}), "
                    f"not of '{self.avatar}' (format {FORMAT}); choose another output folder"
                )
            return
        self.root.write(_ABOUT, json.dumps({"format": FORMAT, "avatar": self.avatar}))

    def _rebuild(self) -> None:
        for name in self.root.files("commits", ".json"):
            path = f"commits/{name}"
            fields = self._read_json(path)
            try:
                record = Record(**{**fields, "key": SampleKey(**fields["key"])})
            except (KeyError, TypeError) as error:
                raise StoreError(f"{self.root.locate(path)} is no commit record ({error})") from error
            if record.sequence != len(self._records) + 1 or record.version != self.version(record.key) + 1:
                raise StoreError(f"{self.root.locate(path)}: commit {len(self._records) + 1} of the dataset is missing")
            self._index(record)
        for key, record in self._newest.items():
            if not self.root.exists(_object(key, record.version)):
                missing = self.root.locate(_object(key, record.version))
                raise StoreError(f"{missing} is missing though it was committed")

    def _index(self, record: Record) -> None:
        self._records.append(record)
        self._by_request[record.request_id] = record
        self._newest[record.key] = record

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.root.locate(name)
        try:
            loaded = json.loads(self.root.read(name))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        if not isinstance(loaded, dict):
            raise StoreError(f"{path} must hold a record, not {type(loaded).__name__}")
        return loaded


_ABOUT = "store.json"
_REFERENCE = "reference.npz"


def _objects(key: SampleKey) -> str:
    return f"objects/{key.stage}/{key.name}"


def _object(key: SampleKey, version: int) -> str:
    return f"{_objects(key)}/{version:05d}.npz"


def _commit(sequence: int) -> str:
    return f"commits/{sequence:06d}.json"
