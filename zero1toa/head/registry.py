"""Head models by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from zero1toa.errors import HeadModelError, nearest
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.editions import EDITIONS
from zero1toa.head.protocol import HeadModel


def _flame(key: str) -> HeadModel:
    from zero1toa.head.flame.model import FlameHead

    return FlameHead.load(key)


_LOADERS: dict[str, Callable[[], HeadModel]] = {
    "canonical": CanonicalHead.load,
    **{key: functools.partial(_flame, key) for key in EDITIONS},
}
_MODELS = {edition.model: key for key, edition in EDITIONS.items()}


def head_names() -> tuple[str, ...]:
    """Names that :func:`load_head` knows."""
    return tuple(sorted(_LOADERS))


def load_head(name: str) -> HeadModel:
    """Load a head model.

    Args:
        name: ``canonical`` for the embedded head, or an edition of FLAME (``flame2020``, ``flame2023``,
            ``flame2023_no_jaw``, ``flame2023_open``), also by the name that files carry (``flame-2020``).

    Raises:
        HeadModelError: for an unknown name (naming the valid ones) or a missing file.
    """
    name = _MODELS.get(name, name)
    if name not in _LOADERS:
        raise HeadModelError(
            f"there is no head model '{name}'{nearest(name, _LOADERS)}; available: {', '.join(head_names())}"
        )
    return _LOADERS[name]()
