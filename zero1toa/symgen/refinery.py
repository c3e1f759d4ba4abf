"""Who refines: the interface between the loop and its refiners, one refiner, and the refinery of a single process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.config import Config
from zero1toa.diffusion.memory import explained
from zero1toa.diffusion.protocol import ReferenceState, VideoBackbone
from zero1toa.errors import ZeroOneError
from zero1toa.symgen.admission import admit
from zero1toa.symgen.failure import Failure
from zero1toa.symgen.patience import MAX_ATTEMPTS
from zero1toa.symgen.refine import load_refiner, prepare_references, refine_together
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import Reference, SymGENStore
from zero1toa.types import Receipt, RefineRequest, SampleKey

_REFERENCES = 8  # avatars (or groups refined together) whose reference features a refiner keeps


class Refinery(Protocol):
    """Refines clips and commits them to the dataset."""

    def submit(self, request: RefineRequest) -> None:
        """Take a request; it is answered exactly once, later or at once."""
        ...

    def answers(self, *, wait: bool) -> list[Receipt | Failure]:
        """New answers; with ``wait`` at least one, unless the generation is being stopped."""
        ...

    def observe(self, step: int, epoch: int) -> None:
        """Learn how far training is, to judge the age of what comes in."""
        ...

    def flush(self) -> None:
        """Return when everything that was answered is on disk; called before a checkpoint, which relies on it."""
        ...

    def settled(self, versions: Mapping[SampleKey, int]) -> None:
        """Learn that a checkpoint is on disk that trains on these versions; older ones are not needed any more."""
        ...


class Refiner:
    """A backbone and the reference features of the avatars it serves.

    With ``diffusion.enabled`` off it has no backbone and answers with the render itself.

    Attributes:
        backbone: the diffusion model, or None.

    Args:
        config: the run's configuration.
        device: where the backbone goes.

    Raises:
        ConfigError: for an unknown backbone, or clips longer than it takes.
        AssetError: if its weights are not installed.
        DeviceMemoryError: if they do not fit into the GPU's memory.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        self._device = device
        self.backbone = load_refiner(config, device) if config.diffusion.enabled else None
        self._states: OrderedDict[tuple[str, ...], ReferenceState] = OrderedDict()

    def __call__(
        self, request: RefineRequest, reference: Callable[[str], Reference]
    ) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """Refine a clip; see :meth:`together`."""
        (frames,), seconds = self.together([request], reference)
        return frames, seconds

    def together(
        self, requests: Sequence[RefineRequest], reference: Callable[[str], Reference]
    ) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
        """Refine clips of one shape in one go.

        Args:
            requests: renders and landmarks.
            reference: gives the portrait of an avatar; called when its features are not known.

        Returns:
            Refined pictures of each, shaped as the renders, and each clip's share of the seconds by phase.

        Raises:
            DeviceMemoryError: if the GPU's memory runs out.
        """
        if self.backbone is None:
            return [request.frames for request in requests], {}
        with explained(self._config, self._device, "to refine a clip"):
            return self._refine(self.backbone, requests, reference)

    def _refine(
        self, backbone: VideoBackbone, requests: Sequence[RefineRequest], reference: Callable[[str], Reference]
    ) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
        background = self._config.render.background
        start = time.perf_counter()
        avatars = tuple(request.avatar for request in requests)
        if avatars not in self._states:
            self._states[avatars] = prepare_references([reference(one) for one in avatars], backbone, background)
            if len(self._states) > _REFERENCES:
                self._states.popitem(last=False)
        self._states.move_to_end(avatars)
        prepared = time.perf_counter() - start
        frames, seconds = refine_together(requests, backbone, self._states[avatars], self._config.diffusion, background)
        seconds["encode"] += prepared
        return frames, {phase: value / len(requests) for phase, value in seconds.items()}


class SerialRefinery:
    """Refines in the caller's thread: every request is answered before ``submit`` returns.

    Args:
        store: the avatar's dataset.
        policy: bounds on staleness.
        refiner: does the work.
    """

    def __init__(self, store: SymGENStore, policy: StalenessPolicy, refiner: Refiner) -> None:
        self._store = store
        self._policy = policy
        self._refiner = refiner
        self._answers: list[Receipt | Failure] = []
        self._step = self._epoch = 0

    def submit(self, request: RefineRequest) -> None:
        """Refine and commit, unless a run that was interrupted has committed this request already."""
        done = self._store.find(request.request_id)
        if done is not None:
            self._answers.append(done)
            return
        reasons: list[str] = []
        for _ in range(MAX_ATTEMPTS):
            try:
                frames, seconds = self._refiner(request, lambda avatar: self._store.reference())
            except ZeroOneError as error:
                if not error.retryable:
                    raise
                reasons.append(str(error))
                continue
            receipt = admit(self._store, self._policy, request, frames, seconds, step=self._step, epoch=self._epoch)
            self._answers.append(receipt)
            return
        self._answers.append(Failure(request.request_id, "; ".join(dict.fromkeys(reasons))))

    def answers(self, *, wait: bool) -> list[Receipt | Failure]:
        """What ``submit`` has answered since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def observe(self, step: int, epoch: int) -> None:
        """Remember how far training is."""
        self._step, self._epoch = step, epoch

    def flush(self) -> None:
        """Wait for the dataset's last commit, which may be written beside training."""
        self._store.flush()

    def settled(self, versions: Mapping[SampleKey, int]) -> None:
        """Delete the pictures that no checkpoint needs."""
        self._store.prune(versions)
