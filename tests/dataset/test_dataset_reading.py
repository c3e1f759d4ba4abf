"""Reading exported clips in the ways that training programs do."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from exports import generate
from torch.utils.data import DataLoader

from zero1toa.dataset.export import export_dataset
from zero1toa.dataset.reader import read_clips


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reading")
    generate(folder / "ada", "loop.iterations=24")
    # A clip in each shard, so that there is something to share out and to shuffle.
    export_dataset(str(folder / "ada"), str(folder / "out"), all_versions=True, shard_bytes=1)
    return folder / "out"


def order(clips) -> list[int]:
    return [clip.sequence for clip in clips]


def test_workers_share_the_shards_out(exported: Path):
    clips = read_clips(str(exported))
    whole = order(clips)
    assert len(whole) > 4
    loader = DataLoader(clips, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert Counter(order(loader)) == Counter(whole)
    (batch,) = DataLoader(clips, batch_size=len(whole), collate_fn=list)
    assert order(batch) == whole
    # Workers that are spawned get the stream as a pickle.
    assert order(pickle.loads(pickle.dumps(clips))) == whole


def test_processes_of_a_distributed_training_share_the_shards_out(exported: Path, monkeypatch: pytest.MonkeyPatch):
    clips = read_clips(str(exported))
    whole = order(clips)
    seen = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen.append(order(clips))
    assert sorted(seen[0] + seen[1]) == sorted(whole)
    assert min(len(part) for part in seen) >= len(whole) // 2


def test_a_seed_is_an_order(exported: Path):
    whole = order(read_clips(str(exported)))
    one, same, other = (order(read_clips(str(exported), shuffle=4, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert one != whole
    assert sorted(one) == sorted(other) == sorted(whole)
    again = read_clips(str(exported), shuffle=4, seed=1)
    assert order(again) == order(again) == one


def test_plain_webdataset_reads_the_same(exported: Path):
    shards = sorted(str(path) for path in exported.glob("clips-*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    for sample, clip in zip(samples, read_clips(str(exported)), strict=True):
        about, arrays = sample["json"], sample["arrays.npz"]
        assert (about["stage"], about["name"], about["version"]) == (*vars(clip.spec.key).values(), clip.version)
        assert sample["__key__"].startswith(f"clips/{clip.avatar}/{clip.spec.key}-v0000")
        pictures = [sample[f"frame-{number:03d}.png"] for number in range(about["frames"])]
        np.testing.assert_array_equal(np.stack(pictures), clip.frames)
        for name in ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths", "arkit"):
            np.testing.assert_array_equal(arrays[name], getattr(clip.spec, name))
        np.testing.assert_array_equal(arrays["landmarks"], clip.landmarks.points)
    (portrait,) = webdataset.WebDataset(str(exported / "portraits-000000.tar"), shardshuffle=False).decode("rgba8")
    assert portrait["png"].shape == (48, 48, 4)
    assert portrait["json"]["kind"] == "portrait"
