from __future__ import annotations

from pathlib import Path

import pytest
from flame_like import FlameLike, build, write_pickle


@pytest.fixture(scope="session")
def flame_like() -> FlameLike:
    return build()


@pytest.fixture(scope="session")
def flame_pickle(flame_like: FlameLike, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pickle(tmp_path_factory.mktemp("mpi") / "generic_model.pkl", flame_like.entries)
