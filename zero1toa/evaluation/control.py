"""Does the avatar do what it is told? Measured with MediaPipe on its renders, never with the head model's own mesh.

Each control is rendered, its landmarks are detected, and what they show is compared with what was asked for. Eye and
mouth openings are distances between landmarks over the face height, so that they are independent of the picture's size.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.head.protocol import N_LANDMARKS, HeadModel, HeadParams
from zero1toa.portrait.fitting import DISTANCE, head_yaw
from zero1toa.portrait.landmarks import detect_landmarks, face_height

if TYPE_CHECKING:
    from zero1toa.evaluation.playback import AvatarPlayer

Points = NDArray[np.floating]

# Upper and lower points of the inner lips and of each eye's lids, and each eye's corners, in a picture
# from left to right.
_LIPS = ((82, 87), (13, 14), (312, 317))
_LIDS = {
    "right": ((160, 144), (159, 145), (158, 153), (161, 163)),
    "left": ((387, 373), (386, 374), (385, 380), (388, 390)),
}
_CORNERS = {"right": (33, 133), "left": (362, 263)}
_MOUTH = (61, 291)
# Points of the face that expressions hardly move, for the yaw: brow ridge, nose, eye corners, temples, cheekbones.
_RIGID = (
    6, 168, 197, 195, 5, 4, 1, 98, 327, 33, 133, 263, 362, 127, 356, 234, 454, 9, 8, 151, 10, 67, 297, 103, 332, 54,
    284,
)  # fmt: skip

JAW_OPEN = 0.08
"""Smallest gain of lip opening at jawOpen = 1, over the face height."""
BLINK_CUT = 0.60
"""Smallest cut of the eye opening at eyeBlink = 1."""
WINK_REST = 0.25
"""Largest cut of the other eye's opening in a wink."""
YAW_ERROR = 8.0
"""Largest error of the measured yaw at +-30 degrees."""


class RenderAvatar(Protocol):
    """Renders an avatar."""

    def __call__(self, arkit: torch.Tensor, yaw: float) -> NDArray[np.uint8]:
        """Picture ``[512, 512, 3]`` uint8 of the avatar with ARKit coefficients ``[52]``, turned by ``yaw`` degrees.

        Positive yaw turns the head to the subject's left, as a camera at azimuth ``-yaw`` sees it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ControlReport:
    """What MediaPipe measured; NaN where it found no face. Openings and widths are shares of the face height.

    Attributes:
        jaw_open: lip opening at jawOpen = 1 minus that at rest.
        blink_left: cut of the left eye's opening at both eyeBlinks = 1, 0 to 1 (below 0 if the eye opened).
        blink_right: the same of the right eye.
        wink_left: cut of the left eye's opening at eyeBlinkLeft = 1.
        wink_left_other: cut of the right eye's opening then.
        wink_right: cut of the right eye's opening at eyeBlinkRight = 1.
        wink_right_other: cut of the left eye's opening then.
        smile: mouth width at both mouthSmiles = 1 over that at rest.
        yaw: yaw asked for to yaw measured, degrees, relative to the measured yaw at 0.
        found: yaw asked for to whether a face was found.
    """

    jaw_open: float
    blink_left: float
    blink_right: float
    wink_left: float
    wink_left_other: float
    wink_right: float
    wink_right_other: float
    smile: float
    yaw: dict[float, float]
    found: dict[float, bool]

    def checks(self) -> dict[str, bool]:
        """Pass or fail of every figure; a NaN fails."""
        return {
            f"jawOpen opens the lips by >= {JAW_OPEN:.0%} of the face": self.jaw_open >= JAW_OPEN,
            f"eyeBlink closes both eyes by >= {BLINK_CUT:.0%}": self.blink_left >= BLINK_CUT
            and self.blink_right >= BLINK_CUT,
            "eyeBlinkLeft closes the subject's left eye only": self.wink_left >= BLINK_CUT
            and self.wink_left_other <= WINK_REST,
            "eyeBlinkRight closes the subject's right eye only": self.wink_right >= BLINK_CUT
            and self.wink_right_other <= WINK_REST,
            "mouthSmile widens the mouth": self.smile > 1.0,
            **{
                f"yaw {yaw:+.0f} is seen within {YAW_ERROR:.0f} degrees": abs(got - yaw) <= YAW_ERROR
                for yaw, got in self.yaw.items()
            },
            **{f"a face is found at yaw {yaw:+.0f}": found for yaw, found in self.found.items()},
        }

    @property
    def passed(self) -> bool:
        """Whether every check passes."""
        return all(self.checks().values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values and checks, for JSON."""
        return {**dataclasses.asdict(self), "checks": self.checks(), "passed": self.passed}


