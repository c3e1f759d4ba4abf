"""Exporting tiny generations and reading them back, beside the store and beside cameras computed independently."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import content, generate, run_config
from tiny import tiny_portrait

from zero1toa.avatar.bundle import fingerprint, read_bundle
from zero1toa.commands.export_dataset import check, export
from zero1toa.dataset.avatar_clips import AvatarClips
from zero1toa.dataset.export import export_dataset
from zero1toa.dataset.reader import read_clips, read_portraits, verify
from zero1toa.errors import DatasetError, OutputError, StorageError
from zero1toa.head.registry import load_head
from zero1toa.storage import Storage
from zero1toa.symgen.landmarks import project_landmarks
from zero1toa.symgen.locks import FolderLock
from zero1toa.symgen.reconstruct import Reconstruction
from zero1toa.symgen.store import LOCK, SymGENStore

SMALL = 100_000  # bytes of a shard: a few of the tiny clips


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return generate(tmp_path_factory.mktemp("runs") / "ada")


@pytest.fixture(scope="module")
def root(run) -> Path:
    return run.bundle.local.parent


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "all"
    export_dataset(str(root), str(folder), all_versions=True, renders=True, shard_bytes=SMALL)
    return folder


@pytest.fixture(scope="module")
def head():
    return load_head("canonical")


def test_clips_come_back_as_they_are_in_the_store(run, exported: Path, head):
    store = SymGENStore(run.dataset, run.avatar)
    clips = list(read_clips(str(exported)))
    assert len(clips) == store.sequence == 6
    assert any(not clip.newest for clip in clips)
    assert any(clip.unlocked < len(clip.spec) for clip in clips)
    for clip, record in zip(clips, store.records(), strict=True):
        names = ("version", "unlocked", "render_step", "epoch", "sequence", "request_id")
        assert [getattr(clip, name) for name in names] == [getattr(record, name) for name in names]
        assert (clip.avatar, clip.spec.key) == (run.avatar, record.key)
        assert clip.newest == (record.version == store.version(record.key))
        assert (clip.head, clip.fingerprint) == ("canonical-1", fingerprint(head))
        np.testing.assert_array_equal(clip.frames, store.load(record.key, record.version))
        np.testing.assert_array_equal(clip.render, store.load_render(record.key, record.version))
        assert clip.frames.dtype == clip.render.dtype == np.uint8
        for name in ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths", "arkit"):
            value = getattr(clip.spec, name)
            assert value.dtype == np.float32
            assert len(value) == 4


def test_an_avatar_in_the_exported_cameras_and_poses_is_the_render(run, exported: Path, head):
    """Training changed nothing, so the finished avatar shows what was rendered for each request."""
    bundle = read_bundle(run.bundle, head)
    worst, mistaken = 0, {"pose": 0, "camera": 0}
    for clip in read_clips(str(exported)):
        spec = clip.spec

        def render(bundle=bundle, spec=spec, **changed):
            poses = {n: torch.from_numpy(getattr(spec, n)) for n in ("expression", "jaw", "neck", "eyes", "lids")}
            cameras = {"viewmats": spec.viewmats, "Ks": spec.Ks} | changed.pop("cameras", {})
            vertices = head.vertices(bundle.params.replace(**(poses | changed)))
            views, Ks = torch.from_numpy(cameras["viewmats"])[:, None], torch.from_numpy(cameras["Ks"])[:, None]
            with torch.no_grad():
                pictures, _, _ = bundle.avatar.render(vertices, views, Ks, spec.size)
            return (pictures[:, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy().astype(int)

        worst = max(worst, int(np.abs(render() - clip.render.astype(int)).max()))
        # The comparison would tell: with poses of the frames in reverse, or the cameras of another order, it fails.
        relaxed = {"expression": torch.zeros(4, head.n_expression), "jaw": torch.zeros(4, 3), "lids": torch.zeros(4, 2)}
        mistaken["pose"] = max(mistaken["pose"], int(np.abs(render(**relaxed) - clip.render.astype(int)).max()))
        turned = {"viewmats": spec.viewmats[::-1].copy()}
        mistaken["camera"] = max(
            mistaken["camera"], int(np.abs(render(cameras=turned) - clip.render.astype(int)).max())
        )
    assert worst <= 1  # rounding
    assert min(mistaken.values()) > 20


def test_the_poses_are_those_that_training_used(exported: Path, head):
    trainer = Reconstruction(tiny_portrait(), run_config(), head, avatar_id="ada", fetch=lambda key, version: None)
    for clip in read_clips(str(exported)):
        trained = trainer._posed.clips[clip.spec.key]
        for field in ("viewmats", "Ks", "expression", "jaw", "neck", "eyes", "lids", "azimuths", "arkit"):
            for frame in range(4):
                shown = getattr(trained, field)[min(frame, clip.unlocked - 1)]
                np.testing.assert_array_equal(getattr(clip.spec, field)[frame], shown)


def test_landmarks_are_the_heads_in_these_cameras(run, exported: Path, head):
    params = read_bundle(run.bundle, head).params
    triangles, weights = head.faces[head.landmarks.triangles].numpy(), head.landmarks.barycentric.double().numpy()
    for clip in read_clips(str(exported)):
        spec = clip.spec
        poses = {n: torch.from_numpy(getattr(spec, n)) for n in ("expression", "jaw", "neck", "eyes", "lids")}
        vertices = head.vertices(params.replace(**poses))
        track = project_landmarks(head, vertices, torch.from_numpy(spec.viewmats), torch.from_numpy(spec.Ks), spec.size)
        np.testing.assert_allclose(clip.landmarks.points, track.points, atol=1e-5)
        assert clip.landmarks.valid.all()
        assert clip.landmarks.projected.all()
        # And by hand: a pinhole camera in float64, y downwards.
        corners = vertices.double().numpy()[:, triangles]
        points = (corners * weights[None, :, :, None]).sum(2)
        for frame in range(len(spec)):
            rotation, move = spec.viewmats[frame, :3, :3].astype(float), spec.viewmats[frame, :3, 3].astype(float)
            seen = points[frame] @ rotation.T + move
            focal, middle = spec.Ks[frame, [0, 1], [0, 1]].astype(float), spec.Ks[frame, :2, 2].astype(float)
            pixels = focal * seen[:, :2] / seen[:, 2:] + middle
            np.testing.assert_allclose(clip.landmarks.points[frame], pixels / spec.size, atol=1e-4)
            eye = -rotation.T @ move - head.center.double().numpy()
            assert np.degrees(np.arctan2(eye[0], eye[2])) == pytest.approx(spec.azimuths[frame], abs=1e-2)


def test_arkit_coefficients_make_the_expression(run, exported: Path, head):
    params = read_bundle(run.bundle, head).params
    for clip in read_clips(str(exported)):
        made = head.arkit(torch.from_numpy(clip.spec.arkit), params)
        for name in ("expression", "jaw", "eyes", "lids"):
            np.testing.assert_allclose(getattr(made, name).expand(4, *getattr(made, name).shape[1:]).numpy(),
                                       getattr(clip.spec, name), atol=1e-6)  # fmt: skip


def test_locked_frames_show_the_last_open_one(exported: Path):
    locked = [clip for clip in read_clips(str(exported)) if clip.unlocked < 4]
    assert {clip.unlocked for clip in locked} >= {1, 2}
    for clip in locked:
        last = clip.unlocked - 1
        for name in ("viewmats", "Ks", "expression", "jaw", "lids", "azimuths", "arkit"):
            value = getattr(clip.spec, name)
            assert (value[last:] == value[last]).all()
        assert (clip.landmarks.points[last:] == clip.landmarks.points[last]).all()
        assert (clip.render[last:] == clip.render[last]).all()


def test_the_portrait_belongs_to_it(run, exported: Path, head):
    (portrait,) = read_portraits(str(exported))
    assert (portrait.avatar, portrait.finished, portrait.head) == (run.avatar, True, "canonical-1")
    before, params = tiny_portrait(), read_bundle(run.bundle, head).params
    for name in ("image", "landmarks", "viewmat", "K", "arkit"):
        np.testing.assert_array_equal(getattr(portrait.portrait, name), getattr(before, name))
    assert (portrait.portrait.yaw, portrait.portrait.residual) == (before.yaw, before.residual)
    for name in ("shape", "expression", "jaw", "neck", "eyes", "lids", "offset"):
        assert torch.equal(getattr(portrait.portrait.params, name), getattr(params, name))
    assert portrait.config["curriculum.frames"] == 4


def test_newest_versions_without_renders_are_the_default(run, root: Path, tmp_path: Path):
    index = export_dataset(str(root), str(tmp_path / "out"))
    clips = list(read_clips(str(tmp_path / "out")))
    store = SymGENStore(run.dataset, run.avatar)
    assert {clip.spec.key: clip.version for clip in clips} == {r.key: store.version(r.key) for r in store.records()}
    assert all(clip.newest and clip.render is None for clip in clips)
    assert index.avatars == {run.avatar: len(clips)}
    assert sorted(content(tmp_path / "out")) == ["clips-000000.tar", "index.json", "portraits-000000.tar"]


def test_shards_are_bounded_and_their_bytes_are_always_the_same(root: Path, exported: Path, tmp_path: Path):
    index = export_dataset(str(root), str(tmp_path / "b"), all_versions=True, renders=True, shard_bytes=SMALL)
    assert content(tmp_path / "b") == content(exported)
    assert len(index.clips) >= 2
    assert max(shard.bytes for shard in index.shards) <= SMALL
    one_each = export_dataset(str(root), str(tmp_path / "c"), all_versions=True, shard_bytes=1)
    assert [shard.samples for shard in one_each.clips] == [1] * 6
    with tarfile.open(tmp_path / "c" / "clips-000000.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in archive} == {(0, 0, 0, "", "")}
    assert [c.request_id for c in read_clips(str(tmp_path / "c"))] == [c.request_id for c in read_clips(str(exported))]


def test_a_killed_export_leaves_no_dataset_and_no_torn_shard(root: Path, exported: Path, tmp_path: Path):
    output = tmp_path / "out"

    def killed():
        flush, shards = os.fsync, []

        def kill_at_the_third(descriptor):
            shards.append(descriptor)
            if len(shards) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(descriptor)

        os.fsync = kill_at_the_third
        export_dataset(str(root), str(output), all_versions=True, renders=True, shard_bytes=SMALL)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left, whole = content(output), content(exported)
    shown = {name: data for name, data in left.items() if not name.startswith(".")}
    assert len(shown) == 2
    assert len(left) == 3  # the third is under its temporary name
    assert "index.json" not in shown
    assert all(data == whole[name] for name, data in shown.items())
    with pytest.raises(DatasetError, match="export was stopped"):
        read_clips(str(output))
    export_dataset(str(root), str(output), all_versions=True, renders=True, shard_bytes=SMALL)
    assert content(output) == whole


def test_a_full_disk_leaves_no_dataset(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*clips-000000.tar: No space left on device"):
        export_dataset(str(root), str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_damaged_shards_are_named(exported: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "d")
    verify(str(tmp_path / "d"))
    first = tmp_path / "d" / "clips-000000.tar"
    sound = first.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    first.write_bytes(flipped)
    with pytest.raises(DatasetError, match=r"clips-000000\.tar has another checksum"):
        verify(str(tmp_path / "d"))
    for cut in (len(sound) // 2, 1000):
        first.write_bytes(sound[:cut])
        with pytest.raises(DatasetError, match=f"clips-000000.tar has {cut} bytes instead of {len(sound)}"):
            verify(str(tmp_path / "d"))
        with pytest.raises(DatasetError, match=r"clips-000000\.tar cannot be read"):
            list(read_clips(str(tmp_path / "d")))
    first.unlink()
    with pytest.raises(DatasetError, match=r"clips-000000\.tar is missing"):
        verify(str(tmp_path / "d"))
    with pytest.raises(DatasetError, match=r"clips-000000\.tar is missing"):
        list(read_clips(str(tmp_path / "d")))


def test_a_shard_that_ends_between_two_clips_is_noticed(exported: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "d")
    path = tmp_path / "d" / "clips-000000.tar"
    with tarfile.open(path) as archive:
        second = [member for member in archive if member.name.endswith(".json")][1]
    path.write_bytes(path.read_bytes()[: second.offset])
    with pytest.raises(DatasetError, match=r"has 1 samples instead of \d"):
        list(read_clips(str(tmp_path / "d")))


def test_other_formats_are_refused(exported: Path, tmp_path: Path):
    (tmp_path / "index.json").write_text(json.dumps({**json.loads((exported / "index.json").read_text()), "format": 2}))
    with pytest.raises(DatasetError, match=r"format 2 .* knows format 1; update zero1toa"):
        read_clips(str(tmp_path))
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(DatasetError, match="is damaged"):
        read_clips(str(tmp_path))


def test_the_output_must_be_empty_or_an_export_of_the_same(root: Path, exported: Path, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"not empty: it holds diary\.txt"):
        export_dataset(str(root), str(tmp_path / "notes"))
    shutil.copytree(exported, tmp_path / "older")
    export_dataset(str(root), str(tmp_path / "older"))  # with fewer shards than before
    assert verify(str(tmp_path / "older")).all_versions is False
    assert len(content(tmp_path / "older")) == 3
    index = json.loads((tmp_path / "older" / "index.json").read_text())
    (tmp_path / "older" / "index.json").write_text(json.dumps({**index, "avatars": {"bob-12345678": 4}}))
    with pytest.raises(OutputError, match="holds the clips of bob-12345678"):
        export_dataset(str(root), str(tmp_path / "older"))
    assert len(content(tmp_path / "older")) == 3


def test_an_unfinished_avatar_has_the_same_poses(root: Path, tmp_path: Path):
    shutil.copytree(root, tmp_path / "ada")
    shutil.rmtree(tmp_path / "ada" / "avatar")
    finished, unfinished = (AvatarClips(Storage(place), load_head) for place in (root, tmp_path / "ada"))
    assert (finished.portrait.finished, unfinished.portrait.finished) == (True, False)
    for one, other in zip(finished.clips(), unfinished.clips(), strict=True):
        np.testing.assert_allclose(one.landmarks.points, other.landmarks.points, atol=1e-5)
        np.testing.assert_array_equal(one.spec.viewmats, other.spec.viewmats)


def test_an_avatar_in_work_is_left_alone(root: Path, tmp_path: Path):
    shutil.copytree(root, tmp_path / "ada")
    shutil.rmtree(tmp_path / "ada" / "avatar")
    with (
        FolderLock(tmp_path / "ada" / "dataset" / LOCK),
        pytest.raises(OutputError, match="another process is working in"),
    ):
        export_dataset(str(tmp_path / "ada"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_does_not_belong_together_is_refused(root: Path, tmp_path: Path):
    def copied(name: str) -> Path:
        shutil.copytree(root, tmp_path / name)
        return tmp_path / name

    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(DatasetError, match=reason):
            export_dataset(str(folder), str(tmp_path / "out"))
        assert not (tmp_path / "out" / "index.json").exists()

    missing = copied("missing")
    (missing / "portrait" / "portrait.npz").unlink()
    refused(missing, "portrait.npz is missing or damaged")
    other = copied("other")
    about = json.loads((other / "checkpoint" / "identity.json").read_text())
    (other / "checkpoint" / "identity.json").write_text(json.dumps({**about, "portrait": "0" * 64}))
    refused(other, "is not the portrait that the clips")
    torn = copied("torn")
    path = sorted((torn / "dataset" / "objects" / "spatial").rglob("*.npz"))[-1]
    path.write_bytes(path.read_bytes()[:100])
    refused(torn, "cannot be read")
    changed = copied("changed")
    shaped = about["config"] | {"curriculum.frames": 5}
    (changed / "checkpoint" / "identity.json").write_text(json.dumps({**about, "config": shaped}))
    refused(changed, r"pictures \[4, 48, 48, 3\]; 5 of 48² were expected")


def test_nothing_to_export(tmp_path: Path, root: Path):
    with pytest.raises(DatasetError, match="holds no avatar"):
        export_dataset(str(tmp_path), str(tmp_path / "out"))
    shutil.copytree(root, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "dataset")
    with pytest.raises(DatasetError, match="no longer has its clips"):
        export_dataset(str(tmp_path / "run"), str(tmp_path / "out"))


def test_a_batch_gives_the_clips_of_its_finished_avatars(root: Path, tmp_path: Path):
    batch = tmp_path / "batch"
    for name in ("a", "b", "c"):
        shutil.copytree(root, batch / "avatars" / name)
        about = json.loads((root / "checkpoint" / "identity.json").read_text())
        for file, changed in (("checkpoint/identity.json", about), ("dataset/store.json", {"format": 1})):
            (batch / "avatars" / name / file).write_text(json.dumps({**changed, "avatar": f"{name}-1"}))
    shutil.rmtree(batch / "avatars" / "b" / "avatar")
    shutil.rmtree(batch / "avatars" / "c" / "dataset")
    assert list(export_dataset(str(batch), str(tmp_path / "done")).avatars) == ["a-1"]
    index = export_dataset(str(batch), str(tmp_path / "all"), unfinished=True)
    assert list(index.avatars) == ["a-1", "b-1"]
    assert [portrait.finished for portrait in read_portraits(str(tmp_path / "all"))] == [True, False]
    shutil.rmtree(batch / "avatars" / "a" / "dataset")
    with pytest.raises(DatasetError, match=r"none of the 2 avatars .* has its clips any more"):
        export_dataset(str(batch), str(tmp_path / "none"))
    shutil.rmtree(batch / "avatars" / "a" / "avatar")
    shutil.rmtree(batch / "avatars" / "c" / "avatar")
    with pytest.raises(DatasetError, match=r"none of the 3 avatars .* is finished; --unfinished"):
        export_dataset(str(batch), str(tmp_path / "none"))


@pytest.mark.parametrize("url", ["dir::file://{}/out", "memory://{}/out"])
def test_source_and_output_may_be_elsewhere(root: Path, exported: Path, tmp_path: Path, url: str):
    source, output = Storage(url.format(tmp_path / "batch")), url.format(tmp_path)
    source.upload(root, "avatars/ada", last="preview.png")
    index = export_dataset(source.url, output, all_versions=True, renders=True, shard_bytes=SMALL)
    assert index == verify(output)
    assert Storage(output).read("clips-000000.tar") == (exported / "clips-000000.tar").read_bytes()
    assert [clip.sequence for clip in read_clips(output)] == [1, 2, 3, 4, 5, 6]


def test_the_command_says_what_it_wrote(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export(str(root), str(tmp_path / "out"), shard_mb=1)
    check(str(tmp_path / "out"))
    written, sound = capsys.readouterr().out.splitlines()
    assert written.startswith(f"{tmp_path / 'out'}: 4 clips of 1 avatars in 2 shards, 0.")
    assert "is sound: 4 clips" in sound


def test_distilled_avatars_have_a_portrait_and_no_clips(root: Path, tmp_path: Path):
    shutil.copytree(root, tmp_path / "ada")
    for name in ("commits", "objects"):
        shutil.rmtree(tmp_path / "ada" / "dataset" / name)
    index = export_dataset(str(tmp_path / "ada"), str(tmp_path / "out"))
    assert (len(index.clips), len(index.portraits)) == (0, 1)
    assert list(read_clips(str(tmp_path / "out"))) == []
