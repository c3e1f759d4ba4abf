"""A comparison as pictures and as a W&B run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from zero1toa import media
from zero1toa.batch.backbone_table import COLUMNS, Comparison
from zero1toa.config import Config, to_dict
from zero1toa.distributed.backbone_measuring import SIDE, Inspected
from zero1toa.storage import Storage
from zero1toa.tracking.wandb_folder import wandb_folder
from zero1toa.tracking.wandb_run import WandbRun

SHOWN = 24
"""Portraits that are shown: of a thousand, a picture could not be opened."""

_LONGEST = 26  # characters of a caption that fit under a picture
_RUN = "comparison"


def contact_sheet(portraits: Sequence[str], inspected: Mapping[str, Mapping[str, Inspected]]) -> bytes:
    """PNG with a row for each portrait: the portrait, then front and side of its avatar under each setting.

    Args:
        portraits: their names, of which the first :data:`SHOWN` are shown.
        inspected: by setting and portrait; what is missing is an empty field.
    """
    empty = np.full((SIDE, SIDE, 3), 235, np.uint8)
    pictures, labels = [], []
    for name in portraits[:SHOWN]:
        known = [one[name] for one in inspected.values() if name in one]
        pictures.append(next((one.portrait for one in known if one.portrait is not None), empty))
        labels.append(_short(name))
        for setting, avatars in inspected.items():
            avatar = avatars.get(name)
            pictures += [avatar.front, avatar.side] if avatar else [empty, empty]
            labels += [_short(setting), "from the side"] if avatar else [_short(setting), "no avatar"]
    return media.png(media.contact_sheet(pictures, labels, columns=1 + 2 * len(inspected)))


def log_comparison(
    config: Config, output: Storage, name: str, rows: Sequence[Comparison], picture: str, say: Callable[[str], None]
) -> None:
    """Log table, pictures and figures as a run of the benchmark's group; nothing that goes wrong in W&B is raised.

    Args:
        config: where runs go, and what is kept with this one.
        output: the benchmark's output.
        name: of the benchmark.
        rows: the settings.
        picture: name of the contact sheet in the output.
        say: takes one line about a fallback.
    """
    tracking = dataclasses.replace(config.tracking, group=config.tracking.group or name, label="")
    with wandb_folder(output, say) as folder:
        run = WandbRun(tracking, folder, _RUN, to_dict(config), say, job_type=_RUN)
        values = [dataclasses.asdict(row) for row in rows]
        run.table("backbones", COLUMNS, [[value[column] for column in COLUMNS] for value in values])
        run.picture("avatars", output.locate(picture))
        run.summary(
            {
                f"{value['setting']}/{column}": value[column]
                for value in values
                for column in COLUMNS
                if isinstance(value[column], int | float)
            }
        )
        run.close()


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
