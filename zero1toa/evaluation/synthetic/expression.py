"""Random ARKit expressions and their motion over a clip: poses, talk, blinks, gaze and wide-open mouths."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import smoothstep
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES

# Shapes that act together, the strongest they get, and how often a pose has them. A name without a side means both.
_POSES: tuple[tuple[dict[str, float], float], ...] = (
    ({"mouthSmile": 1.0, "cheekSquint": 0.4}, 0.24),
    ({"mouthSmile": 0.9, "jawOpen": 0.25, "mouthUpperUp": 0.45, "eyeSquint": 0.3}, 0.12),
    ({"mouthFrown": 0.9}, 0.07),
    ({"mouthPucker": 0.9}, 0.07),
    ({"mouthFunnel": 0.8, "jawOpen": 0.2}, 0.06),
    ({"mouthStretch": 0.7}, 0.05),
    ({"mouthPress": 0.7}, 0.05),
    ({"mouthDimple": 0.7}, 0.04),
    ({"mouthLowerDown": 0.7}, 0.06),
    ({"mouthUpperUp": 0.7}, 0.06),
    ({"mouthRollLower": 0.5, "mouthRollUpper": 0.5}, 0.04),
    ({"mouthShrugLower": 0.7, "mouthShrugUpper": 0.5}, 0.04),
    ({"mouthLeft": 0.7}, 0.04),
    ({"mouthRight": 0.7}, 0.04),
    ({"jawOpen": 0.6}, 0.16),
    ({"jawLeft": 0.6}, 0.04),
    ({"jawRight": 0.6}, 0.04),
    ({"jawForward": 0.7}, 0.03),
    ({"browDown": 0.9}, 0.10),
    ({"browInnerUp": 0.9}, 0.12),
    ({"browOuterUp": 0.8, "browInnerUp": 0.5}, 0.12),
    ({"eyeWide": 0.8}, 0.08),
    ({"eyeSquint": 0.8}, 0.08),
    ({"cheekPuff": 0.9}, 0.04),
    ({"noseSneer": 0.8}, 0.04),
    ({"tongueOut": 0.8, "jawOpen": 0.5}, 0.01),
)
_SOUNDS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.50, "mouthLowerDown": 0.25},
    {"jawOpen": 0.28, "mouthStretch": 0.35, "mouthUpperUp": 0.2},
    {"jawOpen": 0.12, "mouthSmile": 0.35, "mouthStretch": 0.2},
    {"jawOpen": 0.32, "mouthFunnel": 0.6},
    {"jawOpen": 0.12, "mouthPucker": 0.6, "mouthFunnel": 0.2},
    {"mouthPress": 0.4, "mouthRollLower": 0.2},
    {"jawOpen": 0.06, "mouthRollLower": 0.35, "mouthUpperUp": 0.2},
    {},
)
_WIDE: tuple[dict[str, float], ...] = (
    {"jawOpen": 1.0},
    {"jawOpen": 0.9, "mouthLowerDown": 0.5, "mouthUpperUp": 0.5},
    {"jawOpen": 0.8, "mouthSmile": 0.8},
    {"jawOpen": 0.7, "mouthFunnel": 0.7},
    {"mouthSmile": 0.9, "mouthUpperUp": 0.8, "mouthLowerDown": 0.8, "jawOpen": 0.2},
    {"jawOpen": 0.6, "mouthStretch": 0.6, "eyeSquint": 0.5},
)


def draw_poses(draw: Draw, count: int, liveliness: Tensor) -> Tensor:
    """Random mixtures of expressions.

    Args:
        draw: random stream.
        count: number of poses M.
        liveliness: multiplies how often shapes are active ``[M]``; 0 gives neutral faces.

    Returns:
        ARKit coefficients ``[M, 52]`` in [0, 1].
    """
    table = torch.stack([_vector(shape) for shape, _ in _POSES]).to(draw.device)
    often = torch.tensor([p for _, p in _POSES], device=draw.device)
    active = (draw.uniform(0.0, 1.0, count, len(_POSES)) < often * liveliness[:, None]).float()
    strength = active * draw.uniform(0.15, 1.0, count, len(_POSES))
    pose = strength @ table
    lean = torch.exp(0.15 * draw.normal(count, len(ARKIT_NAMES)))  # sides differ a little
    return (pose * lean).clamp(0.0, 1.0)


def single_units(draw: Draw, count: int) -> Tensor:
    """One action unit each, as the curriculum's spatial clips show them ``[M, 52]``."""
    table = torch.stack([_vector(shape) for shape, _ in _POSES]).to(draw.device)
    return table[draw.integers(len(_POSES), count)] * draw.uniform(0.4, 1.0, count, 1)


def gaze(draw: Draw, count: int, reach: float = 0.8) -> Tensor:
    """Look directions as the eight eyeLook coefficients ``[M, 52]``; both eyes turn together."""
    side, lift = draw.uniform(-reach, reach, count), draw.uniform(-0.6 * reach, 0.6 * reach, count)
    out = torch.zeros(count, len(ARKIT_NAMES), device=draw.device)
    for value, names in (
        (side, ("eyeLookOutLeft", "eyeLookInRight")),
        (-side, ("eyeLookInLeft", "eyeLookOutRight")),
        (lift, ("eyeLookUpLeft", "eyeLookUpRight")),
        (-lift, ("eyeLookDownLeft", "eyeLookDownRight")),
    ):
        for name in names:
            out[:, ARKIT_INDEX[name]] = value.clamp_min(0.0)
    return out


