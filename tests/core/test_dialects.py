"""The scripted server speaks OpenAI Responses and Anthropic Messages to the real SDKs, whole and streamed."""

import contextlib
import importlib
import json
import time

import anthropic
import openai
import pytest

from agl.testing.scripted import Reply, ScriptedServer

REPLIES = {
    "text": Reply("a few words, ünïcode\n and  spaces "),
    "tool": Reply(tool_calls=[("add", {"a": 1, "b": 2})]),
    "both": Reply("thinking", [("f", {}), ("g", {"q": "é, two words"})]),
    "empty": Reply(""),
}
# Anthropic's SDK lets the error of its HTTP library through, which differs between its versions.
HTTP = next(name for name in ("httpx2", "httpx") if name in anthropic._base_client.__dict__)
BROKEN = (openai.APIError, importlib.import_module(HTTP).HTTPError)
each_reply = pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
each_sdk = pytest.mark.parametrize("sdk", ["chat", "responses", "messages"])


def sdk_openai(server, **options):
    return openai.AsyncOpenAI(base_url=server.base_url(), api_key="k", **{"max_retries": 0, **options})


def sdk_anthropic(server, **options):
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="k", **{"max_retries": 0, **options})


def told(reply):
    return (reply.content or "", list(reply.tool_calls))


def of_response(response):
    calls = [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]
    return response.output_text, calls


def of_message(message):
    text = "".join(block.text for block in message.content if block.type == "text")
    return text, [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def without_place(value):
    """Without what differs between two answers of one server (numbers of the request, times) and what the SDK adds to a parsed one."""
    differs = ("id", "call_id", "created_at", "parsed", "parsed_arguments", "parsed_output")
    if isinstance(value, dict):
        return {name: without_place(item) for name, item in value.items() if name not in differs}
    return [without_place(item) for item in value] if isinstance(value, list) else value


@contextlib.asynccontextmanager
async def asked(server, sdk, **options):
    """The answer to one question in a dialect, by the SDK that speaks it."""
    client = {"max_retries": options.pop("max_retries", 0)}
    user = [{"role": "user", "content": "hi"}]
    async with sdk_anthropic(server, **client) if sdk == "messages" else sdk_openai(server, **client) as made:
        if sdk == "messages":
            yield await made.messages.create(model="m", max_tokens=99, messages=user, **options)
        elif sdk == "responses":
            yield await made.responses.create(model="m", input="hi", **options)
        else:
            yield await made.chat.completions.create(model="m", messages=user, **options)


async def ask(server, sdk, **options):
    async with asked(server, sdk, **options) as answer:
        return answer


async def drain(server, sdk):
    async with asked(server, sdk, stream=True) as stream:
        return [event async for event in stream]


@each_reply
async def test_a_response_holds_the_reply_whole_and_streamed(reply):
    async with ScriptedServer(lambda body: reply) as server, sdk_openai(server) as sdk:
        whole = await sdk.responses.create(model="m", input="hi")
        async with sdk.responses.stream(model="m", input="hi") as stream:
            events = [event async for event in stream]
            streamed = await stream.get_final_response()
    assert of_response(whole) == of_response(streamed) == told(reply)
    assert without_place(whole.to_dict()["output"]) == without_place(streamed.to_dict()["output"])
    assert (whole.status, whole.usage.output_tokens) == ("completed", len(reply.text().encode()) + 1)
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == (reply.content or "")


@each_reply
async def test_a_message_holds_the_reply_whole_and_streamed(reply):
    ask = {"model": "m", "max_tokens": 999, "messages": [{"role": "user", "content": "hi"}]}
    async with ScriptedServer(lambda body: reply) as server, sdk_anthropic(server) as sdk:
        whole = await sdk.messages.create(**ask)
        async with sdk.messages.stream(**ask) as stream:
            texts = [text async for text in stream.text_stream]
            streamed = await stream.get_final_message()
    assert of_message(whole) == of_message(streamed) == told(reply)
    assert without_place(whole.to_dict()) == without_place(streamed.to_dict())
    assert "".join(texts) == (reply.content or "")
    assert whole.stop_reason == ("tool_use" if reply.tool_calls else "end_turn")


async def test_an_answer_longer_than_allowed_says_so_in_the_words_of_its_dialect():
    async with ScriptedServer("abcdef") as server, sdk_openai(server) as sdk, sdk_anthropic(server) as other:
        response = await sdk.responses.create(model="m", input="hi", max_output_tokens=3)
        message = await other.messages.create(model="m", max_tokens=3, messages=[{"role": "user", "content": "hi"}])
        streamed = [event async for event in await sdk.responses.create(model="m", input="hi", max_output_tokens=3, stream=True)]
    assert (response.output_text, response.status, response.incomplete_details.reason) == ("abc", "incomplete", "max_output_tokens")
    assert (message.content[0].text, message.stop_reason, message.usage.output_tokens) == ("abc", "max_tokens", 3)
    assert streamed[-1].type == "response.incomplete"


async def test_a_conversation_with_tools_grows_in_every_dialect():
    calls = [Reply("so", [("add", {"a": 1})]), "3"]
    async with ScriptedServer(calls) as server, sdk_openai(server) as sdk:
        first = await sdk.responses.create(model="m", input="hi", instructions="be brief")
        items = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output)]
        items.append({"type": "function_call_output", "call_id": first.output[1].call_id, "output": "1"})
        second = await sdk.responses.create(model="m", input=items, instructions="be brief")
    assert (second.output_text, second.usage.input_tokens) == ("3", first.usage.total_tokens + len("1") + 3)
    async with ScriptedServer(calls) as server, sdk_anthropic(server) as sdk:
        said = [{"role": "user", "content": "hi"}]
        first = await sdk.messages.create(model="m", max_tokens=99, system="be brief", messages=said)
        said.append({"role": "assistant", "content": [block.to_dict() for block in first.content]})
        said.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": first.content[1].id, "content": "1"}]})
        second = await sdk.messages.create(model="m", max_tokens=99, system="be brief", messages=said)
        counted = await sdk.messages.count_tokens(model="m", system="be brief", messages=said)
    assert second.content[0].text == "3"
    assert counted.input_tokens == second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


