"""Head models by name."""

from __future__ import annotations

from collections.abc import Callable

from zero1toa.errors import HeadModelError, nearest
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.protocol import HeadModel

_LOADERS: dict[str, Callable[[], HeadModel]] = {"canonical": CanonicalHead.load}


def head_names() -> tuple[str, ...]:
    """Names that :func:`load_head` knows."""
    return tuple(sorted(_LOADERS))


def load_head(name: str) -> HeadModel:
    """Load a head model.

    Args:
        name: ``canonical`` for the embedded head.

    Raises:
        HeadModelError: for an unknown name (naming the valid ones) or a missing file.
    """
    if name not in _LOADERS:
        raise HeadModelError(
            f"there is no head model '{name}'{nearest(name, _LOADERS)}; available: {', '.join(head_names())}"
        )
    return _LOADERS[name]()
