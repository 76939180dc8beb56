"""Endpoints that speak Responses or Messages themselves: requests and answers go on as they are, and each call is recorded as a chat."""

import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import anthropic
import msgspec
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import agl
from agl.errors import ConfigError
from agl.spans import SpanStatus
from agl.testing.dialects import Event, messages, responses
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import NO_IDS, call_of, transitions_of

KEY = "sk-upstream-secret-key"
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}
TOOLS = {
    "responses": [{"type": "function", "name": "add", "description": "adds", "parameters": PARAMETERS}],
    "messages": [{"name": "add", "description": "adds", "input_schema": PARAMETERS}],
}
USER = {"role": "user", "content": "hi"}
BODIES = {
    "responses": {"model": "users-model", "input": "hi", "max_output_tokens": 1000, "metadata": {"a": "b"}},
    "messages": {"model": "users-model", "messages": [USER], "max_tokens": 1000, "thinking": {"type": "disabled"}},
}
REPLIES = {
    "text": Reply("the answer is 42"),
    "a tool call": Reply(tool_calls=[("add", {"a": 1})]),
    "text and tool calls": Reply("let me add", tool_calls=[("add", {"a": 1}), ("add", {})]),
}
each = pytest.mark.parametrize("dialect", ["responses", "messages"])
streamed = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture
def open_native(open_desk):
    async def open_(server, **values):
        return await open_desk(server, **{"version": None, "dialects": ("responses", "messages"), **values})

    return open_


async def post(desk, path, body, headers=(), method="POST"):
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{desk.llm.base_url}/{path}", json=body, headers={"x-api-key": desk.llm.api_key, **dict(headers)}
        ) as answer,
    ):
        return answer.status, await answer.read()


