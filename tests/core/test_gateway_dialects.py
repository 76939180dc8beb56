"""Responses, Messages and text completions through the gateway, by the SDKs as they are: each call is recorded as a chat."""

import asyncio
import contextlib
import json
import time

import aiohttp
import anthropic
import openai
import pytest

from agl.gateway.memory import Memory
from agl.gateway.routes import DIALECTS
from agl.spans import SpanStatus
from agl.testing.dialects import Event
from agl.testing.dialects import chat as scripted_chat
from agl.testing.scripted import Reply, ScriptedServer
from agl.testing.toy_tokens import END, logprob_of, prompt_ids
from agl.transitions import call_of, transitions_of

USER = [{"role": "user", "content": "hi"}]
KEY = "sk-upstream-secret-key"
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
CHAT_TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}]
TOOLS = {
    "chat": CHAT_TOOLS,
    "responses": [{"type": "function", "name": "add", "description": "adds", "parameters": PARAMETERS}],
    "messages": [{"name": "add", "description": "adds", "input_schema": PARAMETERS}],
}
REPLIES = {
    "text": Reply("the answer is 42"),
    "a tool call": Reply(tool_calls=[("add", {"a": 1})]),
    "text and tool calls": Reply("let me add", tool_calls=[("add", {"a": 1}), ("add", {})]),
    "nothing": Reply(""),
}


@pytest.fixture
async def desk(open_desk):
    async with ScriptedServer("the answer is 42") as server:
        yield await open_desk(server)


each_dialect = pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])


@contextlib.asynccontextmanager
async def anthropic_client(desk, **options):
    given = {"base_url": desk.llm.base_url.removesuffix("/v1"), "api_key": desk.llm.api_key, "max_retries": 0, **options}
    async with anthropic.AsyncAnthropic(**given) as client:
        yield client


