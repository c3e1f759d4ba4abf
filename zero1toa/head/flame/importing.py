"""From MPI's pickle to checked arrays, or a message that says why it is no FLAME model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import HeadModelError
from zero1toa.head.flame.editions import EDITIONS, Edition
from zero1toa.head.flame.unpickle import read_pickle

N_VERTICES = 5023
N_FACES = 9976
N_COEFFICIENTS = 400
N_SHAPE = 300
PARENTS = (-1, 0, 1, 1, 1)
"""Parents of root, neck, jaw, left and right eye."""

_OPEN_KEY = "supr_expression_metadata"

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FlameArrays:
    """The content of a FLAME file; metres, +y up, facing +z, the subject's left is +x.

    Attributes:
        template: mean vertices ``[V, 3]``.
        faces: triangles ``[F, 3]`` int64.
        basis: displacement per coefficient ``[V, 3, S + E]``, identity first.
        n_shape: S, the number of identity coefficients.
        pose_basis: displacement per entry of the four joints' rotations minus identity ``[V, 3, 36]``.
        joint_regressor: joints from vertices ``[5, V]``.
        weights: skinning weights ``[V, 5]``.
    """

    template: Array
    faces: NDArray[np.int64]
    basis: Array
    n_shape: int
    pose_basis: Array
    joint_regressor: Array
    weights: Array

    @property
    def n_expression(self) -> int:
        """E, the number of expression coefficients."""
        return int(self.basis.shape[2]) - self.n_shape


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_flame(path: Path, edition: Edition) -> FlameArrays:
    """Read a FLAME pickle.

    The editions have the same shapes, so what can be told apart is: the names that MPI gives its files, and an entry
    that only the Open edition has.

    Args:
        path: the file as MPI distributes it.
        edition: which one the user says it is.

    Raises:
        HeadModelError: when it is not a FLAME model, is damaged, contains code, or is evidently another edition.
    """
    for other in EDITIONS.values():
        if path.name in other.files and other != edition:
            raise HeadModelError(
                f"{path.name} is the file of {other.key}, not of {edition.key}, whose bases differ; "
                f"run zero1toa assets install {other.key} {path}"
            )
    entries = read_pickle(path)
    is_open = _OPEN_KEY in entries
    if is_open and edition.key != "flame2023_open":
        raise HeadModelError(
            f"{path} is FLAME 2023 Open ('{_OPEN_KEY}' is in it), not {edition.key}; "
            f"run zero1toa assets install flame2023_open {path}"
        )
    try:
        return _checked(entries)
    except HeadModelError as error:
        raise HeadModelError(
            f"{path} is not a FLAME model: {error}; install {edition.key}'s file {' or '.join(edition.files)} as MPI "
            "distributes it"
        ) from None


def _checked(entries: Mapping[str, Any]) -> FlameArrays:
    template = _numbers(entries, "v_template", (N_VERTICES, 3))
    extent = np.ptp(template, axis=0)
    if not (0.1 < extent.max() < 1.0 and extent.argmax() == 1):
        raise HeadModelError(
            f"'v_template' spans {extent.round(3).tolist()} m; expected a head upright in metres, 0.2 to 0.4 m high"
        )
    faces = np.asarray(_entry(entries, "f"))
    if faces.shape != (N_FACES, 3) or faces.dtype.kind not in "iu":
        raise HeadModelError(f"'f' is {faces.dtype} {list(faces.shape)}, not whole numbers [{N_FACES}, 3]")
    if int(faces.max()) >= N_VERTICES or int(faces.min()) < 0:
        raise HeadModelError(f"'f' names vertices outside of 0 to {N_VERTICES - 1}")
    tree = np.asarray(_entry(entries, "kintree_table"))
    if tree.shape != (2, len(PARENTS)) or tree.dtype.kind not in "iu" or tuple(tree[0, 1:].tolist()) != PARENTS[1:]:
        raise HeadModelError(
            "'kintree_table' is not the tree of FLAME's five joints (root, neck, jaw, left eye, right eye)"
        )
    basis = _numbers(entries, "shapedirs", (N_VERTICES, 3, None))
    weights = _numbers(entries, "weights", (N_VERTICES, len(PARENTS)))
    if weights.min() < -1e-6 or np.abs(weights.sum(1) - 1).max() > 1e-3:
        raise HeadModelError("'weights' are not skinning weights: rows must be at least 0 and sum to 1")
    regressor = _numbers(entries, "J_regressor", (len(PARENTS), N_VERTICES))
    if np.abs(regressor.sum(1) - 1).max() > 0.05:
        raise HeadModelError("'J_regressor' is not a joint regressor: its rows must sum to 1")
    return FlameArrays(
        template=template,
        faces=faces.astype(np.int64),
        basis=basis,
        n_shape=_identity_coefficients(entries, basis.shape[2]),
        pose_basis=_numbers(entries, "posedirs", (N_VERTICES, 3, 9 * (len(PARENTS) - 1))),
        joint_regressor=regressor,
        weights=weights,
    )


def _identity_coefficients(entries: Mapping[str, Any], total: int) -> int:
    """How many of the coefficients are identity; the file says so only where it has the Open edition's metadata."""
    about = entries.get(_OPEN_KEY)
    stated = about.get("n_expr") if isinstance(about, Mapping) else None
    if isinstance(stated, int | np.integer) and 0 < int(stated) < total:
        return total - int(stated)
    if total != N_COEFFICIENTS:
        raise HeadModelError(
            f"'shapedirs' has {total} coefficients, not {N_COEFFICIENTS} ({N_SHAPE} of identity, "
            f"{N_COEFFICIENTS - N_SHAPE} of expression)"
        )
    return N_SHAPE


def _entry(entries: Mapping[str, Any], key: str) -> Any:
    if key not in entries:
        raise HeadModelError(f"it has no '{key}' (found: {', '.join(sorted(entries)[:12]) or 'nothing'})")
    return entries[key]


def _numbers(entries: Mapping[str, Any], key: str, shape: tuple[int | None, ...]) -> Array:
    value = np.asarray(_entry(entries, key))
    fits = value.ndim == len(shape) and all(want in (None, got) for got, want in zip(value.shape, shape, strict=True))
    if not fits or value.dtype.kind != "f":
        wanted = ", ".join("K" if n is None else str(n) for n in shape)
        raise HeadModelError(f"'{key}' is {value.dtype} {list(value.shape)}, not numbers [{wanted}]")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise HeadModelError(f"'{key}' holds values that are not finite")
    return value
