"""Responses, Messages and text completions through the gateway, by the SDKs as they are: each call is recorded as a chat."""

import contextlib
import json

import anthropic
import openai
import pytest

from agl.spans import SpanStatus
from agl.testing.scripted import Reply, ScriptedServer
from agl.testing.toy_tokens import END, logprob_of, prompt_ids
from agl.transitions import call_of, transitions_of

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
