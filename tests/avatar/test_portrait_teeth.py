"""Teeth are found where a picture shows them: pictures painted from a head whose rows were moved by a known way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from zero1toa.avatar.features import LIP_SEAM
from zero1toa.avatar.portrait_teeth import lay_teeth
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project
from zero1toa.types import Portrait

SIZE = 384
SMILE = {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "jawOpen": 0.25}
TOOTH, CAVITY, SKIN = (225, 215, 200), (60, 22, 20), (205, 150, 125)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("canonical")


def rows(head: HeadModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower teeth: the upper ones do not follow the jaw."""
    ids = torch.unique(head.faces[head.regions["teeth"]])
    closed = head.vertices(head.neutral())
    opened = head.vertices(head.arkit(coefficients({"jawOpen": 1.0}), head.neutral()))
    moved = (opened - closed)[ids].norm(dim=-1) > 1e-4
    return ids[~moved], ids[moved]


def paint(
    head: HeadModel, expression: dict[str, float], down: float, up: float, light: tuple[float, ...], teeth: bool = True
) -> Portrait:
    """A portrait whose upper teeth stand ``down`` and whose lower ones ``up`` metres nearer to each other."""
    params = head.arkit(coefficients(expression), head.neutral())
    viewmat, K = orbit(0.0, 0.0, 0.9), intrinsics(18.0, SIZE)
    offset = torch.zeros(head.n_vertices, 3)
    upper, lower = rows(head)
    offset[upper, 1], offset[lower, 1] = -down, up
    vertices = head.vertices(params.replace(offset=offset))
    pixels = project(vertices, viewmat, K)[0].numpy()
    landmarks = project(head.landmarks.positions(vertices, head.faces), viewmat, K)[0].numpy()
    picture, opening = Image.new("RGB", (SIZE, SIZE), CAVITY), Image.new("1", (SIZE, SIZE))
    ImageDraw.Draw(opening).polygon([tuple(landmarks[i].tolist()) for i in LIP_SEAM], fill=1)
    draw = ImageDraw.Draw(picture)
    for triangle in pixels[head.faces[head.regions["teeth"]].numpy()] if teeth else []:
        draw.polygon([tuple(corner) for corner in triangle.tolist()], fill=TOOTH)
    image = np.where(np.asarray(opening)[..., None], np.asarray(picture), SKIN) * np.array(light)
    return Portrait(
        image=np.dstack([image, np.full((SIZE, SIZE), 255)]).astype(np.uint8),
        landmarks=landmarks.astype(np.float32),
        viewmat=viewmat.numpy(),
        K=K.numpy(),
        params=params,
        arkit=np.zeros(52, np.float32),
        residual=0.0,
        yaw=0.0,
    )


def moves(head: HeadModel, before: HeadParams, after: HeadParams) -> tuple[float, float]:
    """How far the rows have moved towards each other, millimetres; everything else has to stay."""
    zero = torch.zeros(head.n_vertices, 3)
    change = 1000 * (
        (zero if after.offset is None else after.offset) - (zero if before.offset is None else before.offset)
    )
    upper, lower = rows(head)
    others = torch.ones(head.n_vertices, dtype=torch.bool)
    others[upper] = others[lower] = False
    assert not change[others].any()
    assert not change[:, [0, 2]].any()
    return -float(change[upper, 1].mean()), float(change[lower, 1].mean())


@pytest.mark.parametrize("light", [(1.0, 1.0, 1.0), (1.0, 0.72, 0.5), (0.6, 0.6, 0.6)])
@pytest.mark.parametrize(("down", "up"), [(0.0, 0.0), (0.004, 0.0), (0.002, 0.003)])
def test_rows_are_found_again(head: HeadModel, down: float, up: float, light: tuple[float, ...]) -> None:
    portrait = paint(head, SMILE, down, up, light)
    found = moves(head, portrait.params, lay_teeth(head, portrait))
    assert found == pytest.approx((1000 * down, 1000 * up), abs=1.01)


def test_an_offset_that_is_there_is_kept(head: HeadModel) -> None:
    portrait = paint(head, SMILE, 0.004, 0.0, (1.0, 1.0, 1.0))
    moved = torch.full((head.n_vertices, 3), 0.0)
    moved[:100, 0] = 0.01
    portrait = dataclasses.replace(portrait, params=portrait.params.replace(offset=moved))
    assert moves(head, portrait.params, lay_teeth(head, portrait))[0] == pytest.approx(4, abs=1.01)


@pytest.mark.parametrize("expression", [SMILE, {"jawOpen": 1.0}])
def test_a_mouth_without_teeth_moves_none(head: HeadModel, expression: dict[str, float]) -> None:
    portrait = paint(head, expression, 0.0, 0.0, (1.0, 1.0, 1.0), teeth=False)
    assert lay_teeth(head, portrait) is portrait.params


def test_closed_lips_move_none(head: HeadModel) -> None:
    portrait = paint(head, {}, 0.004, 0.0, (1.0, 1.0, 1.0))
    assert lay_teeth(head, portrait) is portrait.params