def measure_control(
    render: RenderAvatar,
    head: HeadModel,
    identity: HeadParams | None = None,
    turns: tuple[float, ...] = (-30.0, 30.0),
    far_turns: tuple[float, ...] = (-45.0, 45.0),
) -> ControlReport:
    """Render an avatar under known controls and measure what a face detector sees.

    Args:
        render: renders the avatar for ARKit coefficients and a yaw.
        head: head model, whose rigid shape the yaw is measured with.
        identity: the avatar's parameters without batch dimension; the mean head by default.
        turns: yaws in degrees whose measurement counts.
        far_turns: yaws in degrees at which a face must be found.

    Returns:
        Measured values with pass and fail.

    Raises:
        AssetError: MediaPipe is missing.
    """
    controls: dict[str, dict[str, float]] = {
        "rest": {},
        "jaw": {"jawOpen": 1},
        "blink": {"eyeBlinkLeft": 1, "eyeBlinkRight": 1},
        "wink_left": {"eyeBlinkLeft": 1},
        "wink_right": {"eyeBlinkRight": 1},
        "smile": {"mouthSmileLeft": 1, "mouthSmileRight": 1},
    }
    seen = {name: find_landmarks(render(coefficients(values), 0.0)) for name, values in controls.items()}
    turned = {yaw: find_landmarks(render(torch.zeros(len(ARKIT_NAMES)), yaw)) for yaw in (*turns, *far_turns)}
    rest = seen["rest"]
    # One camera took all frontal pictures: the face height at rest is the unit, an open jaw must not stretch it.
    unit = face_height(rest)
    lips = {name: lip_opening(seen[name]) / unit for name in ("rest", "jaw")}
    rigid = rigid_landmarks(head, identity)
    straight = measure_yaw(rest, rigid)

    def cut(name: str, side: Literal["left", "right"]) -> float:
        return 1 - eye_opening(seen[name], side) / eye_opening(rest, side)

    return ControlReport(
        jaw_open=lips["jaw"] - lips["rest"],
        blink_left=cut("blink", "left"),
        blink_right=cut("blink", "right"),
        wink_left=cut("wink_left", "left"),
        wink_left_other=cut("wink_left", "right"),
        wink_right=cut("wink_right", "right"),
        wink_right_other=cut("wink_right", "left"),
        smile=mouth_width(seen["smile"]) / mouth_width(rest),
        yaw={yaw: measure_yaw(turned[yaw], rigid) - straight for yaw in turns},
        found={yaw: bool(np.isfinite(turned[yaw]).all()) for yaw in far_turns},
    )


def control_of(player: AvatarPlayer, size: int = 512) -> ControlReport:
    """Measure the control of an avatar that can be played; a turned head is seen by a turned camera.

    Raises:
        AssetError: MediaPipe is missing.
    """

    def render(arkit: torch.Tensor, yaw: float) -> NDArray[np.uint8]:
        return player.render(arkit[None].numpy(), azimuth=-yaw, size=size)[0]

    return measure_control(render, player.head, player.bundle.params)


