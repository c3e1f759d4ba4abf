"""Landmark maps against pictures drawn by the three projects, every pixel equal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.diffusion import golden
from tests.diffusion.tiny_animators import NAMES
from zero1toa.diffusion.animator.drawing import LEFT_EYE_LINE, DrawingStyle, draw_frame, draw_track
from zero1toa.diffusion.aniportrait import STYLE as ANIPORTRAIT
from zero1toa.diffusion.echomimic import STYLE as ECHOMIMIC
from zero1toa.diffusion.echomimic import STYLE_WITHOUT_MOUTH
from zero1toa.diffusion.follow_your_emoji import STYLE as FOLLOW_YOUR_EMOJI
from zero1toa.types import LandmarkTrack

STYLES = {"follow_your_emoji": FOLLOW_YOUR_EMOJI, "aniportrait": ANIPORTRAIT, "echomimic": ECHOMIMIC}


@golden.needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_edges_are_the_recorded_ones(name: str) -> None:
    style = STYLES[name]
    own = [(start, end, *color, style.thickness) for start, end, color in style.edges()]
    # Follow-Your-Emoji draws the outline in black on black, first: nothing.
    recorded = [tuple(edge) for edge in golden.landmarks(name)["edges"].tolist() if any(edge[2:5])]
    # Lines of one colour may cover each other in any order: the originals keep them in sets.
    runs = [
        [(color, sorted(lines)) for color, lines in itertools.groupby(edges, key=lambda edge: edge[2:5])]
        for edges in (own, recorded)
    ]
    assert runs[0] == runs[1]


@golden.needs_golden
@pytest.mark.parametrize(
    ("name", "key", "style"),
    [
        ("follow_your_emoji", "draw/512x512", FOLLOW_YOUR_EMOJI),
        ("follow_your_emoji", "draw/w640_h512", FOLLOW_YOUR_EMOJI),
        ("aniportrait", "draw/512x512", ANIPORTRAIT),
        ("aniportrait", "draw/w256_h256", ANIPORTRAIT),
        ("echomimic", "draw/pose_driven_512x512", ECHOMIMIC),
        ("echomimic", "draw/audio_and_pose_512x512", STYLE_WITHOUT_MOUTH),
    ],
)
def test_drawings_are_the_recorded_ones(name: str, key: str, style: DrawingStyle) -> None:
    data = golden.landmarks(name)
    pictures = data[key]
    frames = range(2) if pictures.ndim == 4 else [1]
    for frame, picture in zip(frames, pictures.reshape(-1, *pictures.shape[-3:]), strict=True):
        height, width = picture.shape[:2]
        own = draw_frame(data["input/template/lmks"][frame], style, width, height)
        assert np.array_equal(own, picture)


@golden.needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_projected_vertices_are_drawn_as_recorded(name: str) -> None:
    data = golden.landmarks(name)
    vertices, pictures = data["retarget/vertices"], data["retarget/images"]
    points = np.full((len(vertices), 478, 2), -1.0)  # a mesh without irises has 468
    points[:, : vertices.shape[1]] = vertices / 512
    dropped = len(points) - len(pictures)  # Follow-Your-Emoji leaves out the first frame
    for own, picture in zip(points[dropped:], pictures, strict=True):
        assert np.array_equal(draw_frame(own, STYLES[name], 512, 512), picture)


@golden.needs_golden
@pytest.mark.parametrize("part", ["", "window6/"])
@pytest.mark.parametrize("name", NAMES)
def test_maps_of_the_recorded_clips(name: str, part: str) -> None:
    data = golden.tensors(name)
    points = data[f"input/{part}landmarks"][..., :2].numpy().astype(np.float32)
    track = LandmarkTrack(points, np.ones(len(points), bool), np.zeros(len(points), bool))
    assert np.array_equal(draw_track(track, STYLES[name], 128), data[f"input/{part}pose_images_uint8_hwc"].numpy())


def test_what_leaves_the_picture_is_left_out() -> None:
    points = np.full((478, 2), 0.5, np.float32)
    points[263], points[249] = (0.25, 0.5), (1.5, 0.5)  # the first line leaves, the others shrink to a point
    picture = draw_frame(points, DrawingStyle((LEFT_EYE_LINE,)), 64, 64)
    assert picture[32, 32].tolist() == [180, 200, 10]
    assert not picture[:, 40:].any()
    assert picture[32, 16:32].any()  # the upper lid starts at the same corner
    iris = DrawingStyle((), ((468, (255, 0, 0)),))
    for place, painted in (((0.5, 0.5), 36), ((0.02, 0.5), 0), ((1.0, 0.5), 0), ((-0.4, 0.5), 0), ((0.98, 0.5), 6 * 5)):
        points[468] = place
        assert int((draw_frame(points, iris, 64, 64)[..., 0] > 0).sum()) == painted


def test_frames_without_landmarks_stay_black() -> None:
    points = np.random.default_rng(0).uniform(0.2, 0.8, (3, 478, 2)).astype(np.float32)
    track = LandmarkTrack(points, np.array([True, False, True]), np.zeros(3, bool))
    for style in STYLES.values():
        maps = draw_track(track, style, 64)
        assert [bool(frame.any()) for frame in maps] == [True, False, True]
