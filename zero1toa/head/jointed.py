"""What head models have in common whose eyes, jaw and neck turn about five joints."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor

from zero1toa.errors import HeadModelError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.head.protocol import HeadParams
from zero1toa.head.skinning import blend_skin, joint_transforms, rotation_matrix

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
PARENTS = (-1, 0, 1, 1, 1)
#: Gaze angles in radians of the eyeLook shapes at 1.
GAZE = {"In": 0.52, "Out": 0.52, "Up": 0.40, "Down": 0.50}
#: How much of a closure goes with looking down, as the lids follow the gaze.
LIDS_FOLLOW_DOWN = 0.38

Head = TypeVar("Head", bound="JointedHead")


class JointedHead:
    """The part of :class:`zero1toa.head.protocol.HeadModel` that does not depend on how a head gets its shape.

    A subclass sets, beside the attributes of the protocol, ``template`` (mean rest vertices ``[V, 3]`` in metres),
    ``weights`` (skinning weights ``[V, 5]``), ``_arkit_expression`` ``[52, E]`` and ``_arkit_jaw`` ``[52, 3]`` (from
    ARKit coefficients to expression coefficients and to the jaw's axis-angle rotation), and offers ``vertices``.
    """

    joints: tuple[str, ...] = JOINTS
    name: str
    n_shape: int
    n_expression: int
    template: Tensor
    weights: Tensor
    _arkit_expression: Tensor
    _arkit_jaw: Tensor

    def neutral(self, *batch: int) -> HeadParams:
        """Mean identity, no expression, eyes open and ahead, with leading dimensions ``batch``."""
        kind: dict[str, Any] = {"device": self.template.device, "dtype": self.template.dtype}
        return HeadParams(
            shape=torch.zeros(*batch, self.n_shape, **kind),
            expression=torch.zeros(*batch, self.n_expression, **kind),
            jaw=torch.zeros(*batch, 3, **kind),
            neck=torch.zeros(*batch, 3, **kind),
            eyes=torch.zeros(*batch, 2, 3, **kind),
            lids=torch.zeros(*batch, 2, **kind),
            model=self.name,
        )

    def arkit(self, coefficients: Tensor, identity: HeadParams) -> HeadParams:
        """Set expression, jaw, eyes and lids of ``identity`` from ARKit coefficients ``[..., 52]``; neck is kept.

        Raises:
            HeadModelError: when the last dimension is not 52.
        """
        if coefficients.shape[-1] != len(ARKIT_NAMES):
            raise HeadModelError(
                f"expected 52 ARKit coefficients in the last dimension, got {tuple(coefficients.shape)}"
            )
        value = {name: coefficients[..., i] for name, i in ARKIT_INDEX.items()}
        zero = torch.zeros_like(value["jawOpen"])
        eyes, lids = [], []
        for side, outwards in (("Left", 1.0), ("Right", -1.0)):
            down, up = value[f"eyeLookDown{side}"], value[f"eyeLookUp{side}"]
            yaw = outwards * (value[f"eyeLookOut{side}"] * GAZE["Out"] - value[f"eyeLookIn{side}"] * GAZE["In"])
            eyes.append(torch.stack([down * GAZE["Down"] - up * GAZE["Up"], yaw, zero], dim=-1))
            blink = value[f"eyeBlink{side}"]
            # A blink takes over from the lid that follows the gaze; both together never pass closed.
            lids.append(blink + (1 - blink) * LIDS_FOLLOW_DOWN * down)
        return identity.replace(
            expression=coefficients @ self._arkit_expression,
            jaw=coefficients @ self._arkit_jaw,
            eyes=torch.stack(eyes, dim=-2),
            lids=torch.stack(lids, dim=-1).clamp(0, 1),
        )

    def to(self: Head, device: torch.device | str, dtype: torch.dtype | None = None) -> Head:
        """The same head with its tensors on ``device`` (and floating-point ones in ``dtype``)."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, dtype) if value.is_floating_point() else value.to(device)
            if isinstance(value, tuple):
                return tuple(move(v) for v in value)
            if isinstance(value, dict):
                return {k: move(v) for k, v in value.items()}
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return dataclasses.replace(
                    value, **{field.name: move(getattr(value, field.name)) for field in dataclasses.fields(value)}
                )
            return value

        moved = copy.copy(self)
        for key, value in vars(self).items():
            setattr(moved, key, move(value))
        return moved

    def _rotations(self, params: HeadParams) -> Tensor:
        """Rotations of the five joints ``[..., 5, 3, 3]``; the root stays."""
        still = torch.zeros_like(params.neck)
        parts = (still, params.neck, params.jaw, params.eyes[..., 0, :], params.eyes[..., 1, :])
        return rotation_matrix(torch.stack(torch.broadcast_tensors(*parts), dim=-2))

    def _skin(self, rest: Tensor, rotations: Tensor, joints: Tensor) -> Tensor:
        """Rest vertices ``[..., V, 3]`` turned about joints ``[..., 5, 3]``."""
        return blend_skin(rest, self.weights, joint_transforms(rotations, joints, PARENTS))

    def _check(self, params: HeadParams) -> None:
        params.check(self.name)
        for field, size in (("shape", self.n_shape), ("expression", self.n_expression)):
            got = getattr(params, field).shape[-1]
            if got != size:
                raise HeadModelError(
                    f"{field} has {got} coefficients but {self.name} has {size}; "
                    "these parameters belong to another head model"
                )
