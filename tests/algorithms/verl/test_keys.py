"""Which keys of VERL's configuration may be set, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agl.errors import ConfigError
from agl_verl.keys import at, check_keys, leaves, merged, nested

FIELDS = {"verl.workers.config.MultiTurnConfig": {"max_user_turns": None, "server": {"timeout": None}}}


def fields(target: str) -> Mapping[str, Any]:
    return FIELDS.get(target, {})


def refuse(given: dict[str, Any], defaults: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_keys(given, defaults, fields)
    return str(caught.value)


def test_the_keys_of_the_article_are_taken(article, defaults) -> None:
    check_keys(article, defaults, fields)


def test_a_key_that_verl_does_not_know_is_refused_with_near_matches(defaults) -> None:
    assert (
        refuse({"data": {"train_batchsize": 4}}, defaults) == "VERL has no key `data.train_batchsize`; near it are `data.train_batch_size`"
    )


def test_a_key_in_the_wrong_section_is_told_the_right_one(defaults) -> None:
    assert "`actor_rollout_ref.actor.ppo_mini_batch_size`" in refuse({"actor": {"ppo_mini_batch_size": 4}}, defaults)


def test_all_wrong_keys_are_named_at_once(defaults) -> None:
    said = refuse({"data": {"nothing_like_it": 1}, "tainer": {"total_epochs": 1}}, defaults)
    assert "`data.nothing_like_it`" in said
    assert "`tainer.total_epochs`; near it are `trainer.total_epochs`" in said


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"data": {"train_files": "x.parquet"}}, r"`fit(agent, train_dataset)`"),
        ({"data": {"custom_cls": {"path": "mine.py"}}}, r"`fit(agent, train_dataset)`"),
        ({"trainer": {"resume_mode": "auto"}}, "`fit(…, resume=True)`"),
        ({"reward": {"custom_reward_function": {"path": "r.py"}}}, "`agl.agent(…, reward=…)`"),
    ],
)
def test_what_agl_decides_is_refused_with_what_to_use(given, instead: str, defaults) -> None:
    assert instead in refuse(given, defaults)


def test_fields_of_a_configuration_class_are_keys_though_no_file_writes_them(defaults) -> None:
    check_keys({"actor_rollout_ref": {"rollout": {"multi_turn": {"max_user_turns": 3, "server": {"timeout": 1}}}}}, defaults, fields)
    said = refuse({"actor_rollout_ref": {"rollout": {"multi_turn": {"max_turns": 3}}}}, defaults)
    assert "multi_turn.max_turns" in said


def test_sections_that_are_handed_on_take_any_key(defaults) -> None:
    model = {"override_config": {"attn_implementation": "sdpa", "rope": {"theta": 1.0}}}
    ray = {"ray_init": {"object_store_memory": 1, "runtime_env": {"env_vars": {"A": "b"}}}}
    check_keys({"actor_rollout_ref": {"model": model}, "ray_kwargs": ray}, defaults, fields)


def test_a_value_where_a_section_is_known_below_it_is_refused(defaults) -> None:
    assert "`data.max_prompt_length.tokens`" in refuse({"data": {"max_prompt_length": {"tokens": 4}}}, defaults)


def test_merging_keeps_what_is_not_given_and_changes_nothing_in_place(defaults) -> None:
    before = at(defaults, "data.train_batch_size")
    found = merged(defaults, {"data": {"train_batch_size": 4}})
    assert (at(found, "data.train_batch_size"), at(found, "data.max_prompt_length")) == (4, 512)
    assert at(defaults, "data.train_batch_size") == before


def test_paths_and_trees_are_the_same_thing() -> None:
    tree = {"a": {"b": 1, "c": {}}, "d": 2}
    assert nested(dict(leaves(tree))) == tree
    assert at(tree, "a.b.c") is None
