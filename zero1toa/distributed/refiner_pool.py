"""The refiners of a cluster: started, watched, and replaced when they die."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.drain import on_nodes
from zero1toa.distributed.failures import cause, deaths, first_line, no_refiner_lives
from zero1toa.distributed.placement import Placement
from zero1toa.distributed.records import Served
from zero1toa.distributed.refinement import RefinementActor
from zero1toa.errors import BackboneError

_PERHAPS = "it may be out of memory: lower curriculum.frames or distributed.refiners"
_GOODBYE_SECONDS = 2.0  # for refiners to hear that there is no more work


class RefinerPool:
    """Refinement actors that pull from one dispatcher.

    Args:
        count: number of refiners.
        config: the run's configuration.
        placement: options of the actors.
        dispatcher: handle of the dispatcher actor.
        stores: handles of the store actors.
        threads: CPU threads of each.
    """

    def __init__(
        self, count: int, config: Config, placement: Placement, dispatcher: Any, stores: Sequence[Any], threads: int
    ) -> None:
        self.count = count
        self._config = config
        self._placement = placement
        self._dispatcher = dispatcher
        self._stores = stores
        self._threads = threads
        self._names = itertools.count()
        self._deaths = self._given_up = 0  # since a clip was refined
        self._running: dict[Any, tuple[str, Any]] = {}  # by the reference of their run: name and handle
        self._leaving: set[str] = set()
        self._served: list[Served] = []  # of those that have left

    @property
    def references(self) -> list[Any]:
        """References that end when a refiner ends."""
        return list(self._running)

    def start(self) -> None:
        """Start all that are missing; one that is about to leave its machine is."""
        import ray

        actor = ray.remote(RefinementActor).options(**self._placement.refinement, max_restarts=0)
        while len(self._running) - len(self._leaving) < self.count:
            name = f"refiner-{next(self._names)}"
            handle: Any = actor.remote(
                name,
                self._config,
                self._dispatcher,
                self._stores,
                self._threads,
                self._placement.refinement["num_gpus"],
            )
            self._running[handle.run.remote()] = (name, handle)

    def placed(self) -> bool:
        """Whether a machine was found for any of them."""
        import ray

        states = (ray._private.state.actors(handle._actor_id.hex())["State"] for _, handle in self._running.values())
        return any(state not in ("DEPENDENCIES_UNREADY", "PENDING_CREATION") for state in states)

    def alive(self) -> None:
        """Learn that a clip was refined: what has died before was not the fault of all."""
        self._deaths = self._given_up = 0

    def leave(self, nodes: set[str]) -> None:
        """Let the refiners on some nodes end after the clips in their hands, and start others for them now."""
        names = {handle: name for name, handle in self._running.values() if name not in self._leaving}
        for handle in on_nodes(names, nodes):
            self._dispatcher.retire.remote(names[handle])
            self._leaving.add(names[handle])
        self.start()

    def ended(self, reference: Any) -> str:
        """Replace a refiner that has died or left, and give back its work.

        Args:
            reference: one of :attr:`references`, which is ready.

        Returns:
            One line about it.

        Raises:
            BackboneError: if refiners die again and again with no clip refined in between.
            ZeroOneError: what ended the refiner, if it was not its death: no other one could do better.
        """
        import ray

        name, handle = self._running.pop(reference)
        left = name in self._leaving
        self._leaving.discard(name)
        try:
            self._served.append(ray.get(reference))
        except deaths() as error:
            reason = f"the refiner's process died; {_PERHAPS}"
            waited, given_up = ray.get(self._dispatcher.release.remote(name, reason))
            # One that waited for work, or was to leave, lost its machine: a large pool of spot machines loses many
            # between two clips.
            self._deaths += not (waited or left)
            self._given_up += given_up
            if no_refiner_lives(self._deaths, self.count, self._given_up):
                raise BackboneError(
                    f"the refiners' processes died {self._deaths} times in a row ({first_line(error)}); {_PERHAPS}"
                ) from error
        except Exception as error:
            # No refiner can do better than this one: weights are missing, the disk is full, or the code is at fault.
            raise cause(error) from error
        else:
            ray.get(self._dispatcher.release.remote(name, f"{name} left"))
            ray.kill(handle)  # an idle process would keep its machine
            return f"{name} left its machine, which is about to go"
        self.start()
        return f"{name} died; its clip is given to another one"

    def dismiss(self) -> list[Served]:
        """End all, giving those that wait for work the time to hear that there is no more.

        Returns:
            What those did that ended by themselves.
        """
        import ray

        served = self._served
        if self._running:
            ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=_GOODBYE_SECONDS)
            for reference in ended:
                with contextlib.suppress(Exception):  # one that failed has nothing to tell, and is not needed any more
                    served.append(ray.get(reference))
        for _, handle in self._running.values():
            ray.kill(handle)
        self._running.clear()
        return served
