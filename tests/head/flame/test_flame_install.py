"""``zero1toa assets`` and ``doctor`` with FLAME: installing, refusing, listing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flame_like import FlameLike, write_pickle
from typer.testing import CliRunner

from zero1toa import assets
from zero1toa.cli import app
from zero1toa.errors import HeadModelError
from zero1toa.head.flame.importing import file_hash
from zero1toa.head.registry import load_head

KEYS = ("flame2020", "flame2023", "flame2023_no_jaw", "flame2023_open")


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})
    return result.exit_code, result.output + (result.stderr or "")


def test_install_writes_arrays_that_need_no_pickle(
    flame_pickle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    code, text = _run("assets", "install", "flame2020", str(flame_pickle))
    assert code == 0, text
    assert [path.name for path in tmp_path.iterdir()] == ["flame2020.npz"]
    head = load_head("flame2020")
    assert head.source == file_hash(flame_pickle)  # type: ignore[attr-defined]
    with np.load(tmp_path / "flame2020.npz", allow_pickle=False) as stored:
        assert all(stored[key].dtype.kind in "biufU" for key in stored.files)
    code, text = _run("assets")
    assert code == 0
    assert str(tmp_path / "flame2020.npz") in text.replace("\n", "")
    assert all(key in text for key in KEYS)
    assert "unknown" in text  # nobody tells their size
    code, text = _run("doctor")
    assert "flame2020 with head=flame2020" in text
    assert "flame2023_no_jaw flame2023_no_jaw.pkl" in text


def test_installing_twice_gives_the_same_model(flame_pickle: Path, flame_home: Path, tmp_path: Path) -> None:
    from zero1toa.head.flame.derive import install_flame

    install_flame("flame2020", flame_pickle, tmp_path / "flame2020.npz")
    with np.load(tmp_path / "flame2020.npz") as a, np.load(flame_home / "flame2020.npz") as b:
        assert a.files == b.files
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("problem", ["web page", "hostile", "text", "absent", "wrong edition"])
def test_a_bad_file_is_one_line_and_leaves_nothing(
    problem: str, flame_pickle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("ZERO1TOA_HOME", str(home))
    file, marker, name = tmp_path / "given.pkl", tmp_path / "marker", "flame2020"
    if problem == "web page":
        file.write_text("<html>Please log in</html>")
    elif problem == "hostile":
        file.write_bytes(f"(S'touch {marker}'\nios\nsystem\n.".encode())
    elif problem == "text":
        file.write_text("no pickle")
    elif problem == "wrong edition":
        file, name = flame_pickle, "flame2023_open"
    result = CliRunner().invoke(app, ["assets", "install", name, str(file)])
    assert result.exit_code == 2, result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert not home.exists() or not list(home.iterdir())
    assert not marker.exists()


def test_one_file_cannot_be_two_editions(
    flame_pickle: Path, flame_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(flame_home))
    renamed = tmp_path / "flame2023.pkl"
    renamed.write_bytes(flame_pickle.read_bytes())
    with pytest.raises(HeadModelError, match="installed as flame2020 already"):
        assets.install("flame2023", renamed)


def test_a_failed_install_keeps_the_earlier_one(
    flame_like: FlameLike, flame_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(flame_home))
    before = (flame_home / "flame2020.npz").read_bytes()
    without_eyes = dict(flame_like.entries)
    faces = without_eyes["f"].copy()
    faces[faces >= 4477] = 0
    bad = write_pickle(tmp_path / "bad.pkl", without_eyes | {"f": faces})
    with pytest.raises(HeadModelError):
        assets.install("flame2020", bad)
    assert (flame_home / "flame2020.npz").read_bytes() == before
    assert [path.name for path in flame_home.iterdir()] == ["flame2020.npz"]
