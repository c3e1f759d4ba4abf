"""Stands in for W&B: keeps what it is given, and breaks where a test wants it to."""

import types
from typing import Any


class FakeRun:
    """The part of a run that is used."""

    def __init__(self, broken: bool, starting_step: int):
        self.logged: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        self.starting_step = starting_step
        self._broken = broken

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log(self, values: dict[str, Any], step: int) -> None:
        if self._broken:
            raise RuntimeError("the service died\nwith details")
        # W&B leaves out such rows, with a warning that would spoil the display.
        assert not self.steps or step >= self.steps[-1]
        self.logged.append(values)
        self.steps.append(step)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb(types.ModuleType):
    """The library: modes listed in ``failing`` cannot start, runs begin at the server's ``starting_step``."""

    def __init__(
        self, failing: tuple[str, ...] = (), broken: bool = False, starting_step: int = 0, version: str = "0.28.0"
    ):
        super().__init__("wandb")
        self.failing, self.run, self.calls = failing, FakeRun(broken, starting_step), []
        self.__version__ = version

    def init(self, **kwargs: Any) -> FakeRun:
        self.calls.append(kwargs)
        if kwargs["mode"] in self.failing:
            raise ConnectionError(f"no {kwargs['mode']}")
        return self.run

    def Settings(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    def Image(self, picture: Any) -> tuple[int, int]:
        size: tuple[int, int] = picture.size
        return size

    def Video(self, path: str, format: str) -> str:
        return path

    def Table(self, columns: list[str], data: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
        return columns, data
