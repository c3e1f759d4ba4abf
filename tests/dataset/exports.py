"""Tiny generations to export: their avatars stay as they were begun, so that every render can be made again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))

from tiny import tiny_config, tiny_portrait

from zero1toa.config import Config
from zero1toa.portrait.keeping import keep_portrait
from zero1toa.storage import Storage
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.store import SymGENStore

UNTRAINED = (
    *(f"optim.{name}=0" for name in ("position", "position_final", "color", "opacity", "scaling", "rotation")),
    "loop.portrait_share=0",  # nor solve for the portrait's colours at the end
)
"""Overrides that make training change nothing."""


def run_config(*overrides: str) -> Config:
    """The configuration of :func:`generate`."""
    return tiny_config("avatar.project_portrait=true", "avatar.landmark_offset=true", *UNTRAINED, *overrides)


def generate(folder: Path, *overrides: str) -> GenerationResult:
    """A whole generation as ``zero1toa generate --serial`` leaves it, in seconds, with every version of its clips."""
    root = Storage(folder)
    keep_portrait(root, tiny_portrait())
    with pytest.MonkeyPatch.context() as patch:
        # A checkpoint deletes what it does not train on; an interrupted run has older versions, and so has this one.
        patch.setattr(SymGENStore, "prune", lambda self, oldest: 0)
        return generate_serial(tiny_portrait(), run_config(*overrides), root)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
