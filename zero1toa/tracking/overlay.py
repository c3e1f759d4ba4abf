"""The fitted head drawn over its portrait, so that one look tells whether the fit is right."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zero1toa import media
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import project
from zero1toa.types import Portrait

_SCALE = 2  # drawn at twice the size and reduced, which smooths the lines
_LINE, _DOT = (30, 120, 200, 90), (214, 80, 20, 255)


@torch.no_grad()
def fit_overlay(portrait: Portrait, head: HeadModel) -> NDArray[np.uint8]:
    """Draw the front of the fitted mesh as thin lines and the detected landmarks as dots.

    Args:
        portrait: the fitted portrait.
        head: its head model, on the CPU.

    Returns:
        ``[H, W, 3]`` uint8, of the portrait's size.
    """
    vertices = head.vertices(portrait.params.map(lambda tensor: tensor[None]))[0]
    pixels, depth = project(vertices, torch.as_tensor(portrait.viewmat), torch.as_tensor(portrait.K))
    corners = pixels[head.faces]
    edges = corners[:, 1:] - corners[:, :1]
    # Pixels count downwards: a triangle that is counter-clockwise from outside turns clockwise here when it faces us.
    facing = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0] < 0
    shown = head.regions["face"] & facing & (depth[head.faces] > 0).all(-1)
    triangles = corners[shown].numpy() * _SCALE
    base = Image.fromarray(media.over(portrait.image))
    canvas = base.resize((portrait.size * _SCALE, portrait.size * _SCALE), Image.Resampling.BICUBIC).convert("RGBA")
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for triangle in triangles:
        draw.line([*map(tuple, triangle), tuple(triangle[0])], fill=_LINE, width=1)
    radius = portrait.size * _SCALE / 340
    for x, y in portrait.landmarks * _SCALE:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_DOT)
    merged = Image.alpha_composite(canvas, layer).convert("RGB")
    return np.asarray(merged.resize(base.size, Image.Resampling.LANCZOS))
