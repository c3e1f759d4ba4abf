"""What comes into a batch: a folder, a pattern, a table or shards, here or in a bucket, as a list of portraits."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from zero1toa import config as configuration
from zero1toa.batch import ids, shards
from zero1toa.batch.listings import read_csv, read_jsonl
from zero1toa.batch.locations import absolute, connect, is_url, join, parent, plain_path, reason, split
from zero1toa.batch.records import Entry
from zero1toa.config import Config
from zero1toa.errors import ManifestError, nearest

IMAGES = ("jpg", "jpeg", "jfif", "png", "webp", "tif", "tiff", "bmp", "gif", "avif", "heic", "heif")
"""Endings of files that are taken for photos. What of them cannot be read is reported, which is better than passing
over a portrait in silence."""

_TABLES: dict[str, Callable[[str, str], list[Entry]]] = {"csv": read_csv, "jsonl": read_jsonl, "ndjson": read_jsonl}
_SHARD = "tar"
_EXPECTED = f"a photo ({', '.join(IMAGES)}), a manifest (csv, jsonl) or a webdataset shard (tar)"


def read_manifest(source: str) -> list[Entry]:
    """List the portraits of a batch. No photo is opened; only shards are, to see which files they hold.

    Args:
        source: path or fsspec URL of

            * a folder: all photos in it and in its folders, sorted, named by their path in it;
            * a pattern (``photos/*.jpg``, ``s3://bucket/{a,b}/**/*.png``), of photos and of shards;
            * a CSV or JSONL manifest (:mod:`zero1toa.batch.listings`);
            * one photo;
            * webdataset shards (``x.tar``, ``shard-{000..003}.tar``), whose images are named by their samples' keys.

    Returns:
        At least one entry, in the manifest's order or sorted; ids are unique and the same every time.

    Raises:
        ManifestError: nothing is there, nothing of it is a photo, it cannot be reached, or a line is not understood.
            A photo that a manifest names and that does not exist is no error: it fails alone.
    """
    if not source.strip():
        raise ManifestError("no input is given; give a folder, a pattern, a manifest or shards")
    whole = _whole(source)
    entries = whole if whole is not None else _matching(source)
    if not entries:
        raise ManifestError(f"{source} lists no portraits")
    return entries


def portrait_config(base: Sequence[str], file: Path | None, entry: Entry) -> Config:
    """Configuration of one portrait: the batch's, with the portrait's own overrides.

    Args:
        base: ``key=value`` of the whole batch.
        file: YAML file of the whole batch. It is read once in a process.
        entry: the portrait.

    Raises:
        ConfigError: as :func:`zero1toa.config.load`.
    """
    return copy.deepcopy(_load((*base, *entry.overrides), file))


@functools.lru_cache(maxsize=64)
def _load(overrides: tuple[str, ...], file: Path | None) -> Config:
    return configuration.load(overrides, file)


def _whole(source: str) -> list[Entry] | None:
    """Entries of a source that is one folder or file; None where there is none of that name."""
    address = absolute(source)
    files, path = connect(address)
    with _reaching(source):
        files.invalidate_cache()  # what was listed before may have changed
        if files.isdir(path):
            found = (name.removeprefix(path).lstrip("/") for name in files.find(path))
            photos = sorted(name for name in found if _is_image(name) and not _is_hidden(name))
            if not photos:
                raise ManifestError(f"there is no photo in {source}; files ending in {', '.join(IMAGES)} count")
            return _photos([join(address, name) for name in photos], photos)
        if not files.isfile(path):
            return None
        ending = _ending(plain_path(address))
        if ending in _TABLES:
            return _TABLES[ending](address, _decode(source, files.cat_file(path)))
    if ending == _SHARD:
        return _portraits_in([address], [""])
    if ending not in IMAGES:
        known = nearest(ending, (*IMAGES, *_TABLES, _SHARD)) if ending else ""
        raise ManifestError(f"{source} is not {_EXPECTED}{known}")
    return _photos([address], [plain_path(address).rpartition("/")[2]])


def _matching(source: str) -> list[Entry]:
    """Entries of the photos and shards that a pattern matches; braces are spelled out, and each part must match."""
    from braceexpand import braceexpand

    folder, pattern = _fixed_part(source)
    if not pattern:
        unreached = ", or it cannot be reached" if is_url(source) else ""
        raise ManifestError(f"there is no file or folder {source}{unreached}; give a folder, {_EXPECTED}")
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise ManifestError(f"the braces in {source} do not match; write {{a,b}} or {{000..012}}") from error
    base = absolute(folder)
    files, root = connect(base)
    found: dict[str, None] = {}  # in order, each once
    with _reaching(source):
        files.invalidate_cache()
        for name in names:
            path = f"{root.rstrip('/')}/{name}" if root else name
            matches = sorted(files.glob(path)) if _is_pattern(name) else [path] if files.isfile(path) else []
            if not matches:
                raise ManifestError(f"nothing matches {name} in {folder or 'this folder'}")
            found |= dict.fromkeys(str(match).removeprefix(root).lstrip("/") for match in matches)
    photos = [name for name in found if _is_image(name) and not _is_hidden(parent(name)[1])]
    tars = [name for name in found if _ending(name) == _SHARD]
    if not photos and not tars:
        raise ManifestError(
            f"none of the {len(found)} that match {source} is a photo or a shard; "
            f"files ending in {', '.join(IMAGES)} and {_SHARD} count"
        )
    if photos and tars:
        raise ManifestError(f"{source} matches photos and shards; give a pattern for one of them, e.g. *.{_SHARD}")
    if photos:
        return _photos([join(base, name) for name in photos], photos)
    return _portraits_in([join(base, name) for name in tars], tars)


def _photos(addresses: list[str], names: list[str]) -> list[Entry]:
    """Entries of image files, named by ``names``: their paths as seen from what the user gave."""
    made = ids.distinct([ids.from_path(name) for name in names], [(name,) for name in names])
    return [Entry(name, address) for name, address in zip(made, addresses, strict=True)]


def _portraits_in(addresses: list[str], names: list[str]) -> list[Entry]:
    """Entries of the images in shards; ``names`` are the shards' paths as seen from what the user gave."""
    found: list[tuple[str, str, shards.Member]] = []
    shards.index.cache_clear()  # an earlier job may have seen others under these names
    for address, name in zip(addresses, names, strict=True):
        try:
            members = shards.index(address)
        except FileNotFoundError as error:
            raise ManifestError(f"there is no shard {address}") from error
        found += [(address, name, member) for member in members.values() if _is_image(member.name)]
    if not found:
        raise ManifestError(
            f"there is no photo in {', '.join(addresses[:3])}; files in it ending in {', '.join(IMAGES)} count"
        )
    made = ids.distinct(
        [ids.from_path(f"{member.key}.") for _, _, member in found],
        [(name, member.name) for _, name, member in found],
    )
    return [Entry(name, address, member.name) for name, (address, _, member) in zip(made, found, strict=True)]


def _fixed_part(source: str) -> tuple[str, str]:
    """The folder before the first wildcard or brace, and the pattern from there; no pattern where there is none."""
    head, path, tail = split(source)
    first = next((place for place, letter in enumerate(path) if letter in "*?[{"), None)
    if first is None:
        return source, ""
    cut = path.rfind("/", 0, first) + 1
    folder = path[:cut] if cut == 1 else path[:cut].rstrip("/")
    return f"{head}{folder}{tail}", path[cut:]


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def _is_image(name: str) -> bool:
    return _ending(name) in IMAGES


def _ending(name: str) -> str:
    _, dot, ending = name.rpartition("/")[2].rpartition(".")
    return ending.lower() if dot else ""


def _is_hidden(name: str) -> bool:
    """Thumbnails and resource forks of file managers are no portraits."""
    return any(part.startswith(".") for part in name.split("/"))


def _decode(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{source}, line {line}: not UTF-8; save the manifest as UTF-8") from error


@contextlib.contextmanager
def _reaching(source: str) -> Iterator[None]:
    """Turn what a protocol raises into one line about the source."""
    try:
        yield
    except ManifestError:
        raise
    except Exception as error:
        raise ManifestError(f"cannot read {source}: {reason(error)}") from error