@contextlib.asynccontextmanager
async def endpoint(**handlers):
    """An upstream with handlers by the path after `/v1/`."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_post(f"/v1/{path}", handler)
    async with TestServer(app) as server:
        yield SimpleNamespace(base_url=lambda: str(server.make_url("/v1")))


async def with_sdk(desk, dialect, stream, **more):
    """What the SDK of a dialect makes of an answer: (text, tool calls, its object)."""
    given = {**BODIES[dialect], **more}
    if dialect == "messages":
        options = {"base_url": desk.llm.base_url.removesuffix("/v1"), "api_key": desk.llm.api_key, "max_retries": 0}
        async with anthropic.AsyncAnthropic(**options) as client:
            if stream:
                async with client.messages.stream(**given) as events:
                    told = await events.get_final_message()
            else:
                told = await client.messages.create(**given)
        text = "".join(block.text for block in told.content if block.type == "text")
        return text, [(block.name, block.input) for block in told.content if block.type == "tool_use"], told
    async with desk.client() as client:
        if stream:
            async with client.responses.stream(**given) as events:
                told = await events.get_final_response()
        else:
            told = await client.responses.create(**given)
    return told.output_text, [(item.name, json.loads(item.arguments)) for item in told.output if item.type == "function_call"], told


@each
@streamed
@pytest.mark.parametrize("what", REPLIES)
async def test_a_call_goes_on_in_its_own_dialect_and_is_recorded_as_a_chat(open_native, dialect, stream, what):
    reply = REPLIES[what]
    async with ScriptedServer(lambda body: reply) as server:
        desk = await open_native(server)
        text, calls, _ = await with_sdk(desk, dialect, stream, tools=TOOLS[dialect])
        (sent,) = server.requests
    assert (text, calls) == (reply.content or "", list(reply.tool_calls))
    assert sent.path == f"/v1/{dialect}"
    body = {name: value for name, value in sent.body.items() if name != "stream"}
    assert body == {**BODIES[dialect], "tools": TOOLS[dialect], "model": "policy"}
    (span,) = await desk.spans()
    call = call_of(span)
    assert (call.dialect, call.streamed, call.http_status, span.error) == (dialect, stream, 200, None)
    told = {"messages": [USER], "tools": [FUNCTION], "model": "policy", "max_completion_tokens": 1000}
    assert {name: call.request[name] for name in told} == told
    assert (call.original["model"], call.overridden) == ("users-model", {"model": "users-model"})
    (choice,) = call.response["choices"]
    functions = [one["function"] for one in choice["message"].get("tool_calls", [])]
    assert [(one["name"], json.loads(one["arguments"])) for one in functions] == list(reply.tool_calls)
    assert (choice["message"]["content"] or "", choice["finish_reason"]) == (
        reply.content or "",
        "tool_calls" if reply.tool_calls else "stop",
    )
    assert call.response["usage"]["completion_tokens"] == len(reply.text()) + 1
    assert (call.first_token_seconds is not None) == stream


@each
@streamed
async def test_nothing_of_it_enters_a_policy_loss_and_it_is_said_why(open_native, dialect, stream):
    async with ScriptedServer("42") as server:
        desk = await open_native(server)
        await with_sdk(desk, dialect, stream)
    (call,) = transitions_of(await desk.spans())
    assert (call.untrained, call.trainable) == (NO_IDS, False)


@each
async def test_the_record_of_a_streamed_call_equals_that_of_an_unstreamed_one(open_native, dialect):
    records = []
    for stream in (False, True):
        async with ScriptedServer(lambda body: REPLIES["text and tool calls"]) as server:
            desk = await open_native(server)
            await with_sdk(desk, dialect, stream, tools=TOOLS[dialect])
        (span,) = await desk.spans()
        call = call_of(span)
        record = {**call.request, "stream": None}, {**call.response, "created": None}, call.choices, call.overridden
        records.append(json.loads(msgspec.json.encode(record)))
    assert records[0] == records[1]


@each
async def test_bytes_of_a_stream_are_the_endpoints_own(open_native, dialect):
    answer = b'event: ping\ndata: {"type": "ping"}\n\n: a comment\n\nevent: odd\ndata: {"type": "odd", "x": [1.50]}\n\n'
    scripted = {"responses": responses, "messages": messages}[dialect]
    whole = scripted.answer(1, BODIES[dialect], [Reply("42")], None)
    told = b"".join(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for data, name in scripted.events(BODIES[dialect], whole))

    async def handle(request):
        return web.Response(body=answer + told, content_type="text/event-stream")

    async with endpoint(**{dialect: handle}) as server:
        desk = await open_native(server)
        assert await post(desk, dialect, {**BODIES[dialect], "stream": True}) == (200, answer + told)
    (span,) = await desk.spans()
    assert call_of(span).response["choices"][0]["message"]["content"] == "42"


async def test_an_endpoint_gets_the_headers_that_its_api_has_and_its_own_key(open_native):
    async with ScriptedServer("42") as server:
        desk = await open_native(server)
        given = {"anthropic-beta": "tools-x", "anthropic-version": "2024-01-01", "x-other": "1"}
        await post(desk, "messages?beta=true", BODIES["messages"], given)
        await post(desk, "messages", BODIES["messages"])
        await post(desk, "responses", BODIES["responses"])
        first, second, third = (request.headers for request in server.requests)
    names = ("x-api-key", "authorization", "anthropic-version", "anthropic-beta", "x-other")
    assert [first.get(name) for name in names] == [KEY, None, "2024-01-01", "tools-x", None]
    assert [second.get(name) for name in names] == [KEY, None, "2023-06-01", None, None]
    assert [third.get(name) for name in names] == [None, f"Bearer {KEY}", None, None, None]


@each
async def test_what_the_resource_sets_goes_under_the_apis_own_name(open_native, dialect):
    async with ScriptedServer("42") as server:
        desk = await open_native(server, sampling_parameters={"max_tokens": 7, "temperature": 0.5})
        await post(desk, dialect, {**BODIES[dialect], "temperature": 1.0})
        (sent,) = server.requests
    limit = {"responses": "max_output_tokens", "messages": "max_tokens"}[dialect]
    assert (sent.body[limit], sent.body["temperature"]) == (7, 0.5)
    assert "max_completion_tokens" not in sent.body
    (span,) = await desk.spans()
    call = call_of(span)
    assert call.overridden == {"model": "users-model", "max_completion_tokens": 1000, "temperature": 1.0}
    assert (call.request["max_completion_tokens"], call.request["temperature"]) == (7, 0.5)


@pytest.mark.parametrize(
    ("dialect", "change"),
    [
        ("responses", {"tools": [{"type": "web_search"}]}),
        ("responses", {"truncation": "auto"}),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": "The answer is"}]}),
    ],
)
async def test_what_chat_completions_have_no_form_for_goes_on_and_its_record_has_no_messages(open_native, dialect, change):
    async with ScriptedServer("42") as server:
        desk = await open_native(server)
        status, _ = await post(desk, dialect, {**BODIES[dialect], **change})
        assert (status, {name: server.requests[0].body[name] for name in change}) == (200, change)
    (span,) = await desk.spans()
    call = call_of(span)
    assert "messages" not in call.request
    assert call.request["max_completion_tokens"] == 1000
    assert {name: call.original[name] for name in change} == change
    assert call.response["choices"][0]["message"]["content"] == "42"


@streamed
async def test_a_response_goes_on_from_another_of_the_attempt_alone(open_native, stream):
    async with ScriptedServer("42") as server:
        desk, other = await open_native(server), await open_native(server)
        _, _, first = await with_sdk(desk, "responses", stream)
        await with_sdk(desk, "responses", stream, previous_response_id=first.id, input="more")
        assert server.requests[1].body["previous_response_id"] == first.id
        async with desk.client() as client:
            assert (await client.responses.retrieve(first.id)).output_text == "42"
        with pytest.raises(openai.BadRequestError, match="this attempt has no response"):
            await with_sdk(other, "responses", stream, previous_response_id=first.id)
    spans = sorted(await desk.spans(), key=lambda span: span.started_at)
    assert call_of(spans[1]).request["messages"] == [USER, {"role": "assistant", "content": "42"}, {"role": "user", "content": "more"}]


async def test_what_goes_on_from_an_answer_without_a_form_has_no_messages_either(open_native):
    async with ScriptedServer("42") as server:
        desk = await open_native(server)
        _, _, first = await with_sdk(desk, "responses", False, tools=[{"type": "web_search"}])
        await with_sdk(desk, "responses", False, previous_response_id=first.id, input="more")
    assert ["messages" in call_of(span).request for span in await desk.spans()] == [False, False]


@pytest.mark.parametrize("field", ["conversation", "background"])
async def test_what_would_leave_the_attempt_is_refused_by_name(open_native, field):
    async with ScriptedServer("42") as server:
        desk = await open_native(server)
        status, told = await post(desk, "responses", {**BODIES["responses"], field: "conv_1"})
        assert (status, server.requests) == (400, [])
    assert f"`{field}`" in json.loads(told)["error"]["message"]
    (span,) = await desk.spans()
    assert span.status == SpanStatus.ERROR
    assert desk.attempt.infrastructure_error is not None


@each
async def test_a_refusal_keeps_its_status_and_its_words(open_native, dialect):
    async with ScriptedServer(lambda body: Reply(f"too long for {KEY}", status=400)) as server:
        desk = await open_native(server)
        status, told = await post(desk, dialect, BODIES[dialect])
    assert (status, json.loads(told)["error"]["message"]) == (400, "too long for ***")
    (span,) = await desk.spans()
    assert (call_of(span).http_status, desk.attempt.infrastructure_error) == (400, None)


BROKEN = {
    "responses": Event(
        {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error", "message": "no more"}}}
    ),
    "messages": Event({"type": "error", "error": {"type": "overloaded_error", "message": "no more"}}),
}


@each
async def test_an_error_that_the_endpoint_tells_in_a_stream_is_passed_on_once_and_recorded(open_native, dialect):
    told = b"data: " + json.dumps(BROKEN[dialect].data).encode() + b"\n\n"

    async def handle(request):
        return web.Response(body=told, content_type="text/event-stream")

    async with endpoint(**{dialect: handle}) as server:
        desk = await open_native(server)
        assert await post(desk, dialect, {**BODIES[dialect], "stream": True}) == (200, told)
    (span,) = await desk.spans()
    assert (span.error, desk.attempt.infrastructure_error) == ("no more", "no more")


@each
async def test_a_stream_that_breaks_is_told_in_its_dialect(open_native, dialect):
    async with ScriptedServer(lambda body: Reply("one two three", drop_after=4)) as server:
        desk = await open_native(server)
        with pytest.raises((openai.APIError, anthropic.APIStatusError), match="stream"):
            await with_sdk(desk, dialect, True)
    (span,) = await desk.spans()
    assert span.error == desk.attempt.infrastructure_error
    assert call_of(span).response is None


@pytest.mark.parametrize(
    ("dialect", "answer", "events"),
    [
        ("responses", {"status": "failed", "error": {"message": "no more"}}, "failed"),
        ("responses", {"id": "resp_1", "status": "completed", "output": [1]}, "completed"),
        ("responses", {"id": "resp_1", "status": "completed", "output": [{"type": "message", "content": "42"}]}, "completed"),
        ("messages", {"type": "message"}, None),
        ("messages", {"content": [1]}, None),
        ("messages", {"content": [], "usage": {"input_tokens": "many"}}, None),
    ],
)
@streamed
async def test_an_answer_of_another_form_is_a_failure_of_the_endpoint(open_native, dialect, answer, events, stream):
    told = [{"type": f"response.{events}", "response": answer}]
    if events is None:
        told = [{"type": "message_start", "message": answer}, {"type": "content_block_start", "content_block": 1}, {"type": "message_stop"}]

    async def handle(request):
        if not stream:
            return web.json_response(answer)
        return web.Response(body=b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in told), content_type="text/event-stream")

    async with endpoint(**{dialect: handle}) as server:
        desk = await open_native(server)
        status, raw = await post(desk, dialect, {**BODIES[dialect], "stream": stream})
    assert (status, b"error" in raw) == (200 if stream else 502, True)
    (span,) = await desk.spans()
    assert span.error == desk.attempt.infrastructure_error is not None


async def test_thinking_and_citations_come_whole_out_of_a_stream(open_native):
    usage = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 10}
    blocks = [
        ({"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "let me see"}),
        ({"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "42"}),
    ]
    more = [{"type": "signature_delta", "signature": "abc"}, {"type": "citations_delta", "citation": {"url": "x"}}]
    events = [{"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "model": "c", "content": [], "usage": usage}}]
    for index, (block, delta) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": one} for one in (delta, more[index])]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": "max_tokens", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ended, "usage": {"output_tokens": 9}}, {"type": "message_stop"}]

    async def handle(request):
        return web.Response(
            body=b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events), content_type="text/event-stream"
        )

    async with endpoint(messages=handle) as server:
        desk = await open_native(server)
        assert (await post(desk, "messages", {**BODIES["messages"], "stream": True}))[0] == 200
    (span,) = await desk.spans()
    (choice,) = call_of(span).response["choices"]
    assert choice["message"] == {"role": "assistant", "content": "42", "reasoning_content": "let me see"}
    assert (choice["finish_reason"], call_of(span).response["usage"]["total_tokens"]) == ("length", 22)


async def test_tokens_are_counted_and_models_are_told_by_the_endpoint_itself(open_native):
    seen = []

    async def handle(request):
        seen.append((request.path, request.headers.get("x-api-key") or request.headers["Authorization"], (await request.json())["model"]))
        return web.json_response({"input_tokens": 12})

    async with endpoint(**{"messages/count_tokens": handle, "responses/input_tokens": handle}) as server:
        desk = await open_native(server)
        for path, body in (("messages/count_tokens", BODIES["messages"]), ("responses/input_tokens", BODIES["responses"])):
            assert await post(desk, path, body) == (200, b'{"input_tokens": 12}')
    assert seen == [("/v1/messages/count_tokens", KEY, "policy"), ("/v1/responses/input_tokens", f"Bearer {KEY}", "policy")]


async def test_the_other_dialects_of_the_model_stay_chat_completions(open_native):
    async with ScriptedServer("42") as server:
        desk = await open_native(server, dialects=("messages",))
        await with_sdk(desk, "responses", False)
        await desk.ask()
        assert {request.path for request in server.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dialects": ("chat",)}, r"\['responses', 'messages'\] that its endpoint speaks itself; given was 'chat'"),
        ({"dialects": ("messages",), "version": "1"}, "is for a model that nobody trains"),
        ({"dialects": ("messages",), "seeded": True}, "is for a model that nobody trains"),
    ],
)
def test_dialects_that_cannot_work_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        agl.LLM(endpoint="http://127.0.0.1:1/v1", model="m", **values)


def test_the_page_names_such_an_endpoint():
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["claude"].dialects == ("messages",)
