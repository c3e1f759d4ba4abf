"""What W&B and the log get of an avatar of a batch when it is done, and that neither can cost it."""

import json
import sys
from importlib.machinery import ModuleSpec
from io import BytesIO
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))

from fake_wandb import FakeWandb
from tiny import tiny_config, tiny_portrait

from zero1toa import media
from zero1toa.distributed import reconstruction
from zero1toa.distributed.reconstruction import Outcome, ReconstructionActor
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.storage import Storage
from zero1toa.symgen.folder import open_run
from zero1toa.symgen.loop import open_store
from zero1toa.symgen.refinery import Refiner, SerialRefinery
from zero1toa.symgen.staleness import StalenessPolicy


class Watching(FakeWandb):
    """Looks at videos when it is given them: a file that is gone by then, or none, is an error of W&B's."""

    def __init__(self) -> None:
        super().__init__()
        self.__spec__ = ModuleSpec("wandb", None)  # libraries that are imported later ask whether there is a W&B

    def Video(self, path: str, format: str) -> tuple[int, float]:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(path)
        return frames, round(seconds, 2)


@pytest.fixture
def reconstruct(monkeypatch):
    """A trainer that makes an avatar with a refiner of its own, where a batch has those of the cluster."""

    def reconstruct(output: Storage, *overrides: str, measured: bool = True) -> Outcome | None:
        portrait, config, policy = tiny_portrait(), tiny_config(*overrides), StalenessPolicy(2)
        folder = open_run(output, portrait, config)
        store = open_store(folder, portrait)
        refinery = SerialRefinery(store, policy, Refiner(config, torch.device("cpu")))
        refinery.fetch = store.fetch
        monkeypatch.setattr(reconstruction, "RayRefinery", lambda *arguments: refinery)
        job = Job(portrait, output, measured=measured, tracked=True)
        dataset = DatasetRef(folder.avatar, folder.dataset, policy)
        return ReconstructionActor(None, [None], 1).run(0, job, folder, dataset, config)

    return reconstruct


def _records(text: str, kind: str) -> list[dict]:
    return [record for record in map(json.loads, text.splitlines()) if record["kind"] == kind]


@pytest.mark.parametrize("media_every", [0, 5])
def test_an_avatar_sends_its_figures_contact_sheet_and_video(tmp_path, monkeypatch, reconstruct, media_every):
    fake = Watching()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    outcome = reconstruct(Storage(tmp_path / "p0"), f"tracking.media_every={media_every}")
    figures = outcome.measured.figures
    assert set(figures) == {"psnr", "ssim", "iou"}
    assert fake.run.summary == figures
    assert [list(values) for values in fake.run.logged[-2:]] == [["contact_sheet"], ["preview_video"]]
    width, height = fake.run.logged[-2]["contact_sheet"]
    assert width > 5 * 256
    assert height > 3 * 256
    assert fake.run.logged[-1]["preview_video"] == (50, 4.0)
    assert sum("preview" in values for values in fake.run.logged) == (1 if media_every else 0)
    assert fake.run.exit_code == 0
    (results,) = _records((tmp_path / "p0" / "log.jsonl").read_text(), "results")
    assert results["metrics"] == pytest.approx(figures)
    assert not list((tmp_path / "p0").glob("**/preview.mp4"))


def test_a_bucket_gets_them_in_a_real_offline_run(tmp_path, reconstruct):
    output = Storage(f"memory://{tmp_path.name}/p0")
    outcome = reconstruct(output, "tracking.wandb=offline")
    (results,) = _records(output.read_text("log/log.jsonl"), "results")
    assert results["metrics"] == pytest.approx(outcome.measured.figures)
    (run,) = (name for name in output.folders("log/wandb") if name.startswith("offline-run-"))
    kept = f"log/wandb/{run}/files/media"
    (sheet,) = output.files(f"{kept}/images", "png")[:1]
    assert sheet.startswith("contact_sheet")
    assert Image.open(BytesIO(output.read(f"{kept}/images/{sheet}"))).width > 5 * 256
    (video,) = output.files(f"{kept}/videos")
    output.fetch(f"{kept}/videos/{video}", tmp_path / "video.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "video.mp4"))[0] == 50
    assert output.files("log") == ["log.jsonl"]


def test_a_video_that_cannot_be_made_costs_nothing_else(tmp_path, monkeypatch, reconstruct):
    fake = Watching()
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def fail(*arguments):
        raise RuntimeError("no encoder\nat all")

    monkeypatch.setattr(media, "write_video", fail)
    outcome = reconstruct(Storage(tmp_path))
    assert fake.run.summary == outcome.measured.figures
    assert list(fake.run.logged[-1]) == ["contact_sheet"]
    assert fake.run.exit_code == 0
    messages = [record["message"] for record in _records((tmp_path / "log.jsonl").read_text(), "notice")]
    assert "W&B gets no preview.mp4: no encoder" in messages


@pytest.mark.parametrize("fake", [FakeWandb(broken=True), FakeWandb(failing=("offline",)), None])
def test_an_avatar_without_w_and_b_makes_no_pictures_for_it(tmp_path, monkeypatch, reconstruct, fake):
    monkeypatch.setitem(sys.modules, "wandb", fake)  # None: importing it raises ImportError
    monkeypatch.setattr(media, "write_video", lambda *arguments: pytest.fail("nobody sees it"))
    outcome = reconstruct(Storage(tmp_path))
    (results,) = _records((tmp_path / "log.jsonl").read_text(), "results")
    assert results["metrics"] == pytest.approx(outcome.measured.figures)


def test_an_avatar_that_cannot_be_measured_fails_its_run(tmp_path, monkeypatch, reconstruct):
    fake = Watching()
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def fail(*arguments):
        raise ValueError("torn")

    monkeypatch.setattr(reconstruction, "measure", fail)
    with pytest.raises(ValueError, match="torn"):
        reconstruct(Storage(tmp_path))
    assert fake.run.exit_code == 1


def test_only_a_batch_measures(tmp_path, monkeypatch, reconstruct):
    fake = Watching()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert reconstruct(Storage(tmp_path), measured=False).measured is None
    assert fake.run.summary == {}
    assert "preview_video" not in fake.run.logged[-1]