@each_sdk
async def test_a_refusal_is_the_error_that_its_sdk_knows(sdk):
    async with ScriptedServer([Reply("too long", status=400)], fail_first=1, fail_status=429) as server:
        with pytest.raises((openai.RateLimitError, anthropic.RateLimitError), match="scripted failure 1"):
            await ask(server, sdk)
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="too long"):
            await ask(server, sdk)


async def test_an_overloaded_endpoint_has_anthropics_name_for_it():
    async with ScriptedServer([Reply("later", status=529)]) as server:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await ask(server, "messages")
    assert caught.value.body == {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}


@each_sdk
async def test_the_sdks_own_retries_come_through(sdk):
    async with ScriptedServer("ok", fail_first=1, fail_status=503) as server:
        await ask(server, sdk, max_retries=1)
    assert [request.headers["x-stainless-retry-count"] for request in server.requests] == ["0", "1"]


@each_sdk
@pytest.mark.parametrize("after", [0, 2])
async def test_a_stream_may_break_anywhere(sdk, after):
    async with ScriptedServer([Reply("one two three four", drop_after=after)]) as server:
        with pytest.raises(BROKEN):
            await drain(server, sdk)


@each_sdk
async def test_a_whole_answer_may_be_dropped_too(sdk):
    async with ScriptedServer([Reply("gone", drop_after=0)]) as server:
        with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
            await ask(server, sdk)


@each_sdk
async def test_answers_and_the_chunks_of_a_stream_may_be_delayed(sdk):
    async with ScriptedServer(["now", Reply("one two", delay=0.1, chunk_delay=0.05)]) as server:
        await ask(server, sdk)
        started = time.monotonic()
        events = await drain(server, sdk)
    assert time.monotonic() - started >= 0.1 + 0.05 * len(events) * 0.9


async def test_text_completions_stream_too():
    async with ScriptedServer("one two") as server, sdk_openai(server) as sdk:
        stream = await sdk.completions.create(model="m", prompt="p", stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    assert "".join(chunk.text for chunk in chunks) == "one two"
    assert chunks[-1].finish_reason == "stop"
