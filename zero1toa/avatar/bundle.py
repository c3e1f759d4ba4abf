"""The avatar bundle: one folder that holds everything needed to render an avatar, and no code.

::

    avatar.json              format, version, head model and fingerprint, config, camera, metrics, notes
    gaussians.safetensors    local tensors and bindings
    head.safetensors         identity, portrait's expression, per-vertex offset
    portrait.png             the carved portrait (optional)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.avatar import atomic_folder
from zero1toa.avatar.gaussians import PARAMETERS, GaussianAvatar
from zero1toa.errors import BundleError, OutputError
from zero1toa.head.protocol import PARAMETERS as HEAD_PARAMETERS
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.storage import Storage

FORMAT = "zero1toa-avatar"
VERSION = 1

LICENCES = (
    "The portrait, and everything derived from it, stays under the terms on which the portrait was obtained.",
    "The Gaussians refer to the triangles of the head model named here, whose own licence applies to that model.",
)

_TAILS = {"means": [3], "log_scales": [3], "quats": [4], "opacity_logits": [], "sh0": [3], "binding": []}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An avatar with what is needed to pose, frame and judge it.

    Attributes:
        avatar: the Gaussians.
        params: the portrait's head: identity, hair offset, and the portrait's own expression; no batch dimensions.
        head: name of the head model (``canonical-1``).
        fingerprint: :func:`fingerprint` of that head model.
        viewmat: the portrait's world-to-camera ``[4, 4]`` float32.
        K: the portrait's intrinsics in pixels ``[3, 3]`` float32.
        size: side of the portrait in pixels.
        config: the run's configuration as plain values.
        metrics: name to figure.
        notes: fallbacks that were used, one line each.
        licences: what applies to the contents, one line each.
        portrait: carved portrait ``[H, W, 4]`` uint8, or None.
    """

    avatar: GaussianAvatar
    params: HeadParams
    head: str
    fingerprint: str
    viewmat: NDArray[np.float32]
    K: NDArray[np.float32]
    size: int
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    licences: tuple[str, ...] = LICENCES
    portrait: NDArray[np.uint8] | None = None


def fingerprint(head: HeadModel) -> str:
    """Hash of what bindings and coefficients rely on: triangles, regions and the numbers of coefficients.

    Only whole numbers enter, so that it is the same on every machine.
    """
    digest = hashlib.sha256(json.dumps([head.name, head.n_shape, head.n_expression, head.n_vertices]).encode())
    digest.update(head.faces.cpu().numpy().astype("<i8").tobytes())
    for name in sorted(head.regions):
        digest.update(name.encode() + np.packbits(head.regions[name].cpu().numpy()).tobytes())
    return digest.hexdigest()[:32]


