"""Fit camera, identity and expression of a head model to the landmarks of one photo.

Robust least squares over the 478 landmarks with a Gaussian prior on the identity and a weighted L1 on non-negative
ARKit coefficients: the few shapes that portraits really show are cheap, the others six times dearer, because they would
otherwise explain identity and noise a little each. The head stays in its rest frame; the camera absorbs the pose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from zero1toa.errors import PortraitError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.head.protocol import N_LANDMARKS, HeadModel, HeadParams
from zero1toa.portrait.landmarks import face_height
from zero1toa.render.cameras import project

DISTANCE = 0.9
"""Camera distance in metres that the focal length is chosen for: a portrait's usual perspective. A photo does not tell
its focal length once it is cropped; 0.7 to 1.0 m fit equally well, less is clearly worse."""
FACE_METRES = 0.161
"""Mean face height from landmark 10 to 152 in metres, for the first guess of the scale."""
SHAPE_LIMIT = 2.5
"""Bound on identity coefficients in standard deviations; beyond it meshes fold."""
MAX_RESIDUAL = 0.03
"""Mean residual over the face height above which the landmarks are taken for no face."""

_SIGMA = 0.006  # scale of the robust loss: the detector's own jitter over the face height
_DATA_WEIGHT = 120.0  # landmarks are correlated: 478 of them count as this many
_EXPRESSION_WEIGHT = 4.0  # price of a full core expression, in the units of the Gaussian prior
_OTHER_PRICE = 6.0
_EXPRESSION_LIMIT = 1.0
_SQUINT_WEIGHT = 20.0  # price of eyes that look apart by one full coefficient: both look at one thing
_STEP = 0.05  # of the difference quotients, in the coefficients' own units
_LINEARISATIONS = 5
_CORE = (
    "jawOpen", "mouthSmileLeft", "mouthSmileRight", "mouthPucker", "mouthFrownLeft", "mouthFrownRight",
    "browInnerUp", "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight",
    "eyeLookUpLeft", "eyeLookUpRight",
)  # fmt: skip
_EXCLUDED = ("tongueOut",)  # no landmark shows it

_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
_IRIS = slice(468, 478)
_LIDS = (
    33,
    246,
    161,
    160,
    159,
    158,
    157,
    173,
    133,
    7,
    163,
    144,
    145,
    153,
    154,
    155,
    263,
    466,
    388,
    387,
    386,
    385,
    384,
    398,
    362,
    249,
    390,
    373,
    374,
    380,
    381,
    382,
)


def _gaze_difference() -> Tensor:
    """Matrix ``[2, 52]``: left minus right eye's gaze to the subject's left, and up, of ARKit coefficients."""
    signs = {
        "LookOutLeft": (1.0, 0.0), "LookInLeft": (-1.0, 0.0), "LookInRight": (-1.0, 0.0), "LookOutRight": (1.0, 0.0),
        "LookUpLeft": (0.0, 1.0), "LookDownLeft": (0.0, -1.0), "LookUpRight": (0.0, -1.0), "LookDownRight": (0.0, 1.0),
    }  # fmt: skip
    out = torch.zeros(2, len(ARKIT_NAMES))
    for name, sign in signs.items():
        out[:, ARKIT_INDEX[f"eye{name}"]] = torch.tensor(sign)
    return out


_GAZE = _gaze_difference()


@dataclasses.dataclass(frozen=True)
class HeadFit:
    """A head that explains the landmarks of a photo.

    Attributes:
        params: head with the photo's identity and expression, no batch dimension; the neck is straight.
        neutral: the same identity without expression.
        arkit: ARKit coefficients ``[52]`` in [0, 1].
        viewmat: world-to-camera ``[4, 4]``, OpenCV, metres.
        K: intrinsics ``[3, 3]`` in pixels, as given.
        projected: the fitted landmarks in pixels ``[478, 2]``.
        residuals: distance of each landmark over the face height ``[478]``.
        yaw: head yaw towards the subject's left in degrees, seen from the camera.
    """

    params: HeadParams
    neutral: HeadParams
    arkit: Tensor
    viewmat: Tensor
    K: Tensor
    projected: Tensor
    residuals: Tensor
    yaw: float

    @property
    def residual(self) -> float:
        """Mean residual of all landmarks over the face height."""
        return float(self.residuals.mean())


@dataclasses.dataclass(frozen=True)
class KnownHead:
    """What of a head is known already, in the head model's own coefficients, and is not fitted.

    Attributes:
        shape: identity ``[S]``, or None to fit it.
        expression: expression ``[E]``, or None to fit expression, jaw and lids as ARKit coefficients.
        jaw: jaw rotation ``[3]``, together with ``expression``.
        lids: lid closure ``[2]``, together with ``expression``.
    """

    shape: Tensor | None = None
    expression: Tensor | None = None
    jaw: Tensor | None = None
    lids: Tensor | None = None

    @property
    def pose(self) -> dict[str, Tensor]:
        """The known parameters of the pose."""
        given = {"expression": self.expression, "jaw": self.jaw, "lids": self.lids}
        return {name: value for name, value in given.items() if value is not None}


def portrait_intrinsics(points: NDArray[np.floating], center: tuple[float, float]) -> Tensor:
    """Intrinsics that put a face of ``points`` ``[478, >=2]`` at :data:`DISTANCE`, the principal point at ``center``.

    Returns:
        K ``[3, 3]`` float32 in the pixels of ``points``.
    """
    width = float(np.ptp(points[:468, 0])) * FACE_METRES / 0.141  # a face turned up or down is shorter, not narrower
    focal = DISTANCE * max(face_height(points), width) / FACE_METRES
    return torch.tensor([[focal, 0.0, center[0]], [0.0, focal, center[1]], [0.0, 0.0, 1.0]])


def fit_head(
    points: NDArray[np.floating],
    K: Tensor,
    head: HeadModel,
    start: HeadFit | None = None,
    max_residual: float = MAX_RESIDUAL,
    name: str = "the picture",
    known: KnownHead | None = None,
) -> HeadFit:
    """Fit ``head`` to landmarks.

    Args:
        points: detected landmarks ``[478, 3]``, x and y in pixels, z in pixels (MediaPipe's, only for the first pose).
        K: intrinsics ``[3, 3]`` in pixels, kept fixed.
        head: the head model, on CPU.
        start: an earlier fit of the same face, for example under other intrinsics.
        max_residual: refuse a mean residual above this share of the face height.
        name: what messages call the picture.
        known: identity or expression that are given; camera and gaze are fitted all the same, and ``arkit`` is
            the fitted expression even where another one is given.

    Returns:
        The fit; deterministic.

    Raises:
        PortraitError: the landmarks do not look like a face of this head model.
        ValueError: ``points`` has another shape.
    """
    if points.shape != (N_LANDMARKS, 3):
        raise ValueError(f"points must be [{N_LANDMARKS}, 3], got {list(points.shape)}")
    target = torch.as_tensor(points[:, :2], dtype=torch.float32)
    known = known or KnownHead()
    free = known.shape is None
    with _one_thread(), torch.no_grad():
        problem = _Problem(target, K, head, face_height(points))
        if start is None:
            identity = problem.no_shape if known.shape is None else known.shape
            guess = _Unknowns(*_first_pose(points, K, head), identity, problem.no_arkit)
            guess = problem.solve(guess, shape=False, expression=False, iterations=50)
            if free:
                guess = problem.solve(guess, shape=True, expression=False, iterations=50)
        else:
            identity = start.params.shape if known.shape is None else known.shape
            guess = _Unknowns(start.viewmat[:3, :3], start.viewmat[:3, 3], identity, start.arkit)
        best, cost = guess, math.inf
        for _ in range(_LINEARISATIONS):
            guess = problem.solve(best, shape=free, expression=True, iterations=150)
            reached = problem.cost(guess)
            if reached >= cost:
                break
            settled = reached > cost * (1 - 5e-3)
            best, cost = guess, reached
            if settled:
                break
        if known.pose:
            problem.pose = known.pose
            best = problem.solve(best, shape=free, expression=False, iterations=150)
        fit = problem.result(best)
    if not math.isfinite(fit.residual) or fit.residual > max_residual:
        if known.pose or not free:
            raise PortraitError(
                f"the landmarks of {name} differ from the given identity or expression by {fit.residual:.1%} of the "
                f"face height on average (at most {max_residual:.1%} is accepted); give the tracker's result on this "
                "very photo"
            )
        raise PortraitError(
            f"the landmarks of {name} differ from every face that the head model can make by {fit.residual:.1%} of the "
            f"face height on average (at most {max_residual:.1%} is accepted); give a clear photo of one uncovered face"
        )
    return fit


def head_yaw(rotation: Tensor) -> float:
    """Yaw of the head towards the subject's left in degrees, seen from a camera with ``rotation`` ``[3, 3]``.

    It is the angle of the face's direction (+z) about the camera's vertical: 0 towards the camera, positive when the
    face turns to the subject's left, which is the picture's right.
    """
    forward = rotation[:, 2]
    return math.degrees(math.atan2(float(forward[0]), -float(forward[2])))


class _Unknowns(NamedTuple):
    """Camera rotation ``[3, 3]``, translation ``[3]``, identity ``[S]`` and ARKit coefficients ``[52]``."""

    rotation: Tensor
    translation: Tensor
    shape: Tensor
    arkit: Tensor


class _Problem:
    """The objective, and its minimisation with the landmarks linear in identity and expression.

    Landmarks are nearly linear in both, and evaluating a whole head at every step of a line search would take many
    times as long; so the head is evaluated in one batch per linearisation, and two or three of these suffice.
    """

    def __init__(self, target: Tensor, K: Tensor, head: HeadModel, height: float) -> None:
        self.target, self.K, self.head, self.height = target, K.float(), head, height
        self.identity = head.neutral()
        self.no_shape, self.no_arkit = torch.zeros(head.n_shape), torch.zeros(len(ARKIT_NAMES))
        self.pose: dict[str, Tensor] = {}  # parameters that replace what ARKit coefficients say
        self.neutral = self.landmarks(self.no_shape, self.no_arkit)
        price = torch.full((len(ARKIT_NAMES),), _OTHER_PRICE)
        price[[ARKIT_INDEX[name] for name in _CORE]] = 1.0
        self.price = price * _EXPRESSION_WEIGHT
        self.limit = torch.full((len(ARKIT_NAMES),), _EXPRESSION_LIMIT)
        self.limit[[ARKIT_INDEX[name] for name in _EXCLUDED]] = 0.0

    def landmarks(self, shape: Tensor, arkit: Tensor) -> Tensor:
        """Landmarks ``[..., 478, 3]`` in metres."""
        identity = self.head.neutral(*shape.shape[:-1]).replace(shape=shape)
        params = self.head.arkit(arkit, identity).replace(**self.pose)
        return self.head.landmarks.positions(self.head.vertices(params), self.head.faces)

    def solve(self, start: _Unknowns, *, shape: bool, expression: bool, iterations: int) -> _Unknowns:
        """Minimise over the pose and, if wanted, identity and expression, with landmarks linearised at ``start``."""
        at = torch.cat([start.shape, start.arkit])
        n_shape = len(start.shape)
        free = torch.cat([torch.full((n_shape,), shape), torch.full((len(start.arkit),), expression)])
        base, slopes = self._linearise(start, free)
        weights = self._weights(start.rotation)

        def unpack(x: Tensor) -> _Unknowns:
            # One unit of x moves the face by about one centimetre, whatever the variable.
            rotation = _turn(0.1 * x[:3]) @ start.rotation
            translation = start.translation + x[3:6] * torch.tensor([0.01, 0.01, 0.1])
            both = at.masked_scatter(free, x[6:])
            return _Unknowns(rotation, translation, both[:n_shape], both[n_shape:])

        def objective(x: Tensor) -> Tensor:
            unknowns = unpack(x)
            points = base + (slopes @ (x[6:] - at[free])).reshape(base.shape)
            return self._objective(unknowns, points, weights)

        low = torch.cat([torch.full((n_shape,), -SHAPE_LIMIT), torch.zeros_like(start.arkit)])[free].tolist()
        high = torch.cat([torch.full((n_shape,), SHAPE_LIMIT), self.limit])[free].tolist()
        first = torch.cat([torch.zeros(6), at[free]])
        return unpack(_minimize(objective, first, [-10.0] * 6 + low, [10.0] * 6 + high, iterations))

    def cost(self, unknowns: _Unknowns) -> float:
        """The objective with the head itself, not its linearisation."""
        points = self.landmarks(unknowns.shape, unknowns.arkit)
        return float(self._objective(unknowns, points, self._weights(unknowns.rotation)))

    def result(self, unknowns: _Unknowns) -> HeadFit:
        """Everything a caller wants to know about a solution."""
        projected = self._project(unknowns, self.landmarks(unknowns.shape, unknowns.arkit))
        neutral = self.identity.replace(shape=unknowns.shape)
        viewmat = torch.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = unknowns.rotation, unknowns.translation
        return HeadFit(
            params=self.head.arkit(unknowns.arkit, neutral).replace(**self.pose),
            neutral=neutral,
            arkit=unknowns.arkit,
            viewmat=viewmat,
            K=self.K,
            projected=projected,
            residuals=(projected - self.target).norm(dim=-1) / self.height,
            yaw=head_yaw(unknowns.rotation),
        )

    def _objective(self, unknowns: _Unknowns, points: Tensor, weights: Tensor) -> Tensor:
        offset = (self._project(unknowns, points) - self.target) / (self.height * _SIGMA)
        # Pseudo-Huber: quadratic within the detector's jitter, linear beyond.
        data = _DATA_WEIGHT * (weights * (torch.sqrt(1 + offset.square().sum(-1)) - 1)).mean()
        squint = (_GAZE @ unknowns.arkit).square().sum()
        return (
            data + 0.5 * unknowns.shape.square().sum() + (self.price * unknowns.arkit).sum() + _SQUINT_WEIGHT * squint
        )

    def _project(self, unknowns: _Unknowns, points: Tensor) -> Tensor:
        last = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
        viewmat = torch.cat([torch.cat([unknowns.rotation, unknowns.translation[:, None]], 1), last])
        return project(points, viewmat, self.K)[0]

    def _linearise(self, at: _Unknowns, free: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks ``[478, 3]`` and their derivatives ``[1434, P]`` by the free coefficients, by differences."""
        values = torch.cat([at.shape, at.arkit])
        # Into the allowed range: lids, for one, stop at closed.
        steps = torch.where(values > 0.5, -_STEP, _STEP)[free]
        batch = values + torch.zeros(len(steps) + 1, 1)
        batch[torch.arange(1, len(steps) + 1), torch.nonzero(free)[:, 0]] += steps
        points = self.landmarks(batch[:, : len(at.shape)], batch[:, len(at.shape) :])
        return points[0], ((points[1:] - points[0]) / steps[:, None, None]).flatten(1).T.contiguous()

    def _weights(self, rotation: Tensor) -> Tensor:
        """Weight of each landmark ``[478]``, mean 1.

        In a turned face the far oval is not the mesh's oval: the detector slides it along the visible outline.
        """
        weights = torch.ones(N_LANDMARKS)
        weights[_IRIS] = 3.0  # ten landmarks alone carry the gaze
        weights[list(_LIDS)] = 8.0  # a millimetre of the eyes' opening changes the person
        yaw = head_yaw(rotation)
        hidden = min(abs(yaw) / 30.0, 1.0)
        # Turned to its left (positive yaw) the subject's left side is the far one.
        far = torch.sigmoid(math.copysign(1.0, yaw) * self.neutral[list(_OVAL), 0] / 0.01)
        weights[list(_OVAL)] = 1.0 - 0.85 * hidden * far
        return weights / weights.mean()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: the tensors are so small that several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _first_pose(points: NDArray[np.floating], K: Tensor, head: HeadModel) -> tuple[Tensor, Tensor]:
    """Camera rotation and translation from MediaPipe's own depth, by the similarity between both landmark clouds."""
    model = head.landmarks.positions(head.vertices(head.neutral()), head.faces)[:468].double().numpy()
    seen = points[:468].astype(np.float64)
    rotation, scale, _ = similarity(model, seen)
    focal, center = float(K[0, 0]), K[:2, 2].double().numpy()
    depth = focal / scale
    middle = (seen[:, :2].mean(0) - center) * depth / focal
    translation = np.array([middle[0], middle[1], depth]) - rotation @ model.mean(0)
    return torch.tensor(rotation, dtype=torch.float32), torch.tensor(translation, dtype=torch.float32)


def similarity(
    source: NDArray[np.floating], target: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Least-squares similarity ``target = scale * rotation @ source + shift`` (Umeyama 1991) of clouds ``[N, 3]``.

    Returns:
        Rotation ``[3, 3]`` (proper), scale, shift ``[3]``.
    """
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum() / (a * a).sum())
    return rotation, scale, target.mean(0) - scale * rotation @ source.mean(0)


def _turn(vector: Tensor) -> Tensor:
    """Rotation matrix ``[3, 3]`` of the unit quaternion along (1, vector / 2): near zero, of an axis-angle ``[3]``."""
    w, x, y, z = torch.cat([torch.ones(1), 0.5 * vector]) / torch.sqrt(1 + 0.25 * vector.square().sum())
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows).reshape(3, 3)


def _minimize(
    objective: Callable[[Tensor], Tensor], start: Tensor, low: list[float], high: list[float], iterations: int
) -> Tensor:
    """L-BFGS-B: the bounds make coefficients exactly zero, which a penalty alone would not."""

    def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        variable = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        with torch.enable_grad():
            loss = objective(variable)
            (gradient,) = torch.autograd.grad(loss, variable)
        return float(loss.detach()), gradient.double().numpy()

    found = minimize(
        value_and_gradient,
        start.double().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": iterations, "maxcor": 10, "ftol": 1e-6, "gtol": 1e-4},
    )
    return torch.tensor(found.x, dtype=torch.float32)
