from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flame_like import FlameLike, build, write_pickle

from zero1toa.head.flame.derive import install_flame
from zero1toa.head.flame.model import FlameHead


@pytest.fixture(scope="session")
def flame_like() -> FlameLike:
    torch.set_num_threads(1)
    return build()


@pytest.fixture(scope="session")
def flame_pickle(flame_like: FlameLike, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pickle(tmp_path_factory.mktemp("mpi") / "generic_model.pkl", flame_like.entries)


@pytest.fixture(scope="session")
def flame_home(flame_pickle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An asset folder in which flame2020 is installed."""
    home = tmp_path_factory.mktemp("home")
    install_flame("flame2020", flame_pickle, home / "flame2020.npz")
    return home


@pytest.fixture(scope="session")
def flame(flame_home: Path) -> FlameHead:
    return FlameHead.load("flame2020", flame_home / "flame2020.npz")


@pytest.fixture(scope="session")
def flame64(flame: FlameHead) -> FlameHead:
    return flame.to("cpu", torch.float64)


@pytest.fixture(scope="session")
def no_jaw_like() -> FlameLike:
    return build(seed=1, jaw=False)


@pytest.fixture(scope="session")
def no_jaw(no_jaw_like: FlameLike, tmp_path_factory: pytest.TempPathFactory) -> FlameHead:
    folder = tmp_path_factory.mktemp("no_jaw")
    source = write_pickle(folder / "flame2023_no_jaw.pkl", no_jaw_like.entries)
    install_flame("flame2023_no_jaw", source, folder / "flame2023_no_jaw.npz")
    return FlameHead.load("flame2023_no_jaw", folder / "flame2023_no_jaw.npz")