def find_landmarks(image: NDArray[np.uint8]) -> Points:
    """Landmarks of one face in pixels ``[478, 2]``; NaN throughout if none is found, so that measures become NaN."""
    track = detect_landmarks(image[None])
    size = np.array([image.shape[1], image.shape[0]])
    return track.points[0] * size if track.valid[0] else np.full((N_LANDMARKS, 2), np.nan)


def lip_opening(points: Points) -> float:
    """Mean distance between upper and lower inner lip in pixels."""
    return _mean_distance(points, _LIPS)


def mouth_width(points: Points) -> float:
    """Distance between the corners of the mouth in pixels."""
    return _mean_distance(points, (_MOUTH,))


def eye_opening(points: Points, side: Literal["left", "right"]) -> float:
    """Mean distance between the lids of the subject's ``side`` eye in pixels, across the line between its corners.

    A detector sets the two points of a pair beside each other as well, by up to a third of an open eye's height, and
    leaves them so when the eye closes: what lies along the eye is no opening. Lids that cross are closed.
    """
    left, right = points[list(_CORNERS[side])]
    along = (right - left) / np.linalg.norm(right - left)
    down = np.array([-along[1], along[0]])
    return float(np.maximum(np.mean([(points[lower] - points[upper]) @ down for upper, lower in _LIDS[side]]), 0))


def rigid_landmarks(head: HeadModel, identity: HeadParams | None = None) -> Points:
    """Positions of the landmarks that expressions hardly move, on the head model, ``[N, 3]`` in metres.

    Without the identity's ``offset``: a detector sees the forehead under hair that the offset lifts off it.
    """
    with torch.no_grad():
        bare = head.neutral() if identity is None else identity.replace(offset=None)
        params = head.arkit(torch.zeros(len(ARKIT_NAMES)), bare)
        points = head.landmarks.positions(head.vertices(params), head.faces)
    return points[list(_RIGID)].double().cpu().numpy()


def measure_yaw(points: Points, rigid: Points, size: int = 512) -> float:
    """Yaw of the head in degrees, positive towards the subject's left, by a rigid fit to its own landmarks.

    The landmarks are matched by a perspective view of ``rigid`` whose camera is not told: its distance is fitted with
    the pose, held loosely at a portrait's. The detector's own depth is not used.

    Args:
        points: detected landmarks in pixels ``[478, 2]``.
        rigid: :func:`rigid_landmarks`.
        size: side of the square picture in pixels, whose middle the camera looks at.

    Returns:
        Degrees, NaN without landmarks.
    """
    target = (points[list(_RIGID)] - size / 2) / size
    if not np.isfinite(target).all():
        return math.nan
    middle = rigid.mean(0)
    model = rigid - middle
    span = np.linalg.norm(target - target.mean(0)) / np.linalg.norm(model[:, :2])  # picture sides per metre

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        distance = math.exp(x[3])
        camera = model @ _pose(x).T + distance * np.array([x[4], x[5], 1.0])
        focal = span * DISTANCE * math.exp(x[6])
        seen = focal * camera[:, :2] / camera[:, 2:]
        return np.append(((seen - target) / span).ravel(), 0.001 * (x[3] - math.log(DISTANCE)))

    # A nearly flat cloud leaves a mirrored pose: of the solutions from several sides the best one counts.
    place = target.mean(0) / (span * DISTANCE)
    starts = [np.array([0.0, math.radians(yaw), 0.0, math.log(DISTANCE), *place, 0.0]) for yaw in (-40.0, 0.0, 40.0)]
    best = min((least_squares(residual, start) for start in starts), key=lambda found: found.cost)
    return head_yaw(torch.from_numpy(_pose(best.x)))


def _pose(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Camera rotation ``[3, 3]`` (OpenCV) for an axis-angle turn ``x[:3]`` of the head before the camera."""
    return np.diag([1.0, -1.0, -1.0]) @ Rotation.from_rotvec(x[:3]).as_matrix()


def _mean_distance(points: Points, pairs: tuple[tuple[int, int], ...]) -> float:
    return float(np.mean([np.linalg.norm(points[a] - points[b]) for a, b in pairs]))
