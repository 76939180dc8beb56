"""Inputs and outputs become small JSON values."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from agl.values import DEPTH, ITEMS, TEXT, TOTAL, jsonable


@dataclass
class Point:
    x: int
    _hidden: int = 0


class Model(BaseModel):
    name: str


class Opaque:
    def __repr__(self):
        raise AssertionError("a run's value is never rendered by its own code")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(anything)
def test_every_value_becomes_json_of_a_bounded_size(value):
    assert len(json.dumps(jsonable(value), ensure_ascii=False)) < 8 * TOTAL


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4), max_leaves=8))
def test_a_small_value_of_plain_json_stays_as_it_is(value):
    if depth_of(value) <= DEPTH:
        assert jsonable(value) == value


def depth_of(value):
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    ("value", "copied"),
    [
        (HumanMessage("hi"), {"type": "human", "content": "hi"}),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
            {"type": "ai", "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}]},
        ),
        (Point(1), {"x": 1}),
        (Model(name="n"), {"name": "n"}),
        ({1: (2, 3)}, {"1": [2, 3]}),
        (2**70, str(2**70)),
    ],
)
def test_messages_models_and_dataclasses_become_objects(value, copied):
    assert jsonable(value) == copied


def test_an_unknown_object_is_named_and_none_of_its_code_runs():
    assert jsonable([Opaque()])[0].endswith(".Opaque>")


def test_what_is_cut_says_how_long_it_was():
    assert jsonable("x" * (TEXT + 1)).endswith(f"… ({TEXT + 1} characters)")
    assert jsonable(list(range(ITEMS + 7)))[-1] == f"… ({ITEMS + 7} items)"


def test_a_value_that_contains_itself_ends():
    loop = {}
    loop["self"] = loop
    assert json.loads(json.dumps(jsonable(loop))).keys() == {"self"}


def test_a_message_is_not_changed():
    message = AIMessage("x" * 5000)
    jsonable([message])
    assert len(message.content) == 5000


def test_fields_with_a_secrets_name_and_keys_in_texts_are_not_kept():
    value = {
        "api_key": "abc",
        "OPENAI-API-KEY": "abc",
        "access_token": "abc",
        "user.password": ["abc"],
        "headers": {"Authorization": "abc"},
    }
    assert "abc" not in json.dumps(jsonable(value))
    assert jsonable(f"use sk-{'a1' * 12} or Bearer {'b2' * 6}") == "use *** or ***"


def test_names_and_texts_that_only_look_like_secrets_stay():
    value = {"tokens": 3, "max_token": 4, "secretary": "x", "keys": ["k"], "text": "the risk-averse bearer of task-lists", "password": None}
    assert jsonable(value) == value
