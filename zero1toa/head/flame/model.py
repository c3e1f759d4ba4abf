"""FLAME as a head model.

    rest   = template + shape_basis @ (identity, expression) + pose_basis @ (R_1..4 - I)   (Li et al. 2017, eq. 1-5)
    lids   : turned about the eyeballs until they meet (zero closure leaves FLAME's own shape)
    posed  = linear blend skinning of (rest + offset); joints are regressed from the shape with its expression

Appended after FLAME's 5023 vertices are cavity, teeth and tongue, which FLAME lacks.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zero1toa import assets
from zero1toa.errors import HeadModelError
from zero1toa.head.flame.editions import DERIVATION, edition
from zero1toa.head.flame.lids import LidRig
from zero1toa.head.jointed import JointedHead
from zero1toa.head.protocol import HeadParams, LandmarkEmbedding

_SIDES = ("left", "right")


class FlameHead(JointedHead):
    """Implements :class:`zero1toa.head.protocol.HeadModel`; see there for the attributes.

    Further attributes:
        template: mean rest vertices ``[V, 3]`` in metres, FLAME's own first.
        weights: skinning weights ``[V, 5]``.
        n_flame: number of vertices that are FLAME's own.
        source: SHA-256 of the file that the model was imported from.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        self.name: str = edition(meta["edition"]).model
        self.n_shape: int = meta["n_shape"]
        self.n_flame: int = meta["n_flame"]
        self.source: str = meta["source"]
        self.height: float = meta["height"]
        self.center = torch.tensor(meta["center"], dtype=torch.float32)
        self.template = tensors["template"]
        self.n_vertices = len(self.template)
        self.faces = tensors["faces"].long()
        self.weights = tensors["weights"]
        self._basis = tensors["basis"].permute(2, 0, 1).flatten(1).contiguous()
        self.n_expression = len(self._basis) - self.n_shape
        self._pose_basis = tensors["pose_basis"].permute(2, 0, 1).flatten(1).contiguous()
        # Joints are linear in the coefficients: regress template and basis once.
        regressor = tensors["joint_regressor"]
        self._joints = regressor @ self.template
        self._joint_basis = torch.einsum("jv,vck->kjc", regressor, tensors["basis"]).flatten(1)
        self.regions: Mapping[str, Tensor] = {
            key.removeprefix("region."): value.bool() for key, value in tensors.items() if key.startswith("region.")
        }
        self.landmarks = LandmarkEmbedding(tensors["landmark_triangles"].long(), tensors["landmark_weights"])
        self._arkit_expression, self._arkit_jaw = tensors["arkit_expression"], tensors["arkit_jaw"]
        fields = LidRig.__dataclass_fields__
        self._lids = tuple(LidRig(**{name: tensors[f"lid_{side}.{name}"] for name in fields}) for side in _SIDES)

    @classmethod
    def load(cls, name: str, path: Path | None = None) -> FlameHead:
        """Read an installed edition.

        Args:
            name: its key, such as ``flame2020``.
            path: the installed file; found among the assets by default.

        Raises:
            HeadModelError: when it is not installed, damaged, another edition or made by another version.
        """
        wanted = edition(name)
        place = path or assets.find(wanted.key)
        if place is None:
            raise HeadModelError(
                f"{wanted.key} is not installed; download {wanted.files[0]} from https://flame.is.tue.mpg.de and run "
                f"zero1toa assets install {wanted.key} {wanted.files[0]}"
            )
        again = f"run zero1toa assets install {wanted.key} {wanted.files[0]} again"
        try:
            with np.load(place, allow_pickle=False) as stored:
                meta = json.loads(str(stored["meta"]))
                if meta.get("derivation") != DERIVATION:
                    raise HeadModelError(f"{place} was installed by another version of zero1toa; {again}")
                if meta["edition"] != wanted.key:
                    raise HeadModelError(f"{place} holds {meta['edition']}, not {wanted.key}; {again}")
                arrays = {key: stored[key] for key in stored.files if key != "meta"}
            return cls(arrays, meta)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise HeadModelError(f"{place} is not an installed FLAME model ({error}); {again}") from error

    def rest(self, params: HeadParams) -> Tensor:
        """Vertices of identity, expression, pose correctives, lids and offset before skinning ``[..., V, 3]``."""
        self._check(params)
        return self._rest(params, self._rotations(params))

    def vertices(self, params: HeadParams) -> Tensor:
        """Posed vertices ``[..., V, 3]`` in metres.

        Raises:
            HeadModelError: when the parameters are those of another head model or edition.
        """
        self._check(params)
        rotations = self._rotations(params)
        rest = self._rest(params, rotations)
        split = self._joint_basis.split([self.n_shape, self.n_expression])
        joints = params.shape @ split[0] + params.expression @ split[1]
        joints = self._joints + joints.unflatten(-1, (-1, 3))
        return self._skin(rest, rotations, joints)

    def _rest(self, params: HeadParams, rotations: Tensor) -> Tensor:
        shape, expression = self._basis.split([self.n_shape, self.n_expression])
        correctives = (rotations[..., 1:, :, :] - torch.eye(3).to(rotations)).flatten(-3) @ self._pose_basis
        moved = params.shape @ shape + params.expression @ expression + correctives
        rest = self.template + moved.unflatten(-1, (-1, 3))
        batch = torch.broadcast_shapes(rest.shape[:-2], params.lids.shape[:-1])
        rest = rest.expand(*batch, *rest.shape[-2:])
        for side, rig in enumerate(self._lids):
            ids, moves = rig.close(rest, params.lids[..., side].expand(batch))
            rest = rest.index_add(-2, ids, moves)
        return rest if params.offset is None else rest + params.offset
