"""Bundles: a full round trip, every kind of damage by name, and writers killed at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sphere_head import SphereHead

from zero1toa.avatar import atomic_folder
from zero1toa.avatar.bundle import Bundle, exists, fingerprint, read_bundle, write_bundle
from zero1toa.avatar.initialisation import initialise
from zero1toa.config import AvatarConfig
from zero1toa.errors import BundleError, OutputError
from zero1toa.head.protocol import PARAMETERS


def _bundle(head: SphereHead, seed: int = 0) -> Bundle:
    generator = torch.Generator().manual_seed(seed)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1))
    with torch.no_grad():
        avatar.sh0.normal_(generator=generator)
    offset = torch.randn(head.n_vertices, 3, generator=generator) * 0.01
    return Bundle(
        avatar=avatar,
        params=head.neutral().replace(offset=offset, lids=torch.tensor([0.1, 0.2])),
        head=head.name,
        fingerprint=fingerprint(head),
        viewmat=np.eye(4, dtype=np.float32),
        K=np.diag([900.0, 900.0, 1.0]).astype(np.float32),
        size=256,
        config={"seed": seed},
        metrics={"l1": 0.01},
        notes=("landmarks: MediaPipe",),
        portrait=np.full((8, 8, 4), seed, np.uint8),
    )


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    head = SphereHead()
    bundle = _bundle(head, 3)
    write_bundle(tmp_path / "a", bundle)
    assert exists(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "avatar.json", "gaussians.safetensors", "head.safetensors", "portrait.png",
    ]  # fmt: skip
    again = read_bundle(tmp_path / "a", head)
    for name, tensor in bundle.avatar.tensors().items():
        assert torch.equal(again.avatar.tensors()[name], tensor)
    assert torch.equal(again.avatar.faces, head.faces)
    for field in PARAMETERS:
        assert torch.equal(getattr(again.params, field), getattr(bundle.params, field))
    assert again.params.model == head.name
    for name in ("viewmat", "K", "portrait"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bundle, name))
    for name in ("head", "fingerprint", "size", "config", "metrics", "notes", "licences"):
        assert getattr(again, name) == getattr(bundle, name)
    write_bundle(tmp_path / "a", _bundle(head, 4))
    assert read_bundle(tmp_path / "a").config == {"seed": 4}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def _json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "avatar.json").read_text())
        change(about)
        (folder / "avatar.json").write_text(json.dumps(about))

    return damage


def _tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / file)

    return damage


def _cut(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda f: (f / "avatar.json").unlink(), "no avatar.json"),
    "no gaussians": (lambda f: (f / "gaussians.safetensors").unlink(), "gaussians.safetensors is missing"),
    "no head": (lambda f: (f / "head.safetensors").unlink(), "head.safetensors is missing"),
    "no portrait": (lambda f: (f / "portrait.png").unlink(), "portrait.png is missing"),
    "cut json": (_cut("avatar.json"), "cannot be read"),
    "cut gaussians": (_cut("gaussians.safetensors"), "gaussians.safetensors is damaged"),
    "cut head": (_cut("head.safetensors"), "head.safetensors is damaged"),
    "cut portrait": (_cut("portrait.png"), "portrait.png is damaged"),
    "empty gaussians": (lambda f: (f / "gaussians.safetensors").write_bytes(b""), "damaged"),
    "list json": (lambda f: (f / "avatar.json").write_text("[]"), "does not describe an avatar"),
    "other format": (_json(lambda a: a.update(format="x")), "format is not"),
    "newer": (_json(lambda a: a.update(version=2)), "update zero1toa"),
    "bad version": (_json(lambda a: a.update(version="1")), "not a version number"),
    "no camera": (_json(lambda a: a.pop("camera")), "'camera' is missing"),
    "bad camera": (_json(lambda a: a["camera"].update(K=[[1, 2], [3]])), "camera.K"),
    "text camera": (_json(lambda a: a["camera"].update(viewmat="front")), "camera.viewmat"),
    "no head name": (_json(lambda a: a["head"].pop("name")), "head.name"),
    "count": (_json(lambda a: a.update(gaussians=a["gaussians"] + 1)), "promises"),
    "triangles": (_json(lambda a: a.update(triangles=a["triangles"] + 1)), "triangles, the head model has"),
    "nan": (_tensors("gaussians.safetensors", lambda t: t["means"].fill_(float("nan"))), "'means' holds values"),
    "nan offset": (_tensors("head.safetensors", lambda t: t["offset"].fill_(float("inf"))), "'offset' holds values"),
    "binding": (_tensors("gaussians.safetensors", lambda t: t["binding"].fill_(10**6)), "bindings must"),
    "missing tensor": (_tensors("gaussians.safetensors", lambda t: t.pop("quats")), "'quats' is missing"),
    "shape": (_tensors("gaussians.safetensors", lambda t: t.update(sh0=t["sh0"][:, :2])), "'sh0' has shape"),
    "head shape": (_tensors("head.safetensors", lambda t: t.update(shape=torch.zeros(9))), "'shape' has shape"),
    "head field": (_tensors("head.safetensors", lambda t: t.pop("lids")), "'lids' is missing"),
    "other head": (_json(lambda a: a["head"].update(name="flame-2020")), "head model 'flame-2020'"),
    "other build": (_json(lambda a: a["head"].update(fingerprint="0")), "another build"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_a_bundle_error_that_names_it(kind: str, tmp_path: Path) -> None:
    head = SphereHead()
    write_bundle(tmp_path / "a", _bundle(head))
    damage, message = DAMAGE[kind]
    damage(tmp_path / "a")
    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path / "a", head)


def test_missing_folder_and_foreign_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no avatar bundle"):
        read_bundle(tmp_path / "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not an avatar bundle"):
        write_bundle(tmp_path / "mine", _bundle(SphereHead()))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    bundle = _bundle(SphereHead())
    with pytest.raises(BundleError, match="metric or setting"):
        write_bundle(tmp_path / "a", dataclasses.replace(bundle, metrics={"l1": float("nan")}))
    with torch.no_grad():
        bundle.avatar.means[0] = float("nan")
    with pytest.raises(BundleError, match="means"):
        write_bundle(tmp_path / "a", bundle)
    assert not (tmp_path / "a").exists()


def test_a_death_between_two_renames_leaves_the_old_bundle_readable(tmp_path: Path) -> None:
    """What a system without an exchange of names shows after the first of its two renames."""
    head = SphereHead()
    write_bundle(tmp_path / "a", _bundle(head, 1))
    (tmp_path / "a").rename(atomic_folder.previous(tmp_path / "a"))
    assert exists(tmp_path / "a")
    assert read_bundle(tmp_path / "a", head).config == {"seed": 1}
    write_bundle(tmp_path / "a", _bundle(head, 2))
    assert read_bundle(tmp_path / "a", head).config == {"seed": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_works_with_and_without_an_exchange_of_names(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic_folder, "_exchange", lambda a, b: False)
    for text in ("old", "new"):
        with atomic_folder.replacing(tmp_path / "f") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "f" / "x").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from zero1toa.avatar import atomic_folder
calls, stop = 0, int(sys.argv[2])
def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
atomic_folder._flush = dying(atomic_folder._flush)
atomic_folder._exchange = dying(lambda a, b: False) if sys.argv[3] == "plain" else dying(atomic_folder._exchange)
Path.rename = dying(Path.rename)
atomic_folder.shutil.rmtree = dying(atomic_folder.shutil.rmtree)
with atomic_folder.replacing(Path(sys.argv[1])) as folder:
    for name in ("a", "b"):
        (folder / name).write_text("new")
print("finished")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("system", ["exchange", "plain"])
def test_a_writer_killed_anywhere_leaves_the_old_or_the_new_folder(system: str, tmp_path: Path) -> None:
    """The writer is killed before each of its steps in turn, until one run gets through."""
    seen = set()
    for stop in range(1, 30):
        target = tmp_path / str(stop) / "bundle"
        with atomic_folder.replacing(target) as folder:
            for name in ("a", "b"):
                (folder / name).write_text("old")
        command = [sys.executable, "-S", "-c", "import sys; sys.path[:0] = sys.argv.pop().split('|');" + _KILLED]
        done = subprocess.run(
            [*command, str(target), str(stop), system, "|".join(p for p in sys.path if p)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        state = {name: (atomic_folder.resolve(target) / name).read_text() for name in ("a", "b")}
        assert state in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
        seen.add(state["a"])
        if done.returncode == 0:
            assert done.stdout == "finished\n"
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("the writer never got through")
    assert seen == {"old", "new"}