def motion(draw: Draw, batch: int, frames: int, wide: Tensor, still: Tensor) -> Tensor:
    """Expressions of a batch of clips.

    A clip glides from one mixture to another while it talks, glances and blinks.

    Args:
        draw: random stream.
        batch: B.
        frames: T.
        wide: 1 for clips whose mouth opens wide ``[B]``.
        still: 1 for clips whose expression does not change ``[B]``.

    Returns:
        ARKit coefficients ``[B, T, 52]`` in [0, 1].
    """
    time = torch.linspace(0.0, 1.0, frames, device=draw.device) if frames > 1 else torch.zeros(1, device=draw.device)
    lively = draw.uniform(0.0, 1.6, batch)
    first, last = draw_poses(draw, batch, lively), draw_poses(draw, batch, lively)
    unit = single_units(draw, batch)
    chosen = draw.chance(0.5, batch, 1)
    first = torch.where((still[:, None] > 0) & (chosen > 0), unit, first)
    start, width = draw.uniform(-0.2, 0.6, batch, 1), draw.uniform(0.3, 0.9, batch, 1)
    glide = smoothstep(start, start + width, time[None]) * (1.0 - still[:, None])
    path = torch.lerp(first[:, None], last[:, None], glide[..., None])

    moves = (1.0 - still)[:, None, None]
    path = path + moves * (draw.chance(0.6, batch) * draw.uniform(0.4, 1.1, batch))[:, None, None] * _talk(
        draw, batch, time
    )
    table = torch.stack([_vector(shape) for shape in _WIDE]).to(draw.device)
    opened = table[draw.integers(len(_WIDE), batch)] * draw.uniform(0.6, 1.1, batch, 1)
    middle, spread = draw.uniform(0.1, 0.9, batch, 1), draw.uniform(0.2, 0.8, batch, 1)
    swell = torch.maximum(torch.exp(-(((time[None] - middle) / spread) ** 2)), draw.chance(0.3, batch, 1))
    wide_path = (1.0 - 0.7 * swell)[..., None] * path + swell[..., None] * opened[:, None]
    path = torch.where(wide[:, None, None] > 0, wide_path, path)

    look = torch.lerp(gaze(draw, batch)[:, None], gaze(draw, batch)[:, None],
                      (moves * smoothstep(0.4, 0.6, time)[None, :, None]))  # fmt: skip
    path = path + look * draw.chance(0.75, batch)[:, None, None]
    return _blink(draw, path.clamp(0.0, 1.0), time, still)


def _talk(draw: Draw, batch: int, time: Tensor, syllables: int = 5) -> Tensor:
    table = torch.stack([_vector(shape) for shape in _SOUNDS]).to(draw.device)
    sounds = table[draw.integers(len(_SOUNDS), batch, syllables)]
    rate = draw.uniform(1.0, float(syllables), batch, 1)
    place = time[None] * rate + draw.uniform(0.0, 1.0, batch, 1)
    centres = torch.arange(syllables, device=draw.device) + 0.5
    weight = torch.exp(-(((place[..., None] - centres) / 0.45) ** 2))
    return weight @ sounds


def _blink(draw: Draw, path: Tensor, time: Tensor, still: Tensor) -> Tensor:
    batch = len(path)
    centre, width = draw.uniform(0.0, 1.0, batch, 1), draw.uniform(0.08, 0.25, batch, 1)
    pulse = torch.exp(-(((time[None] - centre) / width) ** 2)) * draw.chance(0.35, batch, 1) * (1.0 - still[:, None])
    shut = draw.chance(0.08, batch, 1) * draw.uniform(0.6, 1.0, batch, 1)
    both = torch.maximum(pulse, shut.expand_as(pulse))
    wink = draw.chance(0.12, batch, 1)
    side = draw.chance(0.5, batch, 1)
    left = both * torch.where(wink > 0, side, torch.ones_like(side))
    right = both * torch.where(wink > 0, 1.0 - side, torch.ones_like(side))
    path = path.clone()
    for name, amount in (("eyeBlinkLeft", left), ("eyeBlinkRight", right)):
        path[..., ARKIT_INDEX[name]] = torch.maximum(path[..., ARKIT_INDEX[name]], amount)
    # An eye that closes cannot stay wide, and a mouth cannot be pressed shut while the jaw hangs.
    for side_name in ("Left", "Right"):
        closed = path[..., ARKIT_INDEX["eyeBlink" + side_name]]
        path[..., ARKIT_INDEX["eyeWide" + side_name]] *= 1.0 - closed
        path[..., ARKIT_INDEX["eyeSquint" + side_name]] *= 1.0 - closed
    return path


def _vector(shape: dict[str, float]) -> Tensor:
    out = torch.zeros(len(ARKIT_NAMES))
    for name, weight in shape.items():
        for full in [name] if name in ARKIT_INDEX else [name + "Left", name + "Right"]:
            out[ARKIT_INDEX[full]] = weight
    return out
