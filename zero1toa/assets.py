"""External weights: finding them on this machine, checking what the user gives, installing it.

What there is, with purpose, licence, source, size and checksum, is listed in ``asset_catalog``. Of files whose size and
checksum are not known the format is checked, every checksum that the file holds of its own parts, and, when a model is
loaded, every name and shape.

Nothing here is needed: each asset replaces an embedded fallback that works without it. Nothing is downloaded by itself
either; the user fetches a file under its licence and ``zero1toa assets install NAME FILE`` checks and copies it.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import shutil
import zipfile
from pathlib import Path

from zero1toa.asset_catalog import REMBG_MODELS, Asset, catalog, home
from zero1toa.errors import AssetError, nearest
from zero1toa.media import atomic_path

__all__ = ["REMBG_MODELS", "Asset", "catalog", "check", "find", "get", "home", "install"]


def get(name: str) -> Asset:
    """The asset called ``name``.

    Raises:
        AssetError: for an unknown name, with the nearest known one.
    """
    known = {asset.name: asset for asset in catalog()}
    if name not in known:
        raise AssetError(f"there is no asset '{name}'{nearest(name, known)}; assets: {', '.join(known)}")
    return known[name]


def find(name: str) -> Path | None:
    """Where the asset called ``name`` lies on this machine, or None.

    Raises:
        AssetError: for an unknown name.
    """
    return get(name).find()


def check(asset: Asset, file: Path) -> None:
    """Verify that ``file`` is ``asset``: format, then size, then checksum, so that the message names the likely cause.

    Raises:
        AssetError: when it is not.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise AssetError(
            f"cannot read {file}: {error.strerror or error}; give the downloaded {asset.download}"
        ) from error
    if head.lstrip()[:1] == b"<":
        raise AssetError(f"{file} is a web page, not {asset.download}; download the file itself from {asset.source}")
    if not head.startswith(asset.magic):
        raise AssetError(f"{file} is not in the format of {asset.download}; download it from {asset.source}")
    if asset.size is not None and size != asset.size:
        what = "the download is incomplete" if size < asset.size else "it is another file"
        raise AssetError(f"{file} has {size} bytes and {asset.file} has {asset.size}: {what}; see {asset.source}")
    if asset.checksum is None:
        _check_parts(file)
        return
    algorithm, expected = asset.checksum.split(":")
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, algorithm).hexdigest()
    if actual != expected:
        raise AssetError(
            f"{file} has {algorithm} {actual[:12]}… and {asset.file} has {expected[:12]}…: the file is damaged or "
            f"another version; download it from {asset.source}"
        )


def _check_parts(file: Path) -> None:
    """Verify what a file without a known checksum says about itself: a zip archive has checksums of its members.

    Raises:
        AssetError: when the file is truncated or damaged.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "np"):
                return
        except (SafetensorError, OSError) as error:
            raise AssetError(f"{file} is damaged or incomplete ({error}); download it again") from error
    with file.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    if not is_zip:
        return  # torch's format before version 1.6 has no checksums
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise AssetError(f"{file} is damaged or incomplete ({error}); download it again") from error
    if damaged is not None:
        raise AssetError(f"{file} is damaged in its part '{damaged}'; download it again")


def install(name: str, file: Path) -> Path:
    """Check ``file`` and copy it into the asset folder, or convert it to there; atomically.

    Args:
        name: asset name.
        file: the downloaded file.

    Returns:
        Where it lies now.

    Raises:
        AssetError: for an unknown name or a file that is not this asset, or when it cannot be copied.
        UserError: what the asset's importer says about the file.
    """
    asset = get(name)
    check(asset, file)
    target = asset.places[0]
    try:
        if asset.importer is not None:
            pkgutil.resolve_name(asset.importer)(name, file, target)
            return target
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
    except OSError as error:
        raise AssetError(
            f"cannot write {target}: {error.strerror or error}; set ZERO1TOA_HOME to a folder you can write"
        ) from error
    return target