async def ask(desk, dialect, *, stream=False, **more):
    """One question in a dialect; returns the text and the tool calls that its SDK makes of the answer."""
    if dialect == "messages":
        async with anthropic_client(desk) as client:
            given = {"model": "users-model", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], **more}
            if stream:
                async with client.messages.stream(**given) as events:
                    message = await events.get_final_message()
            else:
                message = await client.messages.create(**given)
        text = "".join(block.text for block in message.content if block.type == "text")
        return text, [(block.name, block.input) for block in message.content if block.type == "tool_use"], message
    async with desk.client() as client:
        if dialect == "responses":
            given = {"model": "users-model", "max_output_tokens": 1000, "input": "hi", **more}
            if stream:
                async with client.responses.stream(**given) as events:
                    response = await events.get_final_response()
            else:
                response = await client.responses.create(**given)
            calls = [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]
            return response.output_text, calls, response
        given = {"model": "users-model", "max_completion_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], **more}
        if stream:
            async with client.chat.completions.stream(**given) as events:
                answer = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(**given)
        message = answer.choices[0].message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
        return message.content or "", calls, answer


def comparable(call):
    """A recorded call without what counts requests."""
    told = json.loads(json.dumps(call.response).replace("call_2_", "call_1_"))
    sent = {name: value for name, value in call.request.items() if name not in ("stream", "stream_options")}
    return sent, {name: value for name, value in told.items() if name not in ("id", "created")}, call.choices, call.prompt_ids, call.version


@each_dialect
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", REPLIES)
async def test_every_dialect_is_answered_and_recorded_as_a_chat(open_desk, dialect, stream, what):
    reply = REPLIES[what]
    async with ScriptedServer(lambda body: reply, weight_version="7") as server:
        desk = await open_desk(server)
        text, calls, _ = await ask(desk, dialect, stream=stream, tools=TOOLS[dialect])
        sent = server.requests[0]
    assert (text, calls) == (reply.content or "", list(reply.tool_calls))
    assert sent.path == "/v1/chat/completions"
    assert sent.body["messages"] == [{"role": "user", "content": "hi"}]
    assert (sent.body["tools"], sent.body["max_completion_tokens"], sent.body["model"]) == (CHAT_TOOLS, 1000, "policy")
    (span,) = await desk.spans()
    call = call_of(span)
    ids = [*reply.text().encode(), END]
    assert (call.prompt_ids, call.choices[0].response_ids) == (prompt_ids(sent.body), ids)
    assert call.choices[0].logprobs == [logprob_of(token) for token in ids]
    assert (call.version, call.dialect, call.streamed, call.request) == ("7", dialect, stream, sent.body)
    assert (call.original is None) == (dialect == "chat")
    assert transitions_of([span])[0].trainable


@each_dialect
@pytest.mark.parametrize("what", REPLIES)
async def test_a_streamed_call_leaves_the_record_of_an_unstreamed_one(open_desk, dialect, what):
    async with ScriptedServer(lambda body: REPLIES[what], weight_version="7") as server:
        plain, streamed = await open_desk(server), await open_desk(server)
        _, _, whole = await ask(plain, dialect, tools=TOOLS[dialect])
        _, _, grown = await ask(streamed, dialect, stream=True, tools=TOOLS[dialect])
    (first,), (second,) = await plain.spans(), await streamed.spans()
    assert comparable(call_of(first)) == comparable(call_of(second))
    assert told(whole, first.span_id) == told(grown, second.span_id)


def told(answer, span_id):
    """What a client sees, without what counts requests."""
    text = json.dumps(answer.to_dict()).replace(span_id, "SPAN").replace("call_2_", "call_1_")
    hidden = ("created_at", "created", "completed_at", "id", "usage", "system_fingerprint")
    seen = {name: value for name, value in json.loads(text).items() if name not in hidden}
    return json.loads(json.dumps(seen, sort_keys=True), object_hook=lambda fields: {k: v for k, v in fields.items() if filled(k, v)})


def filled(name, value):
    # An SDK adds fields of its own to what it puts together from a stream, and leaves out what is empty.
    return (
        value not in (None, [], "") and not name.startswith("parsed") and name not in ("index", "token_ids", "prompt_token_ids", "logprobs")
    )


async def test_a_refusal_is_told_in_the_clients_dialect(open_desk):
    async with ScriptedServer(lambda body: Reply("too long", status=400)) as server:
        for dialect, kind in (
            ("chat", openai.BadRequestError),
            ("responses", openai.BadRequestError),
            ("messages", anthropic.BadRequestError),
        ):
            desk = await open_desk(server)
            with pytest.raises(kind, match="too long") as caught:
                await ask(desk, dialect)
            (span,) = await desk.spans()
            assert (span.status, call_of(span).http_status, desk.attempt.infrastructure_error) == (SpanStatus.ERROR, 400, None)
    assert caught.value.body == {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}, "request_id": None}


@pytest.mark.parametrize("stream", [False, True])
async def test_text_completions_go_to_their_own_route_and_are_recorded_with_the_engines_tokens(open_desk, stream):
    async with ScriptedServer(["one", "two"], weight_version="7") as server:
        desk = await open_desk(server, sampling_parameters={"max_completion_tokens": 50})
        async with desk.client() as client:
            answer = await client.completions.create(model="m", prompt="count", n=2, stream=stream)
            if stream:
                chunks = [chunk async for chunk in answer]
                assert all(chunk.choices for chunk in chunks), "nobody asked for the token counts"
                texts = ["".join(c.text for chunk in chunks for c in chunk.choices if c.index == index) for index in (0, 1)]
            else:
                texts = [choice.text for choice in answer.choices]
                assert answer.choices[0].to_dict().keys() == {"index", "text", "logprobs", "finish_reason"}
        sent = server.requests[0]
    assert (sent.path, sent.body["prompt"], sent.body["max_tokens"], texts) == ("/v1/completions", "count", 50, ["one", "two"])
    (span,) = await desk.spans()
    call = call_of(span)
    assert (call.dialect, call.request, span.name, call.response["usage"]["completion_tokens"]) == (
        "completions", sent.body, "text_completion policy", 8,
    )  # fmt: skip
    assert [choice["message"]["content"] for choice in call.response["choices"]] == ["one", "two"]
    assert [bytes(item.response_ids[:-1]) for item in transitions_of([span]) if item.trainable] == [b"one", b"two"]
    assert call.prompt_ids == prompt_ids(sent.body)
    assert call.choices[0].logprobs == [logprob_of(token) for token in (*b"one", END)]


