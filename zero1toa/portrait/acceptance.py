"""Which photos a portrait is made of: the checks that need nothing but landmarks, and what a photo is told."""

from __future__ import annotations

from zero1toa.config import PortraitConfig
from zero1toa.errors import PortraitError
from zero1toa.portrait.landmarks import Landmarks, face_height


def choose_face(name: str, faces: list[Landmarks], scale: float, config: PortraitConfig) -> Landmarks:
    """The face that the configuration asks for.

    Args:
        name: what messages call the photo.
        faces: those found in it, the largest first.
        scale: pixels that the faces are measured in per pixel of the file.
        config: which face, and how high it has to be.

    Raises:
        PortraitError: there is no face, or not that many; or the face is too small.
    """
    if not faces:
        raise PortraitError(
            f"there is no face in {name} that can be used; give an upright photo in which both eyes, nose and mouth "
            "can be seen, not a profile"
        )
    if config.face >= len(faces):
        raise PortraitError(f"portrait.face={config.face} but {name} shows {len(faces)} face(s), counted from 0")
    chosen = faces[max(config.face, 0)]
    height = face_height(chosen) / scale
    if height < config.min_face:
        raise PortraitError(
            f"the face in {name} is {height:.0f} pixels high; at least {config.min_face} are needed: give a larger or "
            "closer photo, or lower portrait.min_face"
        )
    return chosen


def turned_too_far(name: str, yaw: float, config: PortraitConfig) -> PortraitError:
    """The error about a head whose ``yaw`` in degrees is beyond what is accepted."""
    return PortraitError(
        f"the head in {name} is turned by {abs(yaw):.0f} degrees; at most {config.max_yaw:.0f} are accepted, "
        "because the other half of the face is hidden: give a more frontal photo, or raise portrait.max_yaw"
    )
