"""What one sample of an exported dataset is: a clip or a portrait, and its files in a webdataset shard.

Text is JSON, arrays are one ``.npz``, pictures are PNG, so that webdataset's own decoders read all of it and nothing is
unpickled. Names of files are lower case with one dot before the extension, as webdataset groups them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zero1toa.errors import DatasetError
from zero1toa.media import png
from zero1toa.types import ClipSpec, LandmarkTrack, Portrait, SampleKey

KEY = "__key__"
"""webdataset's name for the name of a sample."""

_ABOUT = "json"
_ARRAYS = "arrays.npz"
_POSES = ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths")
_COUNTS = ("version", "unlocked", "render_step", "epoch", "sequence")
_VIEW = ("landmarks", "viewmat", "K", "arkit")
_LEVEL = 1  # of PNG: encoding is what an export spends its time on


@dataclasses.dataclass(frozen=True)
class ExportedClip:
    """One version of a refined clip, with all that its pictures show.

    Attributes:
        avatar: avatar id; the portrait of the same id belongs to it.
        spec: cameras ``[T, ...]`` and poses ``[T, ...]`` as they are shown: frames that were locked repeat the last
            open one (paper eq. 2).
        frames: refined pictures ``[T, H, W, 3]`` uint8 sRGB.
        render: what they were refined from ``[T, H, W, 3]`` uint8; None unless the export has renders.
        landmarks: the head model's landmarks in these cameras and poses, T frames, as fractions of the side.
        version: number of this version of the clip, from 1.
        newest: whether no later version of the clip was made.
        unlocked: leading frames that were open.
        render_step: training iteration at which the clip was rendered.
        epoch: curriculum epoch of that iteration.
        sequence: position in the avatar's commit log, from 1.
        request_id: the refinement request.
        head: head model of the poses (``canonical-1``).
        fingerprint: :func:`zero1toa.avatar.bundle.fingerprint` of that head model.
    """

    avatar: str
    spec: ClipSpec
    frames: NDArray[np.uint8]
    render: NDArray[np.uint8] | None
    landmarks: LandmarkTrack
    version: int
    newest: bool
    unlocked: int
    render_step: int
    epoch: int
    sequence: int
    request_id: str
    head: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class ExportedPortrait:
    """The portrait that an avatar's clips belong to.

    Attributes:
        avatar: avatar id.
        portrait: picture, landmarks, camera and head. ``portrait.params`` is the avatar's head with its offset: with
            the expression, jaw, neck, eyes and lids of a clip it has the clip's vertices.
        head: head model of the parameters.
        fingerprint: as :attr:`ExportedClip.fingerprint`.
        finished: whether the avatar was finished when its clips were exported.
        config: configuration values that shaped the avatar, by their dotted keys.
    """

    avatar: str
    portrait: Portrait
    head: str
    fingerprint: str
    finished: bool
    config: Mapping[str, Any]


Sample = dict[str, Any]
"""A webdataset sample before decoding: its name by :data:`KEY`, and the bytes of its files by extension."""


def encode_clip(clip: ExportedClip) -> Sample:
    """The files of a clip; equal clips have equal bytes."""
    spec = clip.spec
    about = {
        "kind": "clip",
        "avatar": clip.avatar,
        "stage": spec.key.stage,
        "name": spec.key.name,
        "newest": clip.newest,
        **{name: getattr(clip, name) for name in _COUNTS},
        "request_id": clip.request_id,
        "frames": len(spec),
        "size": spec.size,
        "head": clip.head,
        "fingerprint": clip.fingerprint,
    }
    arrays = {name: getattr(spec, name) for name in _POSES}
    if spec.arkit is not None:
        arrays["arkit"] = spec.arkit
    arrays |= {"landmarks": clip.landmarks.points, "landmarks_valid": clip.landmarks.valid}
    sample = {
        KEY: f"clips/{clip.avatar}/{spec.key.stage}/{spec.key.name}-v{clip.version:05d}",
        _ABOUT: _text(about),
        _ARRAYS: _pack(arrays),
    }
    for kind, pictures in (("frame", clip.frames), ("render", clip.render)):
        for number, picture in enumerate(pictures if pictures is not None else ()):
            sample[_picture(kind, number)] = png(picture, _LEVEL)
    return sample


