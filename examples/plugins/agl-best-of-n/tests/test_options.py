import pytest
from agl.errors import ConfigError
from agl.registry import load

from agl_best_of_n.algorithm import BestOfN


def test_the_entry_point_gives_the_algorithm():
    assert load("agl.algorithms", "best_of_n") is BestOfN


def test_the_options_are_the_configuration():
    assert BestOfN("folder", steps=3).config() == {
        "model": "folder",
        "steps": 3,
        "batch_size": 16,
        "group_size": 8,
        "min_reward": None,
        "shuffle_rewards": False,
        "lr": 1e-5,
        "temperature": 1.0,
        "max_tokens": 256,
        "checkpoint_every": 10,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "missing required field `model`"),
        ({"model": "folder", "stepz": 3}, "unknown field `stepz`; it takes .*'steps'"),
        ({"model": "folder", "steps": 0}, ">= 1 - at `\\$.steps`"),
        ({"model": "folder", "group_size": 1}, ">= 2 - at `\\$.group_size`"),
        ({"model": "folder", "lr": 0.0}, "> 0.0 - at `\\$.lr`"),
        ({"model": "folder", "lr": "much"}, "Expected `float`, got `str` - at `\\$.lr`"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(options, said):
    with pytest.raises(ConfigError, match=f"an option of BestOfN is wrong: .*{said}"):
        BestOfN(**options)
