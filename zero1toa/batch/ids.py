"""Names of portraits: made from file names where none is given, safe as folder names, never used twice.

A made name depends on its own photo and on whether others would have it too, never on their order: a portrait that is
found under the same name in a later job is the same portrait.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

LONGEST = 100
"""Most characters of an id: file systems stop at 255, and an avatar's files have names of their own."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def is_safe(name: str) -> bool:
    """Whether a name may be an id: letters, digits, ``.``, ``_``, ``-``, not beginning with ``.`` or ``-``."""
    return len(name) <= LONGEST and _SAFE.fullmatch(name) is not None


def from_path(path: str) -> str:
    """The id that a photo's path suggests: ``anna/front view.jpg`` is ``anna-front-view``; always safe."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    if parts:
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
    text = unicodedata.normalize("NFKD", "-".join(parts))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))  # ë is e and a mark
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    text = re.sub(r"-{2,}", "-", text).strip("-.")
    return text[:LONGEST] or "portrait"


def distinct(names: Sequence[str], origins: Sequence[tuple[str, ...]], taken: Collection[str] = ()) -> list[str]:
    """Make names unique: those that several portraits would have, or that are taken, get a digest of their origin.

    Args:
        names: safe names, as :func:`from_path` makes them.
        origins: for each name what the portrait is made of; equal ones are told apart by how often they came before.
        taken: names that others have.

    Returns:
        Safe names in the same order, none of them twice or in ``taken``.
    """
    wanted, seen = Counter(names), Counter[tuple[str, ...]]()
    used = set(taken) | {name for name, count in wanted.items() if count == 1}
    out: list[str] = []
    for name, origin in zip(names, origins, strict=True):
        if wanted[name] == 1 and name not in taken:
            out.append(name)
            continue
        digest = hashlib.sha256(json.dumps([*origin, seen[origin]]).encode()).hexdigest()
        seen[origin] += 1
        # Eight digits always do, unless someone names portraits to prevent it.
        tries = (f"{name[: LONGEST - length - 1]}-{digest[:length]}" for length in range(8, len(digest) + 1))
        name = next(name for name in tries if name not in used)
        used.add(name)
        out.append(name)
    return out
