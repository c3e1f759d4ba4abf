"""The folders of one avatar's generation, and whose they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.config import Config, to_dict
from zero1toa.errors import OutputError
from zero1toa.storage import Storage
from zero1toa.symgen.identity import describe_changes, shaping_values
from zero1toa.types import Portrait


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where a generation keeps its work.

    Attributes:
        root: the output folder.
        avatar: avatar id, made at the first start and kept when the folder moves.
    """

    root: Storage
    avatar: str

    @property
    def bundle(self) -> Storage:
        """The finished avatar."""
        return self.root / "avatar"

    @property
    def dataset(self) -> Storage:
        """The SymGEN dataset store."""
        return self.root / "dataset"

    @property
    def checkpoint(self) -> Storage:
        """The folder of the newest checkpoint, :data:`STATE`."""
        return self.root / "checkpoint"

    @property
    def preview(self) -> str:
        """Path or URL of the newest preview picture, :data:`PREVIEW`."""
        return self.root.locate(PREVIEW)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Whose generation a folder holds: what is compared before it is continued.

    Attributes:
        avatar: avatar id.
        portrait: :func:`portrait_digest`.
        config: :func:`~zero1toa.symgen.identity.shaping_values` of the configuration.
    """

    avatar: str
    portrait: str
    config: dict[str, Any]


IDENTITY = "checkpoint/identity.json"
STATE = "state.pt"
PREVIEW = "preview.png"


def open_run(output: Path | Storage, portrait: Portrait, config: Config) -> RunFolder:
    """Begin or continue a generation in a folder.

    Args:
        output: the output folder; it is made if it does not exist.
        portrait: the portrait; a folder that belongs to another one is refused.
        config: the configuration; a folder that was begun with other values is refused, except for values that do not
            shape the avatar (device, tracking, distribution, how often to save).

    Raises:
        OutputError: if the folder cannot be written or belongs to another portrait or configuration.
    """
    root = output if isinstance(output, Storage) else Storage(output)
    digest = portrait_digest(portrait)
    settings = shaping_values(to_dict(config))
    if not root.exists(IDENTITY):
        avatar = f"{root.name}-{digest[:8]}"
        root.write(IDENTITY, json.dumps(dataclasses.asdict(Identity(avatar, digest, settings)), indent=1))
        return RunFolder(root, avatar)
    kept = read_identity(root)
    if kept.portrait != digest:
        raise OutputError(f"{root} belongs to another portrait; choose another output folder, or remove it")
    if changes := describe_changes(kept.config, settings):
        raise OutputError(
            f"{root} was begun with another configuration ({changes}); use the same values to continue, or "
            "choose another output folder"
        )
    return RunFolder(root, kept.avatar)


def read_identity(root: Storage) -> Identity:
    """Whose generation a folder holds.

    Args:
        root: the output folder of a generation.

    Raises:
        OutputError: if there is no such record, or it is damaged.
    """
    try:
        about = json.loads(root.read(IDENTITY))
        return Identity(str(about["avatar"]), about["portrait"], dict(about["config"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{root.locate(IDENTITY)} cannot be read ({error}), so nobody knows whose avatar this is; choose another "
            "folder, or remove it"
        ) from error


def portrait_digest(portrait: Portrait) -> str:
    """Hash of what the generation takes from a portrait: picture, landmarks, camera and head."""
    from zero1toa.head.protocol import PARAMETERS

    digest = hashlib.sha256()
    arrays: list[NDArray[Any]] = [portrait.image, portrait.landmarks, portrait.viewmat, portrait.K]
    digest.update((portrait.params.model or "").encode())
    for name in PARAMETERS:
        value = getattr(portrait.params, name)
        if value is not None:
            arrays.append(value.detach().cpu().numpy())
    for array in arrays:
        digest.update(str((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
