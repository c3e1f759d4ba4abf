"""Photos are looked at before machines are asked for. There is no GPU on this cluster, and the job wants some."""

import pytest
from fleet import fleet

from zero1toa.batch.records import Entry
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.session import ray_session
from zero1toa.errors import ConfigError
from zero1toa.storage import Storage


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(2):
        yield


def test_only_a_usable_photo_needs_a_gpu(tmp_path):
    output, photos = Storage(tmp_path / "out"), tmp_path / "photos"
    ((good, config),) = fleet(photos, output, 1, "device=cuda", "distributed.refiners=1")
    entries = []
    for number in range(20):
        path = photos / f"text{number}.jpg"
        path.write_text(f"no picture {number}")
        entries.append((Entry(path.stem, str(path)), config))
    result = run_batch(entries, output, config)
    assert (result.counts["rejected"], len(result.rows), result.served) == (20, 20, ())
    assert output.exists("fleet.html")
    with pytest.raises(ConfigError, match="no GPU"):
        run_batch([*entries, (good, config)], output, config)
