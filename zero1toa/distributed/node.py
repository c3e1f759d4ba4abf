"""What a machine needs before actors work on it: the weights, and what is compiled for its GPU. Once for each machine.

Processes of one machine start together. Without this they would copy the same gigabytes side by side, and gsplat, which
compiles itself when it is imported, would have one process delete what another is compiling.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zero1toa import assets
from zero1toa.config import Config
from zero1toa.distributed.once import PATIENCE, once
from zero1toa.errors import AssetError, ConfigError, OutputError
from zero1toa.media import atomic_path
from zero1toa.storage import Storage
from zero1toa.symgen.locks import FolderLock

if TYPE_CHECKING:
    import torch


def prepare_node(config: Config, device: torch.device, *, training: bool = False) -> None:
    """Make this machine ready for an actor; quick where that was done before.

    Sets ``TORCHINDUCTOR_CACHE_DIR`` and ``TRITON_CACHE_DIR`` of this process if they are not set, so call it before
    anything is loaded.

    Args:
        config: the run's configuration.
        device: where the actor will work.
        training: whether it will train avatars, for which LPIPS is compiled where its weights are installed.

    Raises:
        AssetError: if ``distributed.weights`` holds no weights, or damaged ones.
        ConfigError: if gsplat is needed and cannot be compiled here.
        OutputError: if nothing can be written on this machine, or the weights cannot be read.
    """
    if config.distributed.weights:
        fetch_weights(Storage(config.distributed.weights))
    if device.type == "cuda":
        folder = use_caches(device)
        if config.render.backend in ("auto", "gsplat"):
            versions = {name: metadata.version(name) for name in ("torch", "gsplat")}
            once(folder, "gsplat", versions, build_gsplat)
        loss = config.loss
        if training and loss.perceptual > 0 and loss.perceptual_kind in ("auto", "lpips") and assets.find("vgg16"):
            versions = {name: metadata.version(name) for name in ("torch", "lpips")}
            frames = sorted({1, min(config.loop.batch_frames, config.curriculum.frames)})
            name = f"lpips-{config.render.size}-{'-'.join(map(str, frames))}"
            once(folder, name, versions, lambda: build_lpips(config.render.size, frames, device))


def fetch_weights(source: Storage) -> list[Path]:
    """Copy the weights that this machine lacks into its asset folder.

    Args:
        source: folder that is laid out as the asset folder.

    Returns:
        The files that this call has copied.

    Raises:
        AssetError: if it holds none that this version reads, or a damaged one.
        OutputError: if it cannot be read, or the asset folder cannot be written.
    """
    held = [asset for asset in assets.catalog() if asset.file in _names(source)]
    if not held:
        example = ", ".join(asset.file for asset in assets.catalog()[:3])
        raise AssetError(
            f"distributed.weights={source} holds no weights that this version reads; lay it out as the asset folder: "
            f"{example}, …"
        )
    if all(asset.find() for asset in held):
        return []
    copied = []
    with FolderLock(assets.home() / ".weights.lock", PATIENCE):
        for asset in held:
            if asset.find() is not None:  # another process was first
                continue
            target = asset.places[0]
            try:
                with atomic_path(target) as temporary:
                    source.fetch(asset.file, temporary)
                    if asset.importer is None:  # converted files are not what the catalogue's checksum is of
                        assets.check(asset, temporary)
            except OSError as error:
                raise OutputError(
                    f"cannot write {target}: {error.strerror or error}; set ZERO1TOA_HOME to a folder with room"
                ) from error
            copied.append(target)
    return copied


def _names(source: Storage) -> set[str]:
    """Names of the files of a folder that may be assets; one listing for each folder of the catalogue."""
    folders = {str(PurePosixPath(asset.file).parent) for asset in assets.catalog()}
    return {
        str(PurePosixPath(folder) / name)
        for folder in folders
        for name in source.files("" if folder == "." else folder)
    }


def use_caches(device: torch.device) -> Path:
    """Give torch's compilers a folder for this kind of GPU and this version of torch, unless they have one.

    What is compiled for one kind of GPU does not run on another, and the folder may be shared by machines.

    Args:
        device: a CUDA device.

    Returns:
        The folder.

    Raises:
        OutputError: if no such folder can be written.
    """
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}-sm{major}{minor}-torch-{torch.__version__}"
    folder = _compiled() / re.sub(r"[^a-z0-9.]+", "-", name.lower())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {folder}: {error.strerror or error}; set ZERO1TOA_HOME to a folder you can write"
        ) from error
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    return folder


def _compiled() -> Path:
    """The asset folder's place for what is compiled, or the machine's temporary folder where that cannot be written."""
    folder = assets.home() / "compiled"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return folder
    # Private to this user, since compiled code is loaded from it.
    folder = Path(tempfile.gettempdir()) / f"zero1toa-compiled-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OutputError(f"{folder} belongs to somebody else; set ZERO1TOA_HOME to a folder you can write")
    return folder


def build_lpips(size: int, batches: Iterable[int], device: torch.device) -> Iterable[Path]:
    """Compile LPIPS with its gradient for batches of pictures; returns the compiler's folder, where others find it.

    Args:
        size: edge of the pictures, pixels.
        batches: numbers of pictures.
        device: a CUDA device.
    """
    import torch

    from zero1toa.avatar.perceptual import Perceptual

    term = Perceptual("lpips", device)
    for count in batches:
        renders = torch.rand(count, size, size, 3, device=device, requires_grad=True)
        term(renders, torch.rand_like(renders)).backward()
    return [Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])]


def build_gsplat() -> Iterable[Path]:
    """Import gsplat, which compiles its CUDA extension where that has not been done; returns the extension's file.

    Raises:
        ConfigError: if there is no compiler for it, or it fails.
    """
    advice = "install the CUDA toolkit of torch's version, use the image of the Dockerfile, or set render.backend=torch"
    try:
        from gsplat.cuda import _backend
    except Exception as error:  # compilers fail in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"gsplat's CUDA extension cannot be compiled on this machine ({lines[0]}); {advice}"
        ) from error
    if _backend._C is None:
        raise ConfigError(f"gsplat has no CUDA extension on this machine and finds no nvcc to compile it; {advice}")
    return [Path(_backend._C.__file__)]
