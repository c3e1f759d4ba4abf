"""The arguments of a Ray job, and how it ends."""

import os
import signal
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ray_jobs.arguments import run_job
from ray_jobs.generate import Arguments, main, parse
from zero1toa.cli import guarded
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.trainer_pool import _STOP_SECONDS
from zero1toa.errors import BackboneError, ConfigError, StorageError

ROOT = Path(__file__).parent.parent


def test_arguments_are_split():
    arguments = ["--config", "b.yaml", "input=photos", "seed=3", "output=s3://b/out", "loop.iterations=5", "name=n"]
    expected = Arguments("photos", "s3://b/out", ("seed=3", "loop.iterations=5"), Path("b.yaml"), "n")
    assert parse(arguments) == expected
    assert parse(["output=o", "input=a=b.jpg", "restart=true"]) == Arguments("a=b.jpg", "o", restart=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["me.jpg", "output=o"], "'me.jpg' is not key=value"),
        (["inptu=me.jpg", "output=o"], "input is missing; is it meant by 'inptu'"),
        (["input=me.jpg"], "output is missing"),
        (["input=a.jpg", "input=b.jpg", "output=o"], "given twice"),
        (["input=me.jpg", "output=o", "restart=yes"], "true or false"),
        (["input=me.jpg", "output=o", "--config"], "--config needs a file"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        parse(arguments)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_relative_output_would_vanish_with_the_jobs_working_directory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="would vanish"):
        parse(["input=/photos", "output=out"])
    assert parse(["input=/photos", "output=s3://bucket/out"]).output == "s3://bucket/out"


def test_a_benchmark_needs_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from ray_jobs.benchmark_backbones import main as benchmark

    assert benchmark(["input=photos", "output=o"]) == 2
    assert "settings is missing" in capsys.readouterr().err
    assert benchmark(["input=photos", f"output={tmp_path}", f"settings={tmp_path}/none.yaml"]) == 2
    assert "there is no settings file" in capsys.readouterr().err


FULL = OSError(28, "No space left on device", "/x/y.png")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StorageError("cannot\nreach it"), 2, "error: cannot reach it\n"),
        (FULL, 2, "error: No space left on device (/x/y.png); make room and run the same {} again\n"),
        (BackboneError("the refiners' processes died"), 1, "error: the refiners' processes died\n"),
        (KeyboardInterrupt(), 130, "stopped; the same {} continues\n"),
    ],
)
def test_a_job_and_a_command_end_alike(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]):
    def work() -> int:
        raise error

    @guarded
    def command() -> None:
        raise error

    assert run_job(work) == code
    assert capsys.readouterr().err == line.format("job")
    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == line.format("command")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(2, "No such file", "/x")])
def test_a_bug_in_a_job_keeps_its_traceback(error: Exception):
    def work() -> int:
        raise error

    with pytest.raises(type(error)):
        run_job(work)


@pytest.mark.parametrize("name", ["cluster.yaml", "configs/cluster/local.yaml", "configs/cluster/rayjob.yaml"])
def test_ray_waits_for_the_checkpoints_of_a_job_that_is_stopped(name: str):
    """Ray's supervisor of a job reads how long in the environment that the head was started with."""
    *_, config = yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8"))
    if "docker" in config:
        given = [option.removeprefix("-e ").split("=") for option in config["docker"]["run_options"] if "=" in option]
    else:
        (head,) = config["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        given = [(variable["name"], variable["value"]) for variable in head["env"]]
    # Behind the trainers, summaries and the W&B run are closed.
    assert int(dict(given)["RAY_JOB_STOP_WAIT_TIME_S"]) >= 1.5 * _STOP_SECONDS


def test_a_job_that_is_stopped_while_ray_starts_says_so_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    import ray

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as the real one does first of all
        os.kill(os.getpid(), signal.SIGTERM)

    def work() -> int:
        with ray_session(1):
            return 0

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert run_job(work) == 130
    assert capsys.readouterr().err == "stopped; the same job continues\n"
    assert list(tmp_path.iterdir()) == []
