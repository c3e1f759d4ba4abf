"""A clip and a portrait through their files and back, with values that no two fields share."""

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import tiny_portrait

from zero1toa.dataset.index import Index, read_index, write_index
from zero1toa.dataset.reader import read_clips
from zero1toa.dataset.samples import (
    ExportedClip,
    ExportedPortrait,
    decode_clip,
    decode_portrait,
    encode_clip,
    encode_portrait,
)
from zero1toa.dataset.shards import ShardWriter
from zero1toa.errors import DatasetError
from zero1toa.storage import Storage
from zero1toa.types import ClipSpec, LandmarkTrack, SampleKey


def clip(*, arkit: bool = True, render: bool = True, avatar: str = "ada-1.2", version: int = 3) -> ExportedClip:
    rng = np.random.default_rng(5)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=(5, *shape)).astype(np.float32)

    return ExportedClip(
        avatar=avatar,
        spec=ClipSpec(
            SampleKey("temporal_real", "lively-07"), drawn(4, 4), drawn(3, 3), 8, drawn(51), drawn(3), drawn(3),
            drawn(2, 3), drawn(2), drawn(), drawn(52) if arkit else None,
        ),
        frames=rng.integers(0, 256, (5, 8, 8, 3), np.uint8),
        render=rng.integers(0, 256, (5, 8, 8, 3), np.uint8) if render else None,
        landmarks=LandmarkTrack(drawn(478, 2), np.array([1, 0, 1, 1, 0], bool), np.ones(5, bool)),
        version=version, newest=False, unlocked=4, render_step=120, epoch=2, sequence=9,
        request_id="0123abcd", head="canonical-1", fingerprint="f" * 32,
    )  # fmt: skip


def same(one, other) -> None:
    if dataclasses.is_dataclass(one):
        assert type(one) is type(other)
        for field in dataclasses.fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("changes", [{}, {"arkit": False}, {"render": False}])
def test_clips_come_back(changes):
    same(decode_clip(encode_clip(clip(**changes))), clip(**changes))


def test_portraits_come_back():
    portrait = tiny_portrait()
    for offset in (None, torch.randn(7, 3)):
        params = portrait.params.replace(offset=offset)
        exported = ExportedPortrait(
            "ada",
            dataclasses.replace(portrait, params=params, notes=("a", "b")),
            "canonical-1",
            "0f",
            True,
            {"seed": 3},
        )
        same(decode_portrait(encode_portrait(exported)), exported)


@pytest.mark.parametrize("name", ["json", "arrays.npz", "frame-003.png", "render-004.png"])
def test_a_damaged_file_is_an_error_that_names_the_sample(name):
    sample = encode_clip(clip())
    for damaged in ({k: v for k, v in sample.items() if k != name}, {**sample, name: sample[name][:40]}):
        with pytest.raises(DatasetError, match=r"clips/ada-1\.2/temporal_real/lively-07-v00003 is damaged"):
            decode_clip(damaged)


def test_ids_may_be_long_foreign_and_dotted(tmp_path: Path):
    avatar = "Žofie.Nováková " + 30 * "lång " + "-0123abcd"
    writer = ShardWriter(Storage(tmp_path), "clips", 10**6)
    for version in (1, 2):
        writer.add(encode_clip(clip(avatar=avatar, version=version)))
    (shard,) = writer.close()
    write_index(Storage(tmp_path), Index((shard,), (), {avatar: 2}, True, True))
    assert read_index(Storage(tmp_path)).clips == (shard,)
    read = list(read_clips(str(tmp_path)))
    for one, version in zip(read, (1, 2), strict=True):
        same(one, clip(avatar=avatar, version=version))


def test_shards_are_filled_up_to_their_limit(tmp_path: Path):
    sample = encode_clip(clip())
    alone = ShardWriter(Storage(tmp_path), "one", 1)
    for _ in range(2):
        alone.add(sample)
    size = sum(512 + -(-len(data) // 512) * 512 for name, data in sample.items() if name != "__key__")
    whole = -(-(3 * size + 1024) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE  # three clips, two blocks of zeros
    assert [shard.samples for shard in alone.close()] == [1, 1]
    for limit, counts in ((whole, [3, 3, 1]), (whole - 1, [2, 2, 2, 1])):
        writer = ShardWriter(Storage(tmp_path), f"l{limit}", limit)
        for _ in range(7):
            writer.add(sample)
        shards = writer.close()
        assert [shard.samples for shard in shards] == counts
        assert max(shard.bytes for shard in shards) <= limit
        for shard in shards:
            data = (tmp_path / shard.name).read_bytes()
            assert len(data) == shard.bytes
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert len(archive.getmembers()) == shard.samples * (len(sample) - 1)
