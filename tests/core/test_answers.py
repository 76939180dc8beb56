"""An engine's answer is read whole, or without what only the gateway asked for."""

import json

import pytest

from agl.gateway.answers import Logprobs, answer_in, object_in

CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "hi"},
    "logprobs": {"content": [{"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}], "refusal": None},
    "finish_reason": "stop",
    "token_ids": [7],
}
ANSWER = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": None, "prompt_token_ids": [1]}


def raw(**changed):
    return json.dumps(ANSWER | changed).encode()


def test_the_usual_answer_keeps_all_but_the_texts_of_its_log_probabilities():
    told = answer_in(raw())
    logprobs = told["choices"][0].pop("logprobs")
    assert isinstance(logprobs, Logprobs)
    assert logprobs.values() == [-0.5]
    assert told == ANSWER | {"choices": [{name: value for name, value in CHOICE.items() if name != "logprobs"}]}


@pytest.mark.parametrize(
    "changed",
    [
        {"service": "own"},
        {"choices": [CHOICE | {"routed_experts": [1]}]},
        {"choices": [CHOICE | {"logprobs": {"content": [{"token": "hi", "logprob": None}]}}]},
        {"choices": [CHOICE | {"logprobs": {"content": None}}]},
        {"choices": None},
        {"choices": [3]},
        {"choices": [{"text": "no message"}]},
    ],
)
def test_an_answer_of_another_form_is_read_as_it_is(changed):
    assert answer_in(raw(**changed)) == ANSWER | changed


def test_a_choice_without_log_probabilities_gets_none():
    assert answer_in(raw(choices=[{"message": {}}]))["choices"] == [{"message": {}}]
    assert answer_in(raw(choices=[{"message": {}, "logprobs": None}]))["choices"] == [{"message": {}, "logprobs": None}]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"3", b"[" * 5000])
def test_what_is_no_object_is_none(body):
    assert answer_in(body) is None
    assert object_in(body) is None
