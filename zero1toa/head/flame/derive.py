"""Installing an edition: read the pickle, derive everything that FLAME's files lack, write one npz without pickles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from zero1toa import assets
from zero1toa.errors import HeadModelError
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.anatomy import examine
from zero1toa.head.flame.arkit import outer_vertices, solve_arkit
from zero1toa.head.flame.ears import cut_ears
from zero1toa.head.flame.editions import DERIVATION, EDITIONS, Edition, edition
from zero1toa.head.flame.importing import FlameArrays, file_hash, read_flame
from zero1toa.head.flame.landmarks import embed_landmarks
from zero1toa.head.flame.lids import LidRig, rig_lids
from zero1toa.head.flame.mouth import make_mouth
from zero1toa.head.flame.regions import find_regions, nearest_regions
from zero1toa.head.flame.registration import register
from zero1toa.media import atomic_path


def install_flame(name: str, source: Path, target: Path) -> None:
    """Import a FLAME pickle into an installed file, atomically.

    Args:
        name: edition key, such as ``flame2020``.
        source: the file as MPI distributes it.
        target: the npz to write.

    Raises:
        HeadModelError: when the file is no FLAME model, contains code, is evidently another edition or is already
            installed as another one, or when eyes and mouth cannot be found on its mesh.
    """
    wanted = edition(name)
    arrays = read_flame(source, wanted)
    mark = file_hash(source)
    _not_installed_as_another(wanted, source, mark, target.parent)
    stored = derive(arrays, wanted, mark)
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **stored)  # type: ignore[arg-type]


def derive(arrays: FlameArrays, wanted: Edition, mark: str) -> dict[str, np.ndarray]:
    """Everything that :class:`zero1toa.head.flame.model.FlameHead` reads, as plain arrays.

    Args:
        arrays: the checked content of the pickle.
        wanted: the edition.
        mark: SHA-256 of the pickle.
    """
    head = CanonicalHead.load()
    template, faces = arrays.template, arrays.faces
    anatomy = examine(template, faces)
    registration = register(head, template, faces, anatomy)
    regions = find_regions(template, faces, anatomy, head, registration)
    mouth = make_mouth(arrays, anatomy, head, registration, wanted.has_jaw)
    triangles, barycentric = embed_landmarks(template, faces, anatomy, head, registration)
    skin = outer_vertices(faces, anatomy.outer)
    units = solve_arkit(arrays, skin, head, registration, wanted.has_jaw)

    cut = cut_ears(faces, regions["ears"], len(template), len(template) + len(mouth.vertices))
    vertices = np.concatenate([template, mouth.vertices, cut.blend @ template])
    under = nearest_regions(vertices[cut.membrane].mean(1), head, registration)
    masks: dict[str, np.ndarray] = {}
    for name in (*regions, *mouth.regions):
        pieces = (
            regions.get(name, np.zeros(len(faces), bool)),
            mouth.regions.get(name, np.zeros(len(mouth.faces), bool)),
            under[name] if name in ("face", "scalp", "neck") else np.zeros(len(cut.membrane), bool),
        )
        masks[name] = np.concatenate(pieces)
    skull = template[np.unique(faces[regions["face"] | regions["scalp"]])]
    head_box = template[np.unique(faces[anatomy.skin])]
    meta = {
        "edition": wanted.key,
        "source": mark,
        "derivation": DERIVATION,
        "n_shape": arrays.n_shape,
        "n_flame": len(template),
        "center": [0.0, *(0.5 * (skull.min(0) + skull.max(0)))[1:].tolist()],
        "height": float(np.ptp(head_box[:, 1])),
    }

    def blended(values: np.ndarray) -> np.ndarray:
        return (cut.blend @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])

    mouth_pose = np.zeros((len(mouth.vertices), *arrays.pose_basis.shape[1:]))  # rigid: it needs no correctives
    reals = {
        "template": vertices,
        "basis": np.concatenate([arrays.basis, mouth.basis, blended(arrays.basis)]),
        "pose_basis": np.concatenate([arrays.pose_basis, mouth_pose, blended(arrays.pose_basis)]),
        "joint_regressor": np.pad(arrays.joint_regressor, ((0, 0), (0, len(vertices) - len(template)))),
        "weights": np.concatenate([arrays.weights, mouth.weights, blended(arrays.weights)]),
        "landmark_weights": barycentric,
        "arkit_expression": units.expression,
        "arkit_jaw": units.jaw,
        "arkit_explained": units.explained,
    }
    stored: dict[str, np.ndarray] = {key: np.ascontiguousarray(value, np.float32) for key, value in reals.items()}
    stored |= {"faces": np.concatenate([cut.faces, mouth.faces, cut.membrane]), "landmark_triangles": triangles}
    stored |= {f"region.{key}": mask for key, mask in masks.items()}
    for side, eye in zip(("left", "right"), anatomy.eyes, strict=True):
        stored |= _plain(rig_lids(template, faces, eye), f"lid_{side}")
    stored["meta"] = np.array(json.dumps(meta))
    return stored


def _plain(rig: LidRig, prefix: str) -> dict[str, np.ndarray]:
    out = {}
    for name in LidRig.__dataclass_fields__:
        value = getattr(rig, name).numpy()
        out[f"{prefix}.{name}"] = value.astype(np.float32) if value.dtype == np.float64 else value
    return out


def _not_installed_as_another(wanted: Edition, source: Path, mark: str, folder: Path) -> None:
    for other in EDITIONS.values():
        place = assets.find(other.key) or folder / other.stored
        if other == wanted or not place.is_file():
            continue
        try:
            with np.load(place, allow_pickle=False) as stored:
                same = json.loads(str(stored["meta"]))["source"] == mark
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # damaged: loading it will say so
        if same:
            raise HeadModelError(f"{source} is installed as {other.key} already; one file cannot be two editions")
