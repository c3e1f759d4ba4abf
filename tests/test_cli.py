"""The command line as a user meets it: one clear line for a mistake, exit codes, nothing half-written."""

import hashlib
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import zero1toa
from zero1toa import assets
from zero1toa.cli import app, guarded
from zero1toa.commands.output import NEEDED_BYTES, OutputFolder, fingerprint
from zero1toa.config import load, to_dict
from zero1toa.errors import AssetError, OutputError, UserError


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_version():
    assert _run("--version") == (0, f"zero1toa {zero1toa.__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command continues\n"),
        (OSError(28, "No space left on device", "/x/y.png"), 2, "error: No space left on device (/x/y.png)"),
    ],
)
def test_errors_become_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]):
    import typer

    @guarded
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == code
    written = capsys.readouterr().err
    assert written.startswith(line)
    assert written.count("\n") == 1


@pytest.mark.parametrize(("photo", "name"), [("some/where/photo.jpg", "photo"), ("sample:astronaut", "astronaut")])
def test_an_avatar_has_its_photos_name(photo: str, name: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, Path, list[str]]] = []
    monkeypatch.setattr("zero1toa.commands.generate.generate_avatar", lambda *given, **_: asked.append(given))
    assert _run("generate", photo, "preset=paper", "backbone=follow_your_emoji", "head=flame2020")[0] == 0
    assert _run("generate", photo, "-o", "elsewhere", "seed=1")[0] == 0
    assert asked == [
        (photo, Path("outputs") / name, ["preset=paper", "backbone=follow_your_emoji", "head=flame2020"]),
        (photo, Path("elsewhere"), ["seed=1"]),
    ]


def test_unexpected_errors_keep_their_traceback():
    @guarded
    def command() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        command()


# Output folder.


IDENTITY = fingerprint(b"photo", to_dict(load()))


def test_fingerprint_ignores_what_does_not_shape_the_avatar():
    assert fingerprint(b"photo", to_dict(load(["distributed.refiners=3", "tracking.wandb=disabled"]))) == IDENTITY
    assert fingerprint(b"photo", to_dict(load(["seed=3"]))) != IDENTITY
    assert fingerprint(b"other", to_dict(load())) != IDENTITY


def test_unclaimed_folder_is_removed_again(tmp_path: Path):
    with pytest.raises(ValueError, match="bad photo"), OutputFolder(tmp_path / "a" / "b", IDENTITY):
        raise ValueError("bad photo")
    assert list(tmp_path.iterdir()) == []


def test_claimed_folder_is_recognised(tmp_path: Path):
    with OutputFolder(tmp_path / "out", IDENTITY) as folder:
        assert not folder.continuing
        folder.claim()
    with OutputFolder(tmp_path / "out", IDENTITY) as folder:
        assert folder.continuing
    with (
        pytest.raises(OutputError, match="belongs to another photo"),
        OutputFolder(tmp_path / "out", fingerprint(b"other", to_dict(load()))),
    ):
        pass
    changed = fingerprint(b"photo", to_dict(load(["seed=3"])))
    with (
        pytest.raises(OutputError, match="seed was 0 and is 3"),
        OutputFolder(tmp_path / "out", changed),
    ):
        pass


def test_restart_removes_only_what_a_run_writes(tmp_path: Path):
    mine = tmp_path / "holiday.txt"
    mine.write_text("mine")
    with OutputFolder(tmp_path, IDENTITY) as folder:
        folder.claim()
        (tmp_path / "avatar").mkdir()
        (tmp_path / "avatar" / "x").write_text("old")
    with OutputFolder(tmp_path, fingerprint(b"other", to_dict(load())), restart=True) as folder:
        assert not folder.continuing
        assert (tmp_path / "avatar" / "x").exists()  # nothing is touched before the photo has proven good
        folder.claim()
    assert mine.read_text() == "mine"
    assert not (tmp_path / "avatar").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path):
    with OutputFolder(tmp_path / "out", IDENTITY) as folder:
        folder.claim()
        with pytest.raises(OutputError, match="another run is working"), OutputFolder(tmp_path / "out", IDENTITY):
            pass


