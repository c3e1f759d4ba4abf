"""The colour of hair behind a head whose forehead lies on the scalp too."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.avatar.hair_color import HairColor, UnseenHair

SKIN, BROWN = (0.7, 0.5, 0.4), (0.3, 0.22, 0.15)
FACE, SCALP = 400, 1000


def _hair(scalp: Tensor, confidence: Tensor, skin: tuple[float, float, float] = SKIN) -> UnseenHair:
    """Scalp ``[SCALP, 3]`` from the forehead, z = 0.1, to the back, z = -0.1; a face with brows before it."""
    face = torch.tensor(skin).repeat(FACE, 1)
    face[: FACE // 6] = torch.tensor([0.1, 0.08, 0.07])
    depth = torch.cat([torch.full((FACE,), 0.1), torch.linspace(0.1, -0.1, SCALP)])
    points = torch.stack([torch.zeros_like(depth), torch.zeros_like(depth), depth], -1)
    on_scalp = torch.arange(FACE + SCALP) >= FACE
    teller = HairColor(points, on_scalp, ~on_scalp)
    colors = torch.cat([face, scalp])[None]
    return teller(colors, torch.cat([torch.ones(FACE), confidence])[None], torch.tensor([[0.24, 0.18, 0.14]]))


def _front(share: float) -> Tensor:
    return (torch.arange(SCALP) < share * SCALP).float()


def _scalp(*parts: tuple[float, tuple[float, float, float]]) -> Tensor:
    """Colours up to shares of the way to the back."""
    result = torch.zeros(SCALP, 3)
    begin = 0
    for until, color in parts:
        result[begin : round(until * SCALP)] = torch.tensor(color)
        begin = round(until * SCALP)
    return result


def test_a_forehead_is_no_hair() -> None:
    found = _hair(_scalp((0.4, SKIN), (1.0, BROWN)), _front(0.5))
    assert (found.color[0] - torch.tensor(BROWN)).abs().max() < 0.03
    assert found.presence[0] > 0.95
    # Nor is its shine, although it is paler than the rest.
    found = _hair(_scalp((0.2, SKIN), (0.4, (0.85, 0.68, 0.59)), (1.0, BROWN)), _front(0.5))
    assert (found.color[0] - torch.tensor(BROWN)).abs().max() < 0.03


def test_white_hair_beside_a_bare_top() -> None:
    white = (0.8, 0.78, 0.75)
    found = _hair(_scalp((0.4, SKIN), (1.0, white)), _front(0.5))
    assert (found.color[0] - torch.tensor(white)).abs().max() < 0.05


def test_blond_hair_has_the_tone_of_hair() -> None:
    blond = (0.8, 0.68, 0.42)
    found = _hair(_scalp((0.3, SKIN), (1.0, blond)), _front(0.6))
    assert (found.color[0] - torch.tensor(blond)).abs().max() < 0.06
    assert found.presence[0] > 0.95


def test_bald_heads_have_none_however_they_are_lit() -> None:
    for light in (1.0, 1.25, 0.85):
        skin = tuple(light * value for value in SKIN)
        found = _hair(_scalp((0.3, SKIN), (1.0, skin)), _front(0.6))
        assert found.presence[0] < 0.2
        assert (found.color[0] - torch.tensor(skin)).abs().max() < 0.05


def test_a_picture_without_colours_is_told_by_brightness() -> None:
    grey = (0.6, 0.6, 0.6)
    dark = _hair(_scalp((0.4, grey), (1.0, (0.2, 0.2, 0.2))), _front(0.5), grey)
    assert dark.color[0].max() < 0.25
    assert dark.presence[0] > 0.95
    assert _hair(_scalp((1.0, (0.65, 0.65, 0.65))), _front(0.5), grey).presence[0] < 0.05


def test_nothing_seen_takes_what_is_expected() -> None:
    found = _hair(_scalp((1.0, BROWN)), torch.zeros(SCALP))
    torch.testing.assert_close(found.color[0], torch.tensor([0.24, 0.18, 0.14]), atol=1e-3, rtol=0)
    assert torch.isfinite(found.presence).all()


def test_a_head_without_a_scalp_has_none() -> None:
    points = torch.zeros(5, 3)
    teller = HairColor(points, torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool))
    found = teller(torch.rand(2, 5, 3), torch.ones(2, 5), torch.tensor([[0.24, 0.18, 0.14]]))
    assert found.color.shape == (2, 3)
    assert (found.presence == 0).all()
