"""The scripted server speaks the protocol as a real one does."""

import asyncio
import functools
import json
import operator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from agl.testing.scripted import Reply, ScriptedServer
from agl.testing.toy_tokens import END, logprob_of, prompt_ids

USER = [{"role": "user", "content": "hi"}]


def client(server, **options):
    return AsyncOpenAI(base_url=server.base_url(), api_key="k", max_retries=0, **options)


async def ask(server, **body):
    async with client(server) as sdk:
        return await sdk.chat.completions.create(**{"model": "m", "messages": USER, **body})


async def chunks(server, **body):
    async with client(server) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=USER, stream=True, **body)
        return [chunk.to_dict() async for chunk in stream]


async def test_answers_are_given_in_their_order_and_the_last_one_repeats():
    async with ScriptedServer(["one", "two"]) as server:
        assert [(await ask(server)).choices[0].message.content for _ in range(3)] == ["one", "two", "two"]


async def test_a_script_may_be_an_async_function_of_the_body():
    async def script(body):
        return body["messages"][-1]["content"].upper()

    async with ScriptedServer(script) as server:
        assert (await ask(server)).choices[0].message.content == "HI"


async def test_a_thread_serves_code_that_blocks():
    with ScriptedServer("yes") as server, OpenAI(base_url=server.base_url("/r/1/2"), api_key="k") as sdk:
        assert sdk.chat.completions.create(model="m", messages=USER).choices[0].message.content == "yes"
    assert server.requests[0].path == "/r/1/2/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == "Bearer k"


async def test_token_ids_and_logprobs_come_only_when_asked_for():
    async with ScriptedServer("ab", weight_version="7") as server:
        plain = (await ask(server)).to_dict()
        told = (await ask(server, logprobs=True, extra_body={"return_token_ids": True})).to_dict()
    assert "prompt_token_ids" not in plain
    assert plain["choices"][0]["logprobs"] is None
    ids = told["choices"][0]["token_ids"]
    assert ids == [*b"ab", END]
    assert told["prompt_token_ids"] == prompt_ids({"messages": USER})
    assert [entry["logprob"] for entry in told["choices"][0]["logprobs"]["content"]] == [logprob_of(token) for token in ids]
    size = len(told["prompt_token_ids"])
    assert told["usage"] == {"prompt_tokens": size, "completion_tokens": 3, "total_tokens": size + 3}
    assert told["weight_version"] == "7"


@pytest.mark.parametrize(
    "reply",
    [
        Reply("a few words, ünïcode\n and  spaces "),
        Reply(tool_calls=[("add", {"a": 1, "b": 2})]),
        Reply(" x", [("f", {}), ("g", {"q": "é"})]),
        Reply(""),
    ],
    ids=["text", "tool", "both", "empty"],
)
async def test_a_stream_holds_exactly_what_the_plain_answer_holds(reply):
    options = {"logprobs": True, "extra_body": {"return_token_ids": True}}
    async with ScriptedServer(lambda body: reply) as server:
        plain = (await ask(server, **options)).to_dict()
        stream = await chunks(server, stream_options={"include_usage": True}, **options)
    pieces = [chunk["choices"][0] for chunk in stream if chunk["choices"]]
    expected = plain["choices"][0]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces) == (expected["message"]["content"] or "")
    assert functools.reduce(operator.iadd, (piece.get("token_ids", []) for piece in pieces), []) == expected["token_ids"]
    assert [e for p in pieces for e in (p.get("logprobs") or {"content": []})["content"]] == expected["logprobs"]["content"]
    assert stream[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert pieces[-1]["finish_reason"] == expected["finish_reason"]
    assert stream[-1]["usage"] == plain["usage"]
    calls = [call["function"] for piece in pieces for call in piece["delta"].get("tool_calls", [])]
    assert calls == [call["function"] for call in expected["message"].get("tool_calls", [])]


async def test_a_conversation_that_goes_on_keeps_its_earlier_ids():
    async with ScriptedServer([Reply("thinking", [("add", {"b": 2, "a": 1})]), "3"]) as server:
        options = {"extra_body": {"return_token_ids": True}, "tools": [{"type": "function", "function": {"name": "add"}}]}
        first = (await ask(server, **options)).to_dict()
        message = first["choices"][0]["message"]
        rewritten = json.dumps(json.loads(message["tool_calls"][0]["function"]["arguments"]), indent=1)
        message["tool_calls"][0]["function"]["arguments"] = rewritten
        answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "3"}
        second = (await ask(server, messages=[*USER, message, answer], **options)).to_dict()
    before = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert second["prompt_token_ids"][: len(before)] == before


async def test_an_answer_longer_than_allowed_is_cut_and_says_so():
    async with ScriptedServer("abcdef") as server:
        choice = (await ask(server, max_tokens=3, extra_body={"return_token_ids": True})).choices[0].to_dict()
    assert (choice["message"]["content"], choice["finish_reason"], choice["token_ids"]) == ("abc", "length", [*b"abc"])


async def test_several_samples_each_ask_the_script():
    async with ScriptedServer(["a", "b"]) as server:
        assert [choice.message.content for choice in (await ask(server, n=2)).choices] == ["a", "b"]


async def test_the_first_requests_fail_when_told_to():
    async with ScriptedServer("ok", fail_first=1, fail_status=429) as server:
        with pytest.raises(openai.RateLimitError):
            await ask(server)
        assert (await ask(server)).choices[0].message.content == "ok"


async def test_one_reply_may_be_an_error_with_headers():
    async with ScriptedServer([Reply("too long", status=400, headers={"x-why": "length"})]) as server:
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            await ask(server)
    assert caught.value.response.headers["x-why"] == "length"


async def test_a_stream_may_break_in_the_middle():
    async with ScriptedServer([Reply("one two three", drop_after=2)]) as server:
        with pytest.raises(openai.APIConnectionError):
            await chunks(server)


async def test_a_delay_holds_back_one_answer_and_no_other():
    async with ScriptedServer(lambda body: Reply(body["model"], delay=5.0 if body["model"] == "slow" else 0.0)) as server:
        slow = asyncio.create_task(ask(server, model="slow"))
        assert (await asyncio.wait_for(ask(server, model="fast"), 3)).choices[0].message.content == "fast"
        slow.cancel()


async def test_completions_responses_and_embeddings_have_an_answer():
    async with ScriptedServer("text") as server, client(server) as sdk:
        assert (await sdk.completions.create(model="m", prompt="p")).choices[0].text == "text"
        assert (await sdk.responses.create(model="m", input="p")).output_text == "text"
        assert (await sdk.embeddings.create(model="m", input="p", encoding_format="float")).data[0].embedding == [0.0, 1.0]