def exists(path: Path) -> bool:
    """Whether there is a finished bundle at ``path``; says nothing about its health."""
    return (atomic_folder.resolve(path) / "avatar.json").is_file()


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle, replacing an older one at the same path; a death in the middle leaves the old one.

    Args:
        path: the bundle's folder.
        bundle: what to write.

    Raises:
        OutputError: if ``path`` is something else than a bundle, or cannot be written.
        BundleError: if the avatar holds values that are not finite; nothing is written then.
    """
    from safetensors.torch import save_file

    if path.exists() and not exists(path) and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists and is not an avatar bundle; choose another path or remove it")
    gaussians = _plain(bundle.avatar.tensors())
    head = _plain({name: getattr(bundle.params, name) for name in HEAD_PARAMETERS})
    for name, tensor in {**gaussians, **head}.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"refusing to write {path}: '{name}' holds values that are not finite")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "head": {"name": bundle.head, "fingerprint": bundle.fingerprint},
        "gaussians": len(bundle.avatar),
        "triangles": int(bundle.avatar.faces.shape[0]),
        "camera": {
            "viewmat": np.asarray(bundle.viewmat, np.float64).tolist(),
            "K": np.asarray(bundle.K, np.float64).tolist(),
            "size": bundle.size,
        },
        "portrait": bundle.portrait is not None,
        "config": bundle.config,
        "metrics": bundle.metrics,
        "notes": list(bundle.notes),
        "licences": list(bundle.licences),
    }
    try:
        text = json.dumps(about, indent=2, allow_nan=False)
    except ValueError as error:
        raise BundleError(f"refusing to write {path}: a metric or setting is not finite ({error})") from error
    try:
        with atomic_folder.replacing(path) as folder:
            save_file(gaussians, folder / "gaussians.safetensors")
            save_file(head, folder / "head.safetensors")
            if bundle.portrait is not None:
                from PIL import Image

                Image.fromarray(bundle.portrait).save(folder / "portrait.png")
            (folder / "avatar.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the avatar bundle {path}: {error.strerror or error}") from error


def store_bundle(folder: Storage, bundle: Bundle, name: str = "avatar") -> None:
    """Write a bundle to a folder that need not be on this machine; elsewhere ``avatar.json`` comes last.

    Args:
        folder: where the bundle's own folder is made.
        bundle: what to write.
        name: name of the bundle's folder.

    Raises:
        OutputError: as :func:`write_bundle`.
        BundleError: as :func:`write_bundle`.
    """
    if folder.local is not None:
        write_bundle(folder.local / name, bundle)
        return
    with tempfile.TemporaryDirectory(prefix="zero1toa-") as temporary:
        write_bundle(Path(temporary) / name, bundle)
        folder.upload(atomic_folder.resolve(Path(temporary) / name), name, last="avatar.json")


@contextmanager
def local_bundle(bundle: Path | Storage) -> Iterator[Path]:
    """The folder of a bundle on this machine: its own, or a copy for as long as the context lasts.

    Raises:
        BundleError: if there is none.
        OutputError: if it cannot be reached.
    """
    local = bundle if isinstance(bundle, Path) else bundle.local
    if local is not None:
        yield local
        return
    assert isinstance(bundle, Storage)
    with tempfile.TemporaryDirectory(prefix="zero1toa-") as temporary:
        try:
            bundle.download("", Path(temporary))
        except FileNotFoundError as error:
            raise BundleError(f"there is no avatar bundle at {bundle}") from error
        yield Path(temporary)


def read_bundle(path: Path | Storage, head: HeadModel | None = None) -> Bundle:
    """Read and check a bundle; the head model decides how far bindings and coefficients can be checked.

    Args:
        path: the bundle's folder, here or elsewhere.
        head: the head model to animate it with; None to inspect a bundle without one (its triangles are then unknown,
            so the avatar's ``faces`` are zeros and it cannot be rendered).

    Raises:
        BundleError: for a missing or damaged file, wrong sizes, values that are not finite, a newer version, or a
            bundle of another head model; the message names the file.
        OutputError: if it is elsewhere and cannot be reached.
    """
    with local_bundle(path) as local:
        return _read_local(local, head)


def _read_local(path: Path, head: HeadModel | None) -> Bundle:
    folder = atomic_folder.resolve(path)
    about = _read_about(folder, path)
    name, mark = about["head"]["name"], about["head"]["fingerprint"]
    if head is not None and (head.name, fingerprint(head)) != (name, mark):
        what = f"head model '{name}'" if head.name != name else f"another build of the head model '{name}'"
        raise BundleError(f"{path} was made with {what}; this is '{head.name}' ({fingerprint(head)}, not {mark})")
    gaussians = _load(folder / "gaussians.safetensors")
    avatar = _avatar(folder / "gaussians.safetensors", gaussians, about, head)
    params = _params(folder / "head.safetensors", _load(folder / "head.safetensors"), name, head)
    return Bundle(
        avatar=avatar,
        params=params,
        head=name,
        fingerprint=mark,
        viewmat=_array(folder, about["camera"], "viewmat", (4, 4)),
        K=_array(folder, about["camera"], "K", (3, 3)),
        size=int(about["camera"]["size"]),
        config=about["config"],
        metrics=about["metrics"],
        notes=tuple(about["notes"]),
        licences=tuple(about["licences"]),
        portrait=_portrait(folder / "portrait.png") if about["portrait"] else None,
    )


def _plain(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items() if v is not None}


def _read_about(folder: Path, path: Path) -> dict[str, Any]:
    file = folder / "avatar.json"
    if not folder.is_dir():
        raise BundleError(f"there is no avatar bundle at {path}")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not an avatar bundle: it has no avatar.json") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BundleError(f"{file} does not describe an avatar: its format is not '{FORMAT}'")
    version = about.get("version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{file}: version {version!r} is not a version number")
    if version > VERSION:
        raise BundleError(
            f"{path} has format version {version}, this program reads up to {VERSION}; update zero1toa to open it"
        )
    kinds: dict[str, type] = {
        "head": dict, "gaussians": int, "triangles": int, "camera": dict, "portrait": bool, "config": dict,
        "metrics": dict, "notes": list, "licences": list,
    }  # fmt: skip
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            raise BundleError(f"{file}: '{key}' is missing or not of type {kind.__name__}")
    for key, where, kind in (("name", "head", str), ("fingerprint", "head", str), ("size", "camera", int)):
        if not isinstance(about[where].get(key), kind):
            raise BundleError(f"{file}: '{where}.{key}' is missing or not of type {kind.__name__}")
    return about


def _load(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise BundleError(f"the avatar bundle is incomplete: {file} is missing")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{file} is damaged: '{name}' holds values that are not finite")
    return tensors


def _avatar(file: Path, tensors: dict[str, Tensor], about: dict[str, Any], head: HeadModel | None) -> GaussianAvatar:
    count, triangles = about["gaussians"], about["triangles"]
    for name, tail in _TAILS.items():
        if name not in tensors:
            raise BundleError(f"{file} is incomplete: '{name}' is missing")
        if list(tensors[name].shape) != [count, *tail]:
            raise BundleError(
                f"{file}: '{name}' has shape {list(tensors[name].shape)}, avatar.json promises {[count, *tail]}"
            )
    binding = tensors["binding"]
    if binding.dtype != torch.int64 or (count and not 0 <= int(binding.min()) <= int(binding.max()) < triangles):
        raise BundleError(f"{file}: bindings must be whole numbers in [0, {triangles})")
    faces = head.faces if head is not None else torch.zeros(triangles, 3, dtype=torch.long)
    if faces.shape[0] != triangles:
        raise BundleError(f"{file}: bound to {triangles} triangles, the head model has {faces.shape[0]}")
    learnt = {name: tensors[name].to(faces.device) for name in PARAMETERS}
    return GaussianAvatar(learnt, binding.to(faces.device), faces)


def _params(file: Path, tensors: dict[str, Tensor], model: str, head: HeadModel | None) -> HeadParams:
    sizes: dict[str, list[int]] = {"jaw": [3], "neck": [3], "eyes": [2, 3], "lids": [2]}
    if head is not None:
        sizes |= {"shape": [head.n_shape], "expression": [head.n_expression]}
        if "offset" in tensors:
            sizes["offset"] = [head.n_vertices, 3]
    for name in HEAD_PARAMETERS:
        if name not in tensors and name != "offset":
            raise BundleError(f"{file} is incomplete: '{name}' is missing")
        if name in sizes and list(tensors[name].shape) != sizes[name]:
            raise BundleError(f"{file}: '{name}' has shape {list(tensors[name].shape)}, expected {sizes[name]}")
    read: dict[str, Any] = {name: tensors.get(name) for name in HEAD_PARAMETERS}
    params = HeadParams(**read, model=model)
    return params if head is None else params.to(head.faces.device)


def _array(folder: Path, values: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        array = np.asarray(values.get(name), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{folder / 'avatar.json'}: 'camera.{name}' is not a matrix of numbers") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise BundleError(f"{folder / 'avatar.json'}: 'camera.{name}' must be {shape[0]} x {shape[1]} finite numbers")
    return array


def _portrait(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))
    except FileNotFoundError as error:
        raise BundleError(f"the avatar bundle is incomplete: {file} is missing") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BundleError(f"{file} is damaged: {error}") from error
