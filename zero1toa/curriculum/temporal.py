"""Temporal clips: the camera is fixed near the front, the expression moves, relaxed first, then exaggerated.

The paper takes relaxed speech from a speech-driven model and exaggerated expressions from talk-show recordings. Neither
may be redistributed, so both are made here (:mod:`zero1toa.curriculum.talk`) unless the user has them
(:mod:`zero1toa.curriculum.recordings`); the stages keep the paper's names.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.cameras import draw_lens
from zero1toa.curriculum.clips import clip_spec, posed_spec
from zero1toa.curriculum.recordings import Recordings, open_wide
from zero1toa.curriculum.talk import EXAGGERATED, RELAXED, TalkStyle, talk
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import ClipSpec, SampleKey, Stage


def synthetic_clips(
    config: CurriculumConfig, head: HeadModel, identity: HeadParams, size: int, rng: np.random.Generator
) -> list[ClipSpec]:
    """The ``config.synthetic_clips`` clips of relaxed talk (D_syn); arguments as :func:`spatial.spatial_clips`."""
    styles = [RELAXED] * config.synthetic_clips
    if config.synthetic_talk:
        return _recorded("temporal_synthetic", config.synthetic_talk, styles, config, head, identity, size, rng)
    return _clips("temporal_synthetic", "relaxed", styles, config, head, identity, size, rng)


def real_clips(
    config: CurriculumConfig, head: HeadModel, identity: HeadParams, size: int, rng: np.random.Generator
) -> list[ClipSpec]:
    """The ``config.real_clips`` clips of exaggerated talk (D_real).

    With ``config.wide_jaw`` every other clip opens the jaw wide once, at a strength drawn from [0.85, 1]: recordings
    stay under 10 degrees, so teeth and mouth cavity would never be seen. Arguments as :func:`spatial.spatial_clips`.
    """
    styles = []
    for index in range(config.real_clips):
        wide = float(rng.uniform(0.85, 1.0))
        styles.append(
            dataclasses.replace(EXAGGERATED, wide_jaw=wide) if config.wide_jaw and index % 2 == 0 else EXAGGERATED
        )
    if config.real_talk:
        return _recorded("temporal_real", config.real_talk, styles, config, head, identity, size, rng)
    return _clips("temporal_real", "lively", styles, config, head, identity, size, rng)


def _clips(
    stage: Stage,
    name: str,
    styles: list[TalkStyle],
    config: CurriculumConfig,
    head: HeadModel,
    identity: HeadParams,
    size: int,
    rng: np.random.Generator,
) -> list[ClipSpec]:
    clips = []
    for index, style in enumerate(styles):
        camera = _camera(config, head, size, rng)
        coefficients = talk(config.frames, style, rng)
        key = SampleKey(stage, f"{name}-{index:02d}")
        clips.append(clip_spec(key, head=head, identity=identity, coefficients=coefficients, **camera))
    return clips


def _recorded(
    stage: Stage,
    place: str,
    styles: list[TalkStyle],
    config: CurriculumConfig,
    head: HeadModel,
    identity: HeadParams,
    size: int,
    rng: np.random.Generator,
) -> list[ClipSpec]:
    """Clips of a folder's talk; of a style only its wide jaw is taken, which is put into the recording."""
    recordings = Recordings(place, head, rng)
    clips = []
    for index, style in enumerate(styles):
        camera = _camera(config, head, size, rng)
        params = recordings.take(config.frames, identity, rng)
        if style.wide_jaw > 0:
            params = open_wide(params, head, style.wide_jaw, rng)
        clips.append(posed_spec(SampleKey(stage, f"recorded-{index:02d}"), head=head, params=params, **camera))
    return clips


def _camera(config: CurriculumConfig, head: HeadModel, size: int, rng: np.random.Generator) -> dict[str, Any]:
    """A fixed camera, as the arguments of a specification."""
    lens = draw_lens(rng, config, head.height)
    azimuth, elevation = rng.uniform(*config.temporal_azimuth), rng.uniform(*config.temporal_elevation)
    return {
        "azimuths": np.full(config.frames, azimuth, np.float32),
        "elevations": np.full(config.frames, elevation, np.float32),
        "lens": lens,
        "size": size,
    }
