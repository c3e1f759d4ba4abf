"""The embedded head and one real photo, fitted once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from zero1toa.config import PortraitConfig
from zero1toa.head.protocol import HeadModel
from zero1toa.head.registry import load_head
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.types import Portrait


@pytest.fixture(scope="session")
def head() -> HeadModel:
    return load_head("canonical")


@pytest.fixture(scope="session")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


@pytest.fixture(scope="session")
def portrait(photo_file: Path, head: HeadModel) -> Portrait:
    return load_portrait(photo_file, PortraitConfig(size=384, matting="mediapipe"), head)


@pytest.fixture(scope="session")
def small_faces() -> list[np.ndarray]:
    """Faces of 25 x 25 pixels that scikit-image carries, enlarged eight times."""
    return [
        np.asarray(Image.fromarray(np.round(face * 255).astype(np.uint8)).resize((200, 200)).convert("RGB"))
        for face in data.lfw_subset()[:100]
    ]
