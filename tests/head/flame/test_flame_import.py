"""Reading FLAME pickles: the arrays come out as they were written, and nothing that a file names is ever run."""

from __future__ import annotations

import copyreg
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from flame_like import FlameLike, write_pickle

from zero1toa.errors import HeadModelError
from zero1toa.head.flame.editions import EDITIONS, edition
from zero1toa.head.flame.importing import read_flame
from zero1toa.head.flame.unpickle import RefusedPickleError, read_pickle

FLAME2020 = EDITIONS["flame2020"]


@pytest.mark.parametrize(("old_scipy", "python2"), [(True, True), (False, False)])
def test_arrays_come_out_as_they_were_written(
    flame_like: FlameLike, tmp_path: Path, old_scipy: bool, python2: bool
) -> None:
    path = write_pickle(tmp_path / "any.pkl", flame_like.entries, old_scipy=old_scipy, python2=python2)
    arrays = read_flame(path, FLAME2020)
    for attribute, key in (
        ("template", "v_template"), ("basis", "shapedirs"), ("pose_basis", "posedirs"), ("weights", "weights"),
        ("faces", "f"),
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(arrays, attribute), flame_like.entries[key])
    np.testing.assert_array_equal(arrays.joint_regressor, flame_like.entries["J_regressor"].toarray())
    assert (arrays.n_shape, arrays.n_expression) == (300, 100)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_of_every_protocol_and_layout(tmp_path: Path, protocol: int, order: str) -> None:
    rng = np.random.default_rng(0)
    entries = {
        "a": np.asarray(rng.normal(size=(4, 5)), order=order),  # type: ignore[call-overload]
        "big": rng.normal(size=7).astype(">f8"),
        "ids": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "scalar": np.float64(2.5),
        "text": "Zürich",
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(entries, protocol=protocol))
    read = read_pickle(path)
    for key, value in read.items():
        np.testing.assert_array_equal(value, entries[key])


