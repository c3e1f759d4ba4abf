import json

import pytest

from zero1toa.config import load, to_dict
from zero1toa.errors import ConfigError
from zero1toa.symgen.identity import config_of, describe_changes, shaping_values


def test_values_survive_json_and_leave_out_what_shapes_nothing():
    values = shaping_values(to_dict(load(["diffusion.options.betas=scaled_linear"])))
    assert json.loads(json.dumps(values)) == values
    assert values["diffusion.options.betas"] == "scaled_linear"
    assert values["loop.iterations"] == load().loop.iterations
    assert not {"device", "loop.preview_every"} & set(values)
    assert not {key.split(".")[0] for key in values} & {"tracking", "distributed", "batch"}


def test_changes_are_named_in_order_and_counted():
    before = {"a": 1, "b": [1, 2], "c": "x", "d": None, "e": 2.0}
    assert describe_changes(before, dict(reversed(before.items()))) == ""
    assert describe_changes(before, {**before, "b": [1, 3]}) == "b was [1, 2] and is [1, 3]"
    changed = {"a": 2, "b": [], "c": "y", "d": 1, "e": 2.0, "f": 3}
    assert describe_changes(before, changed) == "a was 1 and is 2, b was [1, 2] and is [], c was x and is y and 2 more"


def test_values_give_the_configuration_back():
    for preset in ("preview", "paper"):
        config = load([f"preset={preset}", "device=cpu", "seed=3", "diffusion.options.betas=scaled_linear"])
        kept = json.loads(json.dumps(shaping_values(to_dict(config))))
        again = config_of(kept)
        assert shaping_values(to_dict(again)) == kept
        for section in ("portrait", "avatar", "render", "curriculum", "diffusion", "head", "seed"):
            assert getattr(again, section) == getattr(config, section)
        assert again.device == "auto"  # shapes nothing, so it is not kept


@pytest.mark.parametrize("values", [{"curriculum.clouds": 3}, {"curriculum.frames": "many"}])
def test_values_of_another_version_are_refused(values):
    with pytest.raises(ConfigError, match="another version"):
        config_of(values)
