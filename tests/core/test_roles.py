"""Roles say which calls are learned from, and where they go."""

import pytest

from agl.errors import ConfigError
from agl.roles import Roles


def trained(filter_, *roles):
    return [role for role in roles if filter_.why_not(role) is None]


def test_without_a_filter_every_role_is_trained():
    assert trained(Roles(), None, "a", "a/b") == [None, "a", "a/b"]


def test_agent_match_is_searched_in_the_role():
    match = Roles("^wri|check$")
    assert trained(match, "writer", "team/check", "rewriter", None) == ["writer", "team/check"]
    assert match.why_not("x") == "role `x` does not match `^wri|check$`"


def test_frozen_roles_are_left_out_and_all_others_trained():
    assert trained(Roles(roles={"check": "freeze"}), "writer", "check", "team/check", None) == ["writer", None]


def test_where_a_role_is_named_train_only_named_ones_are():
    assert trained(Roles(roles={"writer": "train"}), "writer", "team/writer", "check", None) == ["writer", "team/writer"]


def test_the_longest_name_wins():
    assert trained(Roles(roles={"team": "freeze", "team/writer": "train"}), "team", "team/writer") == ["team/writer"]


@pytest.mark.parametrize("wrong", ["(", 3])
def test_what_is_no_regular_expression_is_refused(wrong):
    with pytest.raises(ConfigError, match="`agent_match` must be a regular expression"):
        Roles(wrong)


def test_a_name_of_several_parts_matches_where_they_stand_in_a_row():
    roles = Roles(roles={"team/writer": "freeze"})
    assert trained(roles, "app/team/writer/draft", "team/a/writer", "steam/writer", "team/writers") == [
        "team/a/writer",
        "steam/writer",
        "team/writers",
    ]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("train", None),
        ("freeze", "role `critic` is frozen"),
        ("original", "role `critic` is left to its own endpoint"),
        ("judge", "role `critic` goes to the LLM `judge`"),
    ],
)
def test_only_trained_roles_are_learned_from_and_the_others_say_why(what, why):
    assert Roles(roles={"critic": what}).why_not("team/critic") == why


def test_a_role_says_where_its_calls_go():
    roles = Roles(roles={"writer": "train", "critic": "original", "critic/second": "judge"})
    asked = ["writer", "critic", "critic/second", "other", None]
    assert [roles.llm_of(role) for role in asked] == [None, None, "judge", None, None]
    assert [roles.is_original(role) for role in asked] == [False, True, False, False, False]


def test_what_is_neither_a_keyword_nor_a_model_is_refused_with_what_there_is():
    roles = Roles(roles={"a": "train", "b": "original", "c": "judge"})
    roles.check({"judge"})
    with pytest.raises(
        ConfigError, match=r"`roles\['c'\]` must be `train`, `freeze`, `original` or .*there are \['main'\].*given was 'judge'"
    ):
        roles.check({"main"})


@pytest.mark.parametrize("wrong", [None, 3, "", ["train"]])
def test_a_value_that_is_no_name_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"`roles\['a'\]` must be `train`"):
        Roles(roles={"a": wrong})