def test_chumpy_selections_and_sparse_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``chumpy.reordering.Select`` and repeated entries of a sparse column, summed as scipy sums them."""
    module = types.ModuleType("chumpy.reordering")
    module.Select = type("Select", (), {"__module__": "chumpy.reordering"})  # type: ignore[attr-defined]
    fake = module.Select()
    fake.__dict__.update(a=np.arange(12.0), idxs=np.array([3, 1, 7, 11]), preferred_shape=(2, 2))
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.reordering", module)
    raw = pickle.dumps({"s": fake}, protocol=2)
    (tmp_path / "s.pkl").write_bytes(raw)
    np.testing.assert_array_equal(read_pickle(tmp_path / "s.pkl")["s"], [[3, 1], [7, 11]])
    matrix = sp.csc_matrix((np.array([1.0, 2.0, 4.0]), np.array([0, 0, 2]), np.array([0, 2, 3])), shape=(3, 2))
    path = write_pickle(tmp_path / "m.pkl", {"m": matrix})
    np.testing.assert_array_equal(read_pickle(path)["m"], [[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])


class _Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _hostile(marker: Path) -> dict[str, bytes]:
    write = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    nested = {"v_template": [{"deep": (1, _Calls(os.system, shell))}]}
    rebuilt = b"\x80\x02ccopy_reg\n_reconstructor\ncsubprocess\nPopen\nc__builtin__\nobject\nN\x87R."
    attribute = b"\x80\x02cnumpy\nndarray\n}(U\x07__del__cos\nsystem\nub."
    # Sets the defaults of an allowed function, and so would change what later files are read by.
    slots = b"\x80\x02cnumpy\ndtype\nN}(U\x0c__defaults__(U\x02f8K\x01tu\x86b."
    codec = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR."
    return {
        "os.system": pickle.dumps(_Calls(os.system, shell)),
        "eval": pickle.dumps(_Calls(eval, write)),
        "exec of Python 2": f"c__builtin__\neval\n(V{write}\ntR.".encode(),
        "nested": pickle.dumps(nested, protocol=2),
        "in a key": pickle.dumps({(_Calls(os.system, shell),): 1}, protocol=4),
        "getattr": pickle.dumps(_Calls(getattr, pickle.Pickler, "dump")),
        "copyreg": pickle.dumps(_Calls(copyreg.add_extension, "os", "system", 240)),
        "copy_reg of a class": rebuilt,
        "class attribute": attribute,
        "function slots": slots,
        "codec": codec,
        "numpy loader": pickle.dumps(_Calls(np.load, "x.npy")),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        "instance": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02U\x01xQ.",
    }


@pytest.mark.parametrize("name", sorted(_hostile(Path("x"))))
def test_a_pickle_with_code_in_it_does_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(_hostile(marker)[name])
    with pytest.raises(HeadModelError) as caught:
        read_flame(path, FLAME2020)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_marker_would_appear(tmp_path: Path) -> None:
    """The same bytes do harm in plain pickle: the test above can fail."""
    marker = tmp_path / "marker"
    pickle.loads(_hostile(marker)["os.system"])
    assert marker.exists()


def test_one_file_cannot_change_how_the_next_is_read(flame_like: FlameLike, tmp_path: Path) -> None:
    for i, raw in enumerate(_hostile(tmp_path / "marker").values()):
        path = tmp_path / f"{i}.pkl"
        path.write_bytes(raw)
        with pytest.raises(HeadModelError):
            read_flame(path, FLAME2020)
    path = write_pickle(tmp_path / "good.pkl", flame_like.entries)
    np.testing.assert_array_equal(read_flame(path, FLAME2020).template, flame_like.entries["v_template"])


def test_the_refusal_says_what_was_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(_Calls(os.system, "true")))
    with pytest.raises(RefusedPickleError, match=r"system.*nothing of it was run"):
        read_pickle(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9999])
def test_a_truncated_file_says_so(flame_pickle: Path, tmp_path: Path, share: float) -> None:
    raw = flame_pickle.read_bytes()
    path = tmp_path / "half.pkl"
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(HeadModelError, match="not a readable pickle"):
        read_flame(path, FLAME2020)


def _change(entries: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    out = {k: v for k, v in entries.items() if k != key}
    return out if value is None else out | {key: value}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("v_template", None, "no 'v_template'"),
        ("v_template", np.zeros((6890, 3)), r"\[6890, 3\], not numbers \[5023, 3\]"),
        ("v_template", np.full((5023, 3), np.nan), "not finite"),
        ("v_template", np.zeros((5023, 3)), "upright in metres"),
        ("f", np.zeros((9976, 4), np.uint32), r"not whole numbers \[9976, 3\]"),
        ("f", np.full((9976, 3), 5023, np.uint32), "outside of 0 to 5022"),
        ("shapedirs", np.zeros((5023, 3, 150)), "150 coefficients, not 400"),
        ("posedirs", np.zeros((5023, 3, 207)), r"posedirs.*\[5023, 3, 36\]"),
        ("weights", np.zeros((5023, 5)), "sum to 1"),
        ("J_regressor", sp.csc_matrix((5, 5023)), "joint regressor"),
        ("kintree_table", np.zeros((2, 5), np.uint32), "tree of FLAME's five joints"),
    ],
)
def test_what_is_not_flame_is_named(flame_like: FlameLike, tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write_pickle(tmp_path / "x.pkl", _change(flame_like.entries, key, value))
    with pytest.raises(HeadModelError, match=message) as caught:
        read_flame(path, FLAME2020)
    assert "\n" not in str(caught.value)


def test_editions_are_told_apart_where_they_can_be(flame_like: FlameLike, flame_pickle: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadModelError, match="assets install flame2020"):
        read_flame(flame_pickle, EDITIONS["flame2023"])
    entries = dict(flame_like.entries) | {"supr_expression_metadata": {"n_expr": 100}}
    path = write_pickle(tmp_path / "renamed.pkl", entries)
    assert read_flame(path, EDITIONS["flame2023_open"]).n_shape == 300
    with pytest.raises(HeadModelError, match="assets install flame2023_open"):
        read_flame(path, FLAME2020)
    assert edition("flame-2023-no-jaw").key == "flame2023_no_jaw"
    with pytest.raises(HeadModelError, match="did you mean 'flame2023'"):
        edition("flame203")