async def test_prompts_of_one_text_request_that_differ_are_not_learned_from(desk):
    body = {"id": "c", "choices": [{"index": n, "text": "x", "token_ids": [1], "prompt_token_ids": [n]} for n in (0, 1)]}
    assert DIALECTS["completions"].read({"prompt": ["a", "b"]}, Memory()).recorded(body)["prompt_token_ids"] is None


async def test_token_counts_come_to_those_who_ask_and_are_recorded_for_all(desk):
    plain = await desk.stream()
    asked = await desk.stream(stream_options={"include_usage": True})
    assert all(chunk.choices for chunk in plain)
    assert asked[-1].usage.completion_tokens == len("the answer is 42") + 1
    first, second = await desk.calls()
    assert first.response["usage"] == second.response["usage"]
    assert first.overridden["stream_options"] is None
    assert "stream_options" not in second.overridden


@each_dialect
async def test_pieces_arrive_as_the_endpoint_sends_them(open_desk, dialect):
    async with ScriptedServer(lambda body: Reply("one two three", chunk_delay=0.05)) as server:
        desk = await open_desk(server)
        paths = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}
        bodies = {"chat": {"messages": USER}, "responses": {"input": "hi"}, "messages": {"messages": USER, "max_tokens": 99}}
        body = {"model": "m", "stream": True, **bodies[dialect]}
        seen = []
        async with aiohttp.ClientSession() as session, session.post(desk.llm.base_url + paths[dialect], json=body) as response:
            async for data in response.content.iter_any():
                seen.append((time.monotonic(), data))
    at = {word: next(when for when, data in seen if word in data) for word in (b"one", b" two", b" three")}
    assert at[b"one"] < at[b" two"] < at[b" three"]
    assert at[b" three"] - at[b"one"] > 0.05


@each_dialect
@pytest.mark.parametrize("how", ["breaks", "says an error"])
async def test_a_stream_that_goes_wrong_is_told_in_the_clients_dialect(open_desk, dialect, how, monkeypatch):
    async with ScriptedServer(lambda body: Reply("one two three four", drop_after=3)) as server:
        desk = await open_desk(server)
        if how == "says an error":
            monkeypatch.setattr(scripted_chat.Completions, "events", lambda *_: [Event({"error": {"message": "out of memory"}})])
        with pytest.raises((openai.APIError, anthropic.APIStatusError), match=r"stream broke|out of memory"):
            await ask(desk, dialect, stream=True)
    assert desk.attempt.infrastructure_error
    assert [item.untrained for item in transitions_of(await desk.spans())] == ["the call failed"]


