"""The four editions of FLAME: same triangles, different bases, so coefficients of one mean nothing in another."""

from __future__ import annotations

import dataclasses

from zero1toa.errors import HeadModelError, nearest

DERIVATION = 1
"""Version of what is derived from a mesh; a file that another version installed has to be installed again."""


@dataclasses.dataclass(frozen=True)
class Edition:
    """One edition.

    Attributes:
        key: what configuration and ``zero1toa assets`` call it (``flame2020``).
        model: name that files with coefficients carry (``flame-2020``).
        files: names under which MPI distributes it.
        has_jaw: whether the jaw opens by its joint; otherwise by expression coefficients.
    """

    key: str
    model: str
    files: tuple[str, ...]
    has_jaw: bool = True

    @property
    def stored(self) -> str:
        """Name of the installed file."""
        return f"{self.key}.npz"


EDITIONS: dict[str, Edition] = {
    edition.key: edition
    for edition in (
        Edition("flame2020", "flame-2020", ("generic_model.pkl", "FLAME_GENERIC.pkl")),
        Edition("flame2023", "flame-2023", ("flame2023.pkl",)),
        Edition("flame2023_no_jaw", "flame-2023-no-jaw", ("flame2023_no_jaw.pkl",), has_jaw=False),
        Edition("flame2023_open", "flame-2023-open", ("flame2023_Open.pkl",)),
    )
}


def edition(name: str) -> Edition:
    """The edition with this key or model name.

    Raises:
        HeadModelError: for an unknown name.
    """
    for candidate in EDITIONS.values():
        if name in (candidate.key, candidate.model):
            return candidate
    raise HeadModelError(
        f"there is no FLAME edition '{name}'{nearest(name, EDITIONS)}; editions: {', '.join(EDITIONS)}"
    )
