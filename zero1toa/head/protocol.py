"""What every animatable head geometry offers: the interface between head models and everything built on them.

Frame: metres, +y up, the face looks along +z, the subject's left is +x. Rotations are axis-angle in radians.
All methods take any leading batch dimensions and are differentiable with respect to the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zero1toa.errors import HeadModelError

PARAMETERS = ("shape", "expression", "jaw", "neck", "eyes", "lids", "offset")
"""The tensors of :class:`HeadParams`."""
N_LANDMARKS = 478  # MediaPipe's face mesh (468) and its two irises (5 each: 468-472 right eye, 473-477 left eye)


@dataclasses.dataclass(frozen=True)
class HeadParams:
    """One head (or a batch of heads) in the coordinates of a head model.

    Leading dimensions ``...`` broadcast against each other, so one identity can be shared by many expressions.

    Attributes:
        shape: identity coefficients ``[..., S]``, unit standard deviation under the model's prior.
        expression: expression coefficients ``[..., E]`` (in the canonical head: ARKit weights of its displacement
            shapes; in FLAME: standard deviations).
        jaw: jaw joint rotation ``[..., 3]``.
        neck: neck joint rotation ``[..., 3]``.
        eyes: left and right eyeball rotation ``[..., 2, 3]``.
        lids: left and right lid closure ``[..., 2]``, 0 open, 1 closed.
        offset: per-vertex displacement in the rest pose ``[..., V, 3]`` in metres (hair volume), or None.
        model: name of the head model whose coefficients these are; None when nobody said. Editions of one model have
            equally many coefficients that mean different things, so a head refuses those of another.
    """

    shape: Tensor
    expression: Tensor
    jaw: Tensor
    neck: Tensor
    eyes: Tensor
    lids: Tensor
    offset: Tensor | None = None
    model: str | None = None

    def replace(self, **changes: Any) -> HeadParams:
        """Return a copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def map(self, function: Any) -> HeadParams:
        """Apply ``function`` to every tensor that is present (``.to``, indexing, ``detach``)."""
        fields = {name: getattr(self, name) for name in PARAMETERS}
        changes: dict[str, Any] = {k: None if v is None else function(v) for k, v in fields.items()}
        return self.replace(**changes)

    def to(self, *args: Any, **kwargs: Any) -> HeadParams:
        """Move or cast every tensor, as :meth:`torch.Tensor.to`."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def check(self, name: str) -> None:
        """Refuse parameters of another head model.

        Args:
            name: the head model that is to read them.

        Raises:
            HeadModelError: when they name another one.
        """
        if self.model is not None and self.model != name:
            raise HeadModelError(
                f"these coefficients are of the head model {self.model}, not {name}; their meanings differ, so they "
                "cannot be mixed: make them again with the head model in use"
            )


@dataclasses.dataclass(frozen=True)
class LandmarkEmbedding:
    """MediaPipe's 478 landmarks as points on the head mesh.

    Attributes:
        triangles: face index of each landmark ``[478]`` int64.
        barycentric: barycentric coordinates ``[478, 3]`` float32.
    """

    triangles: Tensor
    barycentric: Tensor

    def positions(self, vertices: Tensor, faces: Tensor) -> Tensor:
        """Landmark positions ``[..., 478, 3]`` for ``vertices`` ``[..., V, 3]`` and ``faces`` ``[F, 3]``."""
        corners = vertices[..., faces[self.triangles], :]
        return (corners * self.barycentric[..., None]).sum(-2)


@runtime_checkable
class HeadModel(Protocol):
    """An animatable head: FLAME, the embedded canonical head, or another mesh with the same abilities.

    Attributes:
        name: model and edition, stored in every file that holds parameters (``canonical-1``, ``flame-2020``).
        n_shape: number of identity coefficients S.
        n_expression: number of expression coefficients E.
        n_vertices: number of vertices V.
        faces: triangles ``[F, 3]`` int64, counter-clockwise seen from outside.
        regions: name to boolean mask over faces ``[F]``. Every model has ``face``, ``lips``, ``lids_left``,
            ``lids_right``, ``eye_left``, ``eye_right``, ``iris_left``, ``iris_right``, ``mouth`` (cavity), ``teeth``,
            ``ears``, ``scalp``, ``neck``. ``face`` contains ``lips`` and the lids, an eye contains its iris; otherwise
            the masks are disjoint.
        landmarks: MediaPipe's 478 points on the mesh.
        joints: joint names; always ``root, neck, jaw, left_eye, right_eye`` in this order.
        center: point the cameras orbit ``[3]`` (middle of the skull's box), metres.
        height: height of head and visible neck in metres, for camera framing.
    """

    name: str
    n_shape: int
    n_expression: int
    n_vertices: int
    faces: Tensor
    regions: Mapping[str, Tensor]
    landmarks: LandmarkEmbedding
    joints: tuple[str, ...]
    center: Tensor
    height: float

    def neutral(self, *batch: int) -> HeadParams:
        """Mean identity, no expression, eyes open and ahead, with leading dimensions ``batch``."""
        ...

    def vertices(self, params: HeadParams) -> Tensor:
        """Posed vertices ``[..., V, 3]`` in metres."""
        ...

    def arkit(self, coefficients: Tensor, identity: HeadParams) -> HeadParams:
        """Set expression, jaw, eyes and lids of ``identity`` from ARKit coefficients ``[..., 52]``; neck is kept."""
        ...

    def to(self, device: torch.device | str) -> HeadModel:
        """The same head with its tensors on ``device``."""
        ...