@pytest.mark.parametrize("dialect", ["responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_choice_is_a_failure_of_the_endpoint(open_desk, dialect, stream, monkeypatch):
    monkeypatch.setattr(scripted_chat.Completions, "answer", lambda *_: {"id": "x", "choices": [], "usage": {}})
    async with ScriptedServer() as server:
        desk = await open_desk(server)
        with pytest.raises((openai.APIError, anthropic.APIStatusError), match=r"no choice with a message|ended before its end"):
            await ask(desk, dialect, stream=stream)
    assert desk.attempt.infrastructure_error
    (span,) = await desk.spans()
    assert span.status == SpanStatus.ERROR


BODIES = {
    "chat/completions": {"messages": USER},
    "completions": {"prompt": "hi"},
    "responses": {"input": "hi"},
    "messages": {"messages": USER, "max_tokens": 99},
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_client_that_hangs_up_cancels_the_call_at_the_endpoint(open_desk, path, stream, native):
    async with ScriptedServer(lambda body: Reply("word " * 1000, chunk_delay=0.05, delay=0.0 if stream else 30.0)) as server:
        desk = await open_desk(server, **({"version": None, "dialects": ("responses", "messages")} if native else {}))
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "stream": stream, **BODIES[path]}
            asking = asyncio.ensure_future(session.post(f"{desk.llm.base_url}/{path}", json=body))
            while not (server.requests and (asking.done() or not stream)):
                await asyncio.sleep(0.01)
            if stream:
                asking.result().close()
            asking.cancel()
        async with asyncio.timeout(10):
            while not server.abandoned:
                await asyncio.sleep(0.01)
    (span,) = await desk.spans()
    assert (call_of(span).http_status, span.error, desk.attempt.infrastructure_error) == (499, "the client went away", None)


# Who is let in, and which call is a retry.


@pytest.mark.parametrize("given", ["api_key", "auth_token"])
async def test_a_key_of_another_attempt_is_refused_in_the_clients_dialect(open_desk, given):
    async with ScriptedServer() as server:
        desk, other = await open_desk(server), await open_desk(server)
        async with anthropic_client(desk, **{"api_key": None, given: other.llm.api_key}) as client:
            with pytest.raises(anthropic.AuthenticationError, match="belongs to another attempt"):
                await client.messages.create(model="m", max_tokens=9, messages=USER)
        async with anthropic_client(desk, **{"api_key": None, given: desk.llm.api_key}) as client:
            assert (await client.messages.create(model="m", max_tokens=9, messages=USER)).stop_reason == "end_turn"
        assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {KEY}"]
        assert "x-api-key" not in server.requests[0].headers


async def test_an_ended_attempt_is_not_found_in_the_clients_dialect(desk):
    await desk.gateway.close(desk.attempt.attempt_id)
    async with anthropic_client(desk) as client:
        with pytest.raises(anthropic.NotFoundError, match="no such attempt is running"):
            await client.messages.create(model="m", max_tokens=9, messages=USER)


async def test_a_base_url_with_its_v1_serves_messages_too(desk):
    async with anthropic_client(desk, base_url=desk.llm.base_url) as client:
        assert (await client.messages.create(model="m", max_tokens=99, messages=USER)).content[0].text == "the answer is 42"


async def test_retries_of_an_sdk_are_linked_by_its_idempotency_key_and_never_by_equal_requests(open_desk):
    async with ScriptedServer("ok", fail_first=1) as server:
        desk = await open_desk(server, seeded=True)
        async with anthropic_client(desk, max_retries=1) as client:
            for headers in ({"Idempotency-Key": "one"}, {"Idempotency-Key": "one"}, {}, {}):
                await client.messages.create(model="m", max_tokens=9, messages=USER, extra_headers=headers)
        seeds = [request.body["seed"] for request in server.requests]
    spans = await desk.spans()
    calls = [call_of(span) for span in spans]
    assert [call.retry_of for call in calls] == [None, spans[0].attributes["agl.call_id"], None, None, None]
    assert [span.attributes.get("agl.retry_count") for span in spans] == [None, 1, None, None, None]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 4
    assert [item.untrained for item in transitions_of(spans)] == ["the call failed", None, None, None, None]


async def test_the_role_and_the_parent_come_with_every_dialect(desk):
    trace, parent = desk.attempt.trace_id, "00000000000000aa"
    headers = {"x-agl-role": "team/writer", "traceparent": f"00-{trace}-{parent}-01", "x-agl-call": "00000000000000bb"}
    async with anthropic_client(desk) as client:
        await client.messages.create(model="m", max_tokens=9, messages=USER, extra_headers=headers)
    (span,) = await desk.spans()
    assert (span.role, span.parent_id, span.span_id) == ("team/writer", parent, "00000000000000bb")


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
async def test_the_version_of_anthropics_api_does_not_matter(desk, version):
    headers = {} if version is None else {"anthropic-version": version}
    status, answer, _ = await desk.post("/messages", {"model": "m", "max_tokens": 99, "messages": USER}, headers=headers)
    assert (status, answer["content"][0]["text"]) == (200, "the answer is 42")


async def test_refused_calls_of_one_idempotency_key_each_leave_a_span(desk):
    for _ in range(2):
        status, _, _ = await desk.post("/responses", {"tools": 5, "input": "x"}, headers={"Idempotency-Key": "one"})
        assert status == 400
    spans = await desk.spans()
    assert [call_of(span).http_status for span in spans] == [400, 400]
    assert call_of(spans[1]).retry_of == spans[0].span_id


async def test_what_is_nested_without_end_is_refused(desk):
    body = b'{"messages": ' + b"[" * 150 + b"]" * 150 + b"}"
    for raw in (body, b'{"messages": ' + b"[" * 50_000):
        status, answer, _ = await desk.post(raw=raw)
        assert (status, answer["error"]["code"]) == (400, "invalid_json")
