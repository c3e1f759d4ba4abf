"""Offline runs of whole jobs lie in the output afterwards, also in a bucket."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zero1toa import media
from zero1toa.batch.backbone_table import COLUMNS
from zero1toa.config import Config, TrackingConfig
from zero1toa.distributed.backbone_report import log_comparison
from zero1toa.distributed.batch import run_batch
from zero1toa.errors import StorageError
from zero1toa.storage import Storage
from zero1toa.tracking.wandb_folder import wait_until_written, wandb_folder


@pytest.fixture(params=["local", "bucket"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(tmp_path / "out" if request.param == "local" else f"memory://{tmp_path.name}/out")


def _whole_run(output: Storage, name: str) -> str:
    """The folder of the only run, whose file must hold W&B's record of its end."""
    from wandb.proto.wandb_internal_pb2 import Record

    (run,) = (folder for folder in output.folders("wandb") if folder.startswith("offline-run-"))
    assert run.endswith(f"-{name}")
    if output.local is not None:
        assert wait_until_written(output.local)
    data = output.read(f"wandb/{run}/run-{name}.wandb")
    assert len(data) < 2**15  # one block of LevelDB's log format, so that no record is split
    kinds, start = [], 7
    while start < len(data):
        _, length, _ = struct.unpack_from("<IHB", data, start)
        kinds.append(Record.FromString(data[start + 7 : start + 7 + length]).WhichOneof("record_type"))
        start += 7 + length
    assert kinds.count("run") == 1
    assert "exit" in kinds
    return f"wandb/{run}"


def test_the_run_of_a_batch(output: Storage):
    said: list[str] = []
    run_batch([], output, Config(tracking=TrackingConfig()), name="job", say=said.append)
    run = _whole_run(output, "job-system")
    (table,) = output.files(f"{run}/files/media/table", ".json")
    assert json.loads(output.read(f"{run}/files/media/table/{table}"))["columns"][:2] == ["id", "state"]
    assert not [line for line in said if "W&B" in line]


def test_the_run_of_a_comparison(output: Storage):
    output.write("backbones.png", media.png(np.zeros((4, 6, 3), np.uint8)))
    log_comparison(Config(), output, "trial", [], "backbones.png", print)
    run = _whole_run(output, "trial-comparison")
    (table,) = output.files(f"{run}/files/media/table", ".json")
    assert json.loads(output.read(f"{run}/files/media/table/{table}"))["columns"] == list(COLUMNS)
    assert len(output.files(f"{run}/files/media/images", ".png")) == 1


def test_a_bucket_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **more: object) -> None:
        raise StorageError("cannot write memory://full: no room")

    output, said = Storage(f"memory://{tmp_path.name}"), []
    monkeypatch.setattr(Storage, "upload", refuse)
    with wandb_folder(output, said.append) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert said == [f"the W&B run could not be copied to {output}: cannot write memory://full: no room"]


def test_a_file_is_waited_for_while_another_process_writes_it(tmp_path: Path):
    path = tmp_path / "wandb" / "offline-run-1-a" / "run-a.wandb"
    path.parent.mkdir(parents=True)
    script = (
        "import sys; file = open(sys.argv[1], 'wb'); print('open', flush=True); sys.stdin.read(); file.write(b'end')"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=pipe, stdout=pipe) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        assert not wait_until_written(tmp_path, patience=0.05)
        writer.stdin.close()
        assert wait_until_written(tmp_path, patience=60.0)
        assert path.read_bytes() == b"end"
    assert wait_until_written(tmp_path / "nothing", patience=0.0)
