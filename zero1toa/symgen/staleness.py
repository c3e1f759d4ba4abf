"""When training may run ahead of refinement, and which refined clips still count: decisions as pure functions.

The paper alternates one refined clip with ``update_interval`` training iterations (sec. 4.1). Asynchrony must not
change that ratio: a trainer that runs freely while refinement is slow would train many more iterations per update,
which is another algorithm and not a faster one. So the lead of training is bounded in *update intervals*, and at
slack 0 the policy is exactly the paper's alternation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal, Protocol

Verdict = Literal["accept", "superseded", "expired"]


class Pace(Protocol):
    """When an avatar may submit and train: a :class:`StalenessPolicy`, or one that changes on the way."""

    def may_submit(self, step: int, submitted: int, outstanding: int) -> bool:
        """As :meth:`StalenessPolicy.may_submit`."""
        ...

    def may_train(self, step: int, submitted: int, outstanding_steps: Iterable[int]) -> bool:
        """As :meth:`StalenessPolicy.may_train`."""
        ...


@dataclasses.dataclass(frozen=True)
class StalenessPolicy:
    """Bounds on the asynchrony between reconstruction and refinement of one avatar.

    Attributes:
        interval: training iterations per refined clip.
        window: requests that may be outstanding (W).
        slack: update intervals that training may run ahead of the answers; 0 waits for every answer.
        max_age: iterations after which a refined clip no longer counts.

    Raises:
        ValueError: if ``interval`` or ``window`` is below 1, or ``slack`` or ``max_age`` is negative.
    """

    interval: int
    window: int = 1
    slack: float = 0.0
    max_age: int = 300

    def __post_init__(self) -> None:
        if self.interval < 1 or self.window < 1:
            raise ValueError(f"interval and window must be at least 1, got {self.interval} and {self.window}")
        if self.slack < 0 or self.max_age < 0:
            raise ValueError(f"slack and max_age must not be negative, got {self.slack} and {self.max_age}")

    def due(self, step: int) -> int:
        """Requests that the schedule wants to have been made at training iteration ``step``: one per interval."""
        return step // self.interval + 1

    def may_submit(self, step: int, submitted: int, outstanding: int) -> bool:
        """Whether the next clip may be rendered and submitted now.

        Args:
            step: training iterations done.
            submitted: requests made since the avatar began.
            outstanding: requests without an answer.
        """
        return submitted < self.due(step) and outstanding < self.window

    def may_train(self, step: int, submitted: int, outstanding_steps: Iterable[int]) -> bool:
        """Whether training iteration ``step`` may run now.

        Two bounds hold. No outstanding request may be older than ``slack`` intervals; and the answers as a whole may
        not fall further behind the schedule than that, else a window smaller than the slack would thin out the updates.

        Args:
            step: training iterations done.
            submitted: requests made since the avatar began.
            outstanding_steps: iterations at which the unanswered requests were rendered.
        """
        lead = self.slack * self.interval
        renders = list(outstanding_steps)
        answered = submitted - len(renders)
        young = all(step - render < lead for render in renders)
        return young and step < answered * self.interval + lead

    def judge(self, *, base_version: int, current_version: int, epoch: int, current_epoch: int, age: int) -> Verdict:
        """Whether a refined clip may replace the dataset's current version.

        Args:
            base_version: version the dataset had when the clip was rendered.
            current_version: version it has now.
            epoch: curriculum epoch of the request.
            current_epoch: curriculum epoch of the trainer.
            age: training iterations since the clip was rendered.

        Returns:
            ``superseded`` if another commit came first, ``expired`` if the clip is older than ``max_age`` iterations or
            from an earlier epoch, else ``accept``.
        """
        if base_version != current_version:
            return "superseded"
        if epoch != current_epoch or age > self.max_age:
            return "expired"
        return "accept"
