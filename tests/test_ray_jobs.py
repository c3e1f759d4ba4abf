"""The arguments of a Ray job."""

from pathlib import Path

import pytest

from ray_jobs.generate import main, parse
from zero1toa.errors import ConfigError


def test_arguments_are_split():
    arguments = ["input=me.jpg", "seed=3", "output=/out", "loop.iterations=5", "face=1", "restart=true"]
    assert parse(arguments) == ("me.jpg", Path("/out"), ["seed=3", "loop.iterations=5"], 1, True)
    assert parse(["output=o", "input=a=b.jpg"]) == ("a=b.jpg", Path("o"), [], None, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["me.jpg", "output=o"], "'me.jpg' is not key=value"),
        (["inptu=me.jpg", "output=o"], "input is missing; is it meant by 'inptu'"),
        (["input=me.jpg"], "output is missing"),
        (["input=a.jpg", "input=b.jpg", "output=o"], "given twice"),
        (["input=photos/*.jpg", "output=o"], "one photo"),
        (["input=me.jpg", "output=o", "face=left"], "not an index"),
        (["input=me.jpg", "output=o", "restart=yes"], "true or false"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        parse(arguments)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_folders_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="one job per photo"):
        parse([f"input={tmp_path}", "output=o"])