def decode_clip(sample: Mapping[str, Any]) -> ExportedClip:
    """Inverse of :func:`encode_clip`.

    Raises:
        DatasetError: if a file of the sample is missing or damaged.
    """
    try:
        about, arrays = json.loads(sample[_ABOUT]), _unpack(sample[_ARRAYS])
        spec = ClipSpec(
            key=SampleKey(about["stage"], about["name"]),
            size=about["size"],
            arkit=arrays.get("arkit"),
            **{name: arrays[name] for name in _POSES},
        )
        valid = arrays["landmarks_valid"]
        numbers = range(about["frames"])
        has_render = _picture("render", 0) in sample
        return ExportedClip(
            avatar=about["avatar"],
            spec=spec,
            frames=np.stack([_pixels(sample[_picture("frame", number)]) for number in numbers]),
            render=np.stack([_pixels(sample[_picture("render", number)]) for number in numbers])
            if has_render
            else None,
            landmarks=LandmarkTrack(arrays["landmarks"], valid, np.ones_like(valid)),
            newest=about["newest"],
            **{name: about[name] for name in _COUNTS},
            request_id=about["request_id"],
            head=about["head"],
            fingerprint=about["fingerprint"],
        )
    except _DAMAGE as error:
        raise _damaged(sample, error) from error


def encode_portrait(exported: ExportedPortrait) -> Sample:
    """The files of a portrait; equal portraits have equal bytes."""
    from zero1toa.head.protocol import PARAMETERS

    portrait = exported.portrait
    about = {
        "kind": "portrait",
        "avatar": exported.avatar,
        "head": exported.head,
        "fingerprint": exported.fingerprint,
        "size": portrait.size,
        "residual": portrait.residual,
        "yaw": portrait.yaw,
        "notes": list(portrait.notes),
        "finished": exported.finished,
        "config": dict(exported.config),
    }
    arrays = {name: getattr(portrait, name) for name in _VIEW}
    for name in PARAMETERS:
        value = getattr(portrait.params, name)
        if value is not None:
            arrays[f"params.{name}"] = value.detach().cpu().numpy()
    return {
        KEY: f"portraits/{exported.avatar}/portrait",
        _ABOUT: _text(about),
        _ARRAYS: _pack(arrays),
        "png": png(portrait.image, _LEVEL),
    }


def decode_portrait(sample: Mapping[str, Any]) -> ExportedPortrait:
    """Inverse of :func:`encode_portrait`.

    Raises:
        DatasetError: if a file of the sample is missing or damaged.
    """
    import torch

    from zero1toa.head.protocol import PARAMETERS, HeadParams

    try:
        about, arrays = json.loads(sample[_ABOUT]), _unpack(sample[_ARRAYS])
        params: dict[str, Any] = {
            name: torch.from_numpy(arrays[f"params.{name}"]) if f"params.{name}" in arrays else None
            for name in PARAMETERS
        }
        portrait = Portrait(
            image=_pixels(sample["png"]),
            params=HeadParams(**params, model=about["head"]),
            residual=about["residual"],
            yaw=about["yaw"],
            notes=tuple(about["notes"]),
            **{name: arrays[name] for name in _VIEW},
        )
        return ExportedPortrait(
            avatar=about["avatar"],
            portrait=portrait,
            head=about["head"],
            fingerprint=about["fingerprint"],
            finished=about["finished"],
            config=about["config"],
        )
    except _DAMAGE as error:
        raise _damaged(sample, error) from error


_DAMAGE = (KeyError, ValueError, TypeError, OSError, EOFError, SyntaxError, zipfile.BadZipFile)


def _damaged(sample: Mapping[str, Any], error: Exception) -> DatasetError:
    return DatasetError(f"the sample {sample.get(KEY)} is damaged ({error}); export the dataset again")


def _picture(kind: str, number: int) -> str:
    return f"{kind}-{number:03d}.png"


def _text(about: Mapping[str, Any]) -> bytes:
    return (json.dumps(about, indent=1) + "\n").encode()


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)
