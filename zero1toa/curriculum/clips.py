"""A clip's specification from ARKit coefficients and a camera path, and what of it is unlocked (paper eq. 2)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.curriculum.cameras import Lens, path
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import ClipSpec, SampleKey

_PER_FRAME = ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths", "arkit")


def clip_spec(
    key: SampleKey,
    *,
    head: HeadModel,
    identity: HeadParams,
    coefficients: NDArray[np.float32],
    azimuths: NDArray[np.float32],
    elevations: NDArray[np.float32],
    lens: Lens,
    size: int,
) -> ClipSpec:
    """Turn coefficients and camera angles into a specification.

    Args:
        key: name of the sample.
        head: model that turns ARKit coefficients into its own expression space.
        identity: the avatar's head, no batch dimension; its own expression is replaced, its neck is kept straight.
        coefficients: ARKit coefficients ``[T, 52]``.
        azimuths: camera azimuths ``[T]`` in degrees.
        elevations: camera elevations ``[T]`` in degrees.
        lens: field of view and distance.
        size: side of the square frames in pixels.

    Returns:
        The specification of all T frames, unlocked.
    """
    with torch.no_grad():
        straight = identity.replace(neck=torch.zeros_like(identity.neck))
        params = head.arkit(torch.from_numpy(np.ascontiguousarray(coefficients, np.float32)), straight)
    spec = posed_spec(key, head=head, params=params, azimuths=azimuths, elevations=elevations, lens=lens, size=size)
    return dataclasses.replace(spec, arkit=np.asarray(coefficients, np.float32))


def posed_spec(
    key: SampleKey,
    *,
    head: HeadModel,
    params: HeadParams,
    azimuths: NDArray[np.float32],
    elevations: NDArray[np.float32],
    lens: Lens,
    size: int,
) -> ClipSpec:
    """The specification of head parameters that are known already.

    Args:
        key: name of the sample.
        head: the model they belong to.
        params: expression and pose of T frames; what has no leading dimension is the same in all of them.
        azimuths: camera azimuths ``[T]`` in degrees.
        elevations: camera elevations ``[T]`` in degrees.
        lens: field of view and distance.
        size: side of the square frames in pixels.
    """
    frames = len(azimuths)

    def every(value: torch.Tensor, *shape: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(value.detach().expand(frames, *shape).cpu().numpy(), np.float32)

    viewmats, Ks = path(azimuths, elevations, lens, head.center, size)
    return ClipSpec(
        key=key,
        viewmats=viewmats,
        Ks=Ks,
        size=size,
        expression=every(params.expression, head.n_expression),
        jaw=every(params.jaw, 3),
        neck=every(params.neck, 3),
        eyes=every(params.eyes, 2, 3),
        lids=every(params.lids, 2),
        azimuths=np.asarray(azimuths, np.float32),
    )


def unlocked_spec(spec: ClipSpec, unlocked: int) -> ClipSpec:
    """What a clip shows while only its first ``unlocked`` frames are open: p_i = p^_min(i, j) (paper eq. 2).

    The locked frames show the pose of the last open frame, so that the clip keeps its length.

    Args:
        spec: the whole trajectory p^.
        unlocked: j, from 1 to the number of frames.

    Raises:
        ValueError: if ``unlocked`` is out of range.
    """
    if not 1 <= unlocked <= len(spec):
        raise ValueError(f"a clip of {len(spec)} frames can have 1 to {len(spec)} open frames, not {unlocked}")
    source = np.minimum(np.arange(len(spec)), unlocked - 1)
    values = {name: getattr(spec, name) for name in _PER_FRAME}
    return dataclasses.replace(spec, **{name: value[source] for name, value in values.items() if value is not None})
