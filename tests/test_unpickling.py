"""Pickles with tensors: numbers come out as they were written, on the CPU, and nothing that a file names is run."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zero1toa.unpickling import ArrayUnpickler, PickleError, RefusedPickleError, TensorUnpickler, read_dictionary


def cuda_pickle(entries: dict[str, Any]) -> bytes:
    """The bytes that ``pickle.dump`` makes of CPU tensors, with every tensor's own file saying ``cuda:0``."""

    class Storage:
        def __init__(self, raw: bytes) -> None:
            self.raw = raw

        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (self.raw,)

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, torch.storage.TypedStorage):
                return NotImplemented
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=False)
            raw = buffer.getvalue()
            moved = raw.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            assert moved != raw
            return Storage(moved).__reduce__()

    out = io.BytesIO()
    Pickler(out, 4).dump(entries)
    return out.getvalue()


def test_tensors_of_a_gpu_are_read_on_the_cpu(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))
    entries = {
        "losses": {"photo": whole[1], "turned": whole.T[2:5], "count": torch.tensor(3)},
        "parameter": torch.nn.Parameter(whole[:2]),
        "half": whole.half(),
        "expression": rng.normal(size=(5, 100)).astype(np.float32),
        "batch_size": 5,
    }
    path = tmp_path / "clip.pkl"
    path.write_bytes(cuda_pickle(entries))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"), path.open("rb") as stream:
            pickle.load(stream)
    read = read_dictionary(path, TensorUnpickler)
    np.testing.assert_array_equal(read["losses"]["photo"], whole[1].numpy())
    np.testing.assert_array_equal(read["losses"]["turned"], whole.T[2:5].numpy())
    assert read["losses"]["count"] == 3
    np.testing.assert_array_equal(read["parameter"], whole[:2].numpy())
    np.testing.assert_array_equal(read["half"], whole.half().numpy())
    np.testing.assert_array_equal(read["expression"], entries["expression"])
    assert read["batch_size"] == 5


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_a_tensor_s_own_file_runs_nothing_either(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "clip.pkl"
    hidden = io.BytesIO()
    torch.save(_Call(os.system, f"touch {marker}"), hidden, _use_new_zipfile_serialization=False)
    raw = pickle.dumps({"losses": _Call(torch.storage._load_from_bytes, hidden.getvalue())})
    path.write_bytes(raw)
    with pytest.raises(PickleError) as caught:
        read_dictionary(path, TensorUnpickler)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(raw)
    assert marker.exists()  # the same bytes do harm in plain pickle


@pytest.mark.parametrize(
    "call",
    [_Call(os.system, "true"), _Call(torch.load, "x.pt"), _Call(torch.hub.load, "x", "y"), _Call(eval, "1")],
)
def test_other_functions_are_refused(tmp_path: Path, call: _Call) -> None:
    path = tmp_path / "clip.pkl"
    path.write_bytes(pickle.dumps({"a": [call]}))
    with pytest.raises(RefusedPickleError, match="nothing of it was run"):
        read_dictionary(path, TensorUnpickler)


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_tensor_v2
    path = tmp_path / "clip.pkl"
    for offset, size, stride in ((0, (2**40,), (1,)), (0, (100,), (1,)), (7, (4,), (1,)), (0, (2, 2), (2**50, 1))):
        call = _Call(rebuild, torch.zeros(8)._typed_storage(), offset, size, stride, False, {})
        path.write_bytes(pickle.dumps({"a": call}))
        with pytest.raises(PickleError) as caught:
            read_dictionary(path, TensorUnpickler)
        assert "\n" not in str(caught.value)


def test_model_files_have_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": torch.zeros(2)}))
    with pytest.raises(RefusedPickleError, match=r"torch\._utils\._rebuild_tensor_v2"):
        read_dictionary(path, ArrayUnpickler)
