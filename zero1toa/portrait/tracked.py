"""Identity and expression of a portrait from a tracker's files instead of from its landmarks."""

from __future__ import annotations

from pathlib import Path

import torch

from zero1toa.config import PortraitConfig
from zero1toa.head.flame.sequence import require_flame2020
from zero1toa.head.flame.tracked import read_expression, read_shape
from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.fitting import KnownHead


def read_known(config: PortraitConfig, head: HeadModel) -> KnownHead | None:
    """What the configuration gives of the head.

    Args:
        config: names the files, or none.
        head: the head model in use.

    Returns:
        What need not be fitted, or None.

    Raises:
        HeadModelError: files are named and the head is not FLAME 2020.
        MotionError: a file cannot be read, or has no identity or expression in it.
    """
    for place in filter(None, (config.shape_from, config.expression_from)):
        require_flame2020(head.name, place)
    known = KnownHead()
    if config.shape_from:
        known = KnownHead(shape=torch.from_numpy(read_shape(Path(config.shape_from).expanduser())))
    if config.expression_from:
        found = read_expression(Path(config.expression_from).expanduser())
        jaw, lids = torch.from_numpy(found.jaw), torch.from_numpy(found.lids)
        known = KnownHead(known.shape, torch.from_numpy(found.expression), jaw, lids)
    return known if config.shape_from or config.expression_from else None
