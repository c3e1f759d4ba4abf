"""A request that was given up."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that was given up.

    Attributes:
        request_id: the request.
        reason: what its attempts failed with.
    """

    request_id: str
    reason: str
