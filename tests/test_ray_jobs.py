"""The arguments of a Ray job."""

from pathlib import Path

import pytest

from ray_jobs.generate import Arguments, main, parse
from zero1toa.errors import ConfigError


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
