"""Converted checkpoints as safetensors: the second start maps them instead of converting again."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from zero1toa import assets
from zero1toa.diffusion.animator.checkpoints import convert, read_merged, reading
from zero1toa.diffusion.animator.layout import Layout
from zero1toa.media import atomic_path

FORMAT = "1"  # of converted files; raise it when our modules are renamed or fused differently
_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where converted checkpoints are kept."""
    return assets.home() / "converted"


def fingerprint(files: Sequence[Path], name: str) -> str:
    """Digest of what files hold.

    A file of ``torch.save`` is a zip archive whose directory has a checksum of every tensor, so hashing the directory
    is enough; any other file is hashed whole.

    Args:
        files: checkpoints.
        name: what they hold, for errors.

    Raises:
        AssetError: if a file is missing or damaged.
    """
    digest = hashlib.sha256(FORMAT.encode())
    for file in files:
        with reading(file, name):
            digest.update(str(file.stat().st_size).encode())
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    for entry in archive.infolist():
                        digest.update(f"{entry.filename} {entry.file_size} {entry.CRC:08x}\n".encode())
            else:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_module(module: nn.Module, files: Sequence[Path], layout: Layout, name: str) -> None:
    """Fill a module from released checkpoints, through the cache of converted ones.

    Files in safetensors already are read directly. A cached file that is damaged, or does not fit, is made again. The
    module's tensors are replaced, so it may have been built on the ``meta`` device; types stay as released.

    Args:
        module: the module.
        files: checkpoints that hold it together; of repeated keys the later file's count.
        layout: the checkpoints' naming.
        name: what the module is, for errors.

    Raises:
        AssetError: if a checkpoint is missing, damaged, or does not fit the module exactly.
    """
    if all(file.suffix == ".safetensors" for file in files):
        state = convert(module, read_merged(files, name), layout, name, files)
    else:
        last = files[-1]
        cached = cache_folder() / f"{last.parent.name}-{last.stem}-{fingerprint(files, name)[:24]}.safetensors"
        state = _read(cached, module) or _make(cached, module, files, layout, name)
    module.load_state_dict(state, assign=True)


def _read(cached: Path, module: nn.Module) -> dict[str, Tensor] | None:
    """A converted state that fits the module, or None."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not cached.is_file():
        return None
    try:
        state = load_file(cached)
    except (SafetensorError, OSError) as error:
        _LOG.warning("%s is damaged (%s) and is made again", cached, error)
        return None
    expected = {key: value.shape for key, value in module.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != expected:
        _LOG.warning("%s does not fit this version and is made again", cached)
        return None
    return state


def _make(cached: Path, module: nn.Module, files: Sequence[Path], layout: Layout, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = convert(module, read_merged(files, name), layout, name, files)
    try:
        with atomic_path(cached) as temporary:
            save_file({key: value.contiguous() for key, value in state.items()}, temporary)
    except (SafetensorError, OSError) as error:
        _LOG.warning("the converted %s is not kept: cannot write %s (%s)", name, cached, error)
    return state
