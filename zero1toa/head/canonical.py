"""The canonical head: the embedded, licence-free animatable head.

It is measured and authored by ``python -m zero1toa.head.build``; this module only evaluates it. A vertex is

    rest   = template + shape @ shape_basis + expression @ expression_basis
    lids   : lid edges travel to a common line on the eyeball of this identity; no lid vertex enters the eyeball
    posed  = linear blend skinning of (rest + offset) with joints that depend on the identity
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zero1toa.errors import HeadModelError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.head.jointed import JointedHead
from zero1toa.head.protocol import HeadParams, LandmarkEmbedding

DATA = Path(__file__).parent / "data" / "canonical.safetensors"
#: Where the closed lids meet, from the open upper edge (0) to the open lower edge (1).
MEETING_LINE = 0.8
#: Lids further than this (metres) from touching the eyeball close in front of it.
CORNER_RELIEF = 0.0012
#: How much of a widening goes with looking up, as the lids follow the gaze.
LIDS_FOLLOW_UP = 0.45


class CanonicalHead(JointedHead):
    """Implements :class:`zero1toa.head.protocol.HeadModel`; see there for the attributes.

    Further attributes:
        shape_names: what each identity coefficient changes, e.g. ``nose_length`` (units: standard deviations).
        expression_names: ARKit name of each expression coefficient.
        template: mean rest vertices ``[V, 3]`` in metres.
        weights: skinning weights ``[V, 5]``.
        eye_radius: metres.
    """

    def __init__(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.name: str = meta["name"]
        self.shape_names: tuple[str, ...] = tuple(meta["shape_names"])
        self.expression_names: tuple[str, ...] = tuple(meta["expression_names"])
        self.eye_radius: float = meta["eye_radius"]
        self.height: float = meta["height"]
        self._clearance: float = meta["lid_clearance"]
        self._skirt_depth: float = meta["skirt_depth"]
        self.center = torch.tensor(meta["center"])
        self.template = tensors["template"]
        self.faces = tensors["faces"].long()
        self.weights = tensors["weights"]
        self.n_vertices = len(self.template)
        self.n_shape, self.n_expression = len(self.shape_names), len(self.expression_names)
        self._shape_basis = tensors["shape_basis"].float().flatten(1) / 1000
        self._expression_basis = tensors["expression_basis"].float().flatten(1) / 1000
        self._joints, self._joint_basis = tensors["joints"], tensors["joint_basis"].flatten(1)
        self._eyes, self._eye_basis = tensors["eye_centres"], tensors["eye_basis"].flatten(1)
        self._lid_edges = tensors["lid_edges"].long()
        self._lid_vertices = (tensors["lid_vertices_left"].long(), tensors["lid_vertices_right"].long())
        self._lid_weights = (tensors["lid_weights_left"], tensors["lid_weights_right"])
        self._skirts, self._skirt_loops = tensors["skirt_vertices"].long(), tensors["skirt_loops"].long()
        n_faces = len(self.faces)
        self.regions: Mapping[str, Tensor] = {
            key.removeprefix("region."): torch.from_numpy(np.unpackbits(bits.numpy(), count=n_faces).astype(bool))
            for key, bits in tensors.items()
            if key.startswith("region.")
        }
        self.landmarks = _embed(tensors["landmark_vertices"].long(), self.faces)
        self._arkit_expression = self._make_arkit_map()
        self._arkit_jaw = torch.zeros(len(ARKIT_NAMES), 3)
        self._arkit_jaw[ARKIT_INDEX["jawOpen"], 0] = meta["jaw_angle"]

    @classmethod
    def load(cls, path: Path = DATA) -> CanonicalHead:
        """Read the data file.

        Raises:
            HeadModelError: when the file is missing or is not a canonical head.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as stored:
                meta = json.loads((stored.metadata() or {})["canonical_head"])
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (not a mapping)
        except FileNotFoundError as error:
            raise HeadModelError(
                f"the canonical head's data file {path} is missing; reinstall zero1toa or run "
                "`python -m zero1toa.head.build`"
            ) from error
        except (SafetensorError, KeyError) as error:
            raise HeadModelError(f"{path} is not a canonical head; run `python -m zero1toa.head.build`") from error
        return cls(tensors, meta)

    def rest(self, params: HeadParams) -> Tensor:
        """Vertices of identity, expression, lids and offset before skinning ``[..., V, 3]`` in metres."""
        self._check(params)
        identity = (params.shape @ self._shape_basis).unflatten(-1, (-1, 3)) + self.template
        moved = identity + (params.expression @ self._expression_basis).unflatten(-1, (-1, 3))
        moved = self._close_lids(moved, self._eye_centres(params.shape), params.lids)
        return moved if params.offset is None else moved + params.offset

    def vertices(self, params: HeadParams) -> Tensor:
        """Posed vertices ``[..., V, 3]`` in metres.

        Raises:
            HeadModelError: when the parameters have the sizes of another head model.
        """
        rest = self.rest(params)
        joints = self._joints + (params.shape @ self._joint_basis).unflatten(-1, (-1, 3))
        return self._skin(rest, self._rotations(params), joints)

    def _eye_centres(self, shape: Tensor) -> Tensor:
        return self._eyes + (shape @ self._eye_basis).unflatten(-1, (2, 3))

    def _close_lids(self, rest: Tensor, centres: Tensor, lids: Tensor) -> Tensor:
        """Let the lid edges travel to their meeting line, then keep all lid skin outside the eyeball."""
        batch = torch.broadcast_shapes(rest.shape[:-2], lids.shape[:-1])
        rest = rest.expand(*batch, *rest.shape[-2:])
        radius = self.eye_radius + self._clearance
        ids, deltas = [], []
        for side in range(2):
            centre = centres[..., side, None, :]
            edge = rest[..., self._lid_edges[side], :]
            upper, lower = (edge - centre).unflatten(-2, (2, -1)).unbind(-3)
            middle = (1 - MEETING_LINE) * _unit(upper) + MEETING_LINE * _unit(lower)
            # Towards the corners the lids leave the eyeball; there they meet where they are, a little nearer to it.
            reach = 0.5 * (upper.norm(dim=-1, keepdim=True) + lower.norm(dim=-1, keepdim=True)) - CORNER_RELIEF
            meeting = centre + reach.clamp(min=radius) * _unit(middle)
            travel = torch.cat([meeting, meeting], dim=-2) - edge
            closure = lids[..., side, None, None].clamp(0, 1)
            moving = rest[..., self._lid_vertices[side], :]
            there = moving + closure * (self._lid_weights[side] @ travel)
            # The straight way from open to closed would dip into the eyeball.
            away = there - centre
            distance = away.norm(dim=-1, keepdim=True)
            there = centre + away * (distance.clamp(min=radius) / distance)
            ids.append(self._lid_vertices[side])
            deltas.append(there - moving)
        rest = rest.index_add(-2, torch.cat(ids), torch.cat(deltas, dim=-2))
        loops, rims = rest[..., self._skirt_loops, :], rest[..., self._skirts, :]
        # The inner rim of the lids dips into the eyeball wherever the edge is, so no slit ever opens beside it.
        hubs = centres[..., :, None, :]
        target = hubs + (self.eye_radius - self._skirt_depth) * _unit(loops - hubs)
        return rest.index_add(-2, self._skirts.flatten(), (target - rims).flatten(-3, -2))

    def _make_arkit_map(self) -> Tensor:
        """Matrix ``[52, E]`` from ARKit coefficients to expression coefficients."""
        out = torch.zeros(len(ARKIT_NAMES), self.n_expression)
        column = {name: i for i, name in enumerate(self.expression_names)}
        for name, i in column.items():
            out[ARKIT_INDEX[name], i] = 1.0
        for side in ("Left", "Right"):
            out[ARKIT_INDEX[f"eyeLookUp{side}"], column[f"eyeWide{side}"]] = LIDS_FOLLOW_UP
        return out


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _embed(vertices: Tensor, faces: Tensor) -> LandmarkEmbedding:
    """Landmarks that are vertices, as a triangle that has the vertex and its corner."""
    hit = vertices[:, None, None] == faces[None]
    triangles = hit.any(-1).int().argmax(-1)
    corner = (faces[triangles] == vertices[:, None]).float()
    return LandmarkEmbedding(triangles, corner)