def test_a_killed_run_leaves_no_lock(tmp_path: Path):
    script = (
        "import os, signal, sys; from pathlib import Path; from zero1toa.commands.output import OutputFolder\n"
        "folder = OutputFolder(Path(sys.argv[1]), {'photo': 'x', 'config': {}}).__enter__(); folder.claim()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert done.returncode == -9
    with OutputFolder(tmp_path / "out", {"photo": "x", "config": {}}) as folder:
        assert folder.continuing


def test_full_disk_is_named_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=NEEDED_BYTES - 2**20))
    with pytest.raises(OutputError, match="511 MB free"), OutputFolder(tmp_path / "out", IDENTITY):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_folder_and_foreign_work_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"is a file|cannot make"), OutputFolder(path, IDENTITY):
            pass
    (tmp_path / "avatar").mkdir()
    with pytest.raises(OutputError, match=r"holds avatar but no run\.json"), OutputFolder(tmp_path, IDENTITY):
        pass


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("{tmp}/file/out", "Not a directory"),
        ("ftp://127.0.0.1:{closed}/out", "cannot reach ftp://127.0.0.1"),
        ("http://127.0.0.1:{closed}/out", "cannot reach http://127.0.0.1"),
        ("bukket://out", "Protocol not known: bukket"),
    ],
)
def test_a_batch_whose_output_is_out_of_reach_ends_in_one_line(output: str, words: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ada.png").write_bytes(b"looked at later")
    with socket.socket() as unheard:  # bound, but it does not listen: a connection is refused
        unheard.bind(("127.0.0.1", 0))
        output = output.format(tmp=tmp_path, closed=unheard.getsockname()[1])
        code, _, error = _run("batch", str(tmp_path / "photos"), "--output", output)
    assert code == 2
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot make"), OutputFolder(tmp_path / "out", IDENTITY):
        pass


def test_damaged_record_is_named(tmp_path: Path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(OutputError, match=r"run\.json cannot be read"), OutputFolder(tmp_path, IDENTITY):
        pass


# Assets.


@pytest.fixture
def small_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> assets.Asset:
    """An asset of 64 bytes in place of the catalogue, and an empty asset folder."""
    content = b"PK\x03\x04" + bytes(60)
    asset = assets.Asset(
        name="tiny",
        file="tiny.pth",
        purpose="tests",
        instead="nothing",
        licence="none",
        source="https://example.org/tiny.pth",
        size=len(content),
        checksum=f"sha256:{hashlib.sha256(content).hexdigest()}",
        magic=(b"PK",),
    )
    (tmp_path / "good.pth").write_bytes(content)
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(assets, "catalog", lambda: (asset,))
    return asset


def test_install_checks_and_copies(small_asset: assets.Asset, tmp_path: Path):
    assert small_asset.find() is None
    code, out, _ = _run("assets", "install", "tiny", str(tmp_path / "good.pth"))
    assert code == 0
    assert "used for tests" in out
    assert small_asset.find() == tmp_path / "home" / "tiny.pth"
    assert "home/tiny.pth" in _run("assets")[1].replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html><title>Log in</title>", "is a web page"),
        (b"\x89PNG" + bytes(60), "not in the format"),
        (b"PK\x03\x04" + bytes(20), "the download is incomplete"),
        (b"PK\x03\x04" + bytes(59) + b"\x01", "damaged or another version"),
        (None, "cannot read"),
    ],
)
def test_wrong_files_are_named(small_asset: assets.Asset, tmp_path: Path, content: bytes | None, words: str):
    file = tmp_path / "given.pth"
    if content is not None:
        file.write_bytes(content)
    code, _, err = _run("assets", "install", "tiny", str(file))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_unknown_asset_is_named(small_asset: assets.Asset):
    with pytest.raises(AssetError, match="did you mean 'tiny'"):
        assets.get("tinny")


def test_real_catalogue_is_complete():
    for asset in assets.catalog():
        assert asset.licence
        assert asset.source.startswith("https://")
        if asset.importer is not None:  # converted from a file of which no size or checksum is published
            assert (asset.size, asset.checksum) == (None, None)
            assert callable(pkgutil.resolve_name(asset.importer))
            assert asset.download != asset.file
        if asset.checksum is None:
            continue
        algorithm, digest = asset.checksum.split(":")
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        assert asset.source.endswith(asset.download)
        if asset.name in set(assets.REMBG_MODELS) - {"u2net"}:  # rembg publishes no sizes
            continue
        assert asset.size is not None
        assert asset.size > 1_000_000


# Doctor.


def test_doctor_names_every_part_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from zero1toa.commands import doctor

    for variable in ("ZERO1TOA_HOME", "U2NET_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    findings = {finding.part: finding for finding in doctor.diagnose()}
    assert len(findings) == 9
    assert "pymatting" in findings["Background removal"].used
    assert "assets install u2net" in findings["Background removal"].advice
    assert all(finding.best or finding.advice for finding in findings.values())

    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "mediapipe" else real(package))
    code, out, _ = _run("doctor")
    assert code == 1
    assert "mediapipe==0.10.21" in out
    assert "does not work here" in out


def test_doctor_sees_an_installed_asset(small_asset: assets.Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from zero1toa.commands import doctor

    monkeypatch.setattr(assets, "get", lambda name: small_asset)
    assert not doctor._matting().best
    _run("assets", "install", "tiny", str(tmp_path / "good.pth"))
    assert doctor._matting().best


def test_doctor_names_a_matting_model_that_is_not_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from zero1toa.commands import doctor

    for variable in ("ZERO1TOA_HOME", "U2NET_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "birefnet-dis.onnx").write_bytes(b"\x08")  # its size is not known, so any is taken
    finding = doctor._matting()
    assert not finding.best
    assert "or birefnet-dis with portrait.matting_model" in finding.advice


# Rendering.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--expression", "jawOpem=1"], "did you mean 'jawOpen'"),
        (["--expression", "jawOpen"], "is not name=number"),
        (["--expression", "jawOpen=7"], "lie between 0 and 1"),
        ([], "there is no avatar bundle"),
    ],
)
def test_render_refuses_before_any_work(tmp_path: Path, arguments: list[str], words: str):
    output = tmp_path / "x.png"
    code, _, err = _run("render", str(tmp_path / "absent"), "-o", str(output), *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_output_names_are_refused(tmp_path: Path):
    assert "must end in .png" in _run("render", "absent", "-o", str(tmp_path / "x.jpg"))[2]
    assert "must end in .mp4" in _run("animate", "absent", "--motion", "talk", "-o", str(tmp_path / "x.gif"))[2]
    assert "did you mean 'talk'" in _run("animate", "absent", "--motion", "tlak", "-o", str(tmp_path / "x.mp4"))[2]
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in _run("render", "absent", "-o", str(tmp_path / "folder.png"))[2]


def test_a_damaged_bundle_is_named(tmp_path: Path):
    (tmp_path / "avatar").mkdir()
    (tmp_path / "avatar" / "avatar.json").write_text("{")
    code, _, err = _run("render", str(tmp_path), "-o", str(tmp_path / "x.png"))
    assert code == 2
    assert "avatar.json" in err
    assert err.count("\n") == 1
