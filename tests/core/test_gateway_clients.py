"""Other clients, as they are: LangChain's by either API of OpenAI's, and curl."""

import asyncio
import json
import shutil

import pytest
from langchain_openai import ChatOpenAI

from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import call_of, transitions_of

TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
async def model_of():
    import openai

    http = openai.DefaultAsyncHttpxClient(limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0))
    blocking = openai.DefaultHttpxClient()

    def make(desk, **options):
        given = {"model": "users-model", "base_url": desk.llm.base_url, "api_key": desk.llm.api_key, "max_retries": 0}
        return ChatOpenAI(**given, http_async_client=http, http_client=blocking, **options)

    yield make
    await http.aclose()
    blocking.close()


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_langchain_calls_tools_and_goes_on_by_either_api(open_desk, model_of, responses, stream):
    async with ScriptedServer([Reply("adding", tool_calls=[("add", {"a": 1})]), "3"]) as server:
        desk = await open_desk(server)
        model = model_of(desk, use_responses_api=responses).bind_tools([TOOL])

        async def ask(messages):
            if not stream:
                return await model.ainvoke(messages)
            whole = None
            async for chunk in model.astream(messages):
                whole = chunk if whole is None else whole + chunk
            return whole

        first = await ask([("user", "1 + 2?")])
        (call,) = first.tool_calls
        assert (first.text, call["name"], call["args"]) == ("adding", "add", {"a": 1})
        again = [("user", "1 + 2?"), first, {"role": "tool", "tool_call_id": call["id"], "content": "3"}]
        assert (await ask(again)).text == "3"
    spans = await desk.spans()
    assert {call_of(span).dialect for span in spans} == {"responses" if responses else "chat"}
    one, two = transitions_of(spans)
    assert (one.trainable, two.parent) == (True, one.span_id)


async def curl(url, body, *options):
    command = ["curl", "--silent", "--no-buffer", url, "--header", "content-type: application/json", "--data", json.dumps(body), *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_needs_the_url_alone(open_desk):
    async with ScriptedServer("the answer is 42") as server:
        desk = await open_desk(server)
        url, user = desk.llm.base_url, [{"role": "user", "content": "hi"}]
        message = json.loads(await curl(f"{url}/messages", {"model": "m", "max_tokens": 99, "messages": user}))
        response = json.loads(await curl(f"{url}/responses", {"input": "hi"}, "--header", f"Authorization: Bearer {desk.llm.api_key}"))
        events = await curl(f"{url}/messages", {"model": "m", "max_tokens": 99, "messages": user, "stream": True})
        refused = json.loads(await curl(f"{url}/messages", {"messages": user}))
    assert message["content"][0]["text"] == response["output"][0]["content"][0]["text"] == "the answer is 42"
    names = [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event: ")]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert refused["error"]["type"] == "invalid_request_error"
    assert len(await desk.spans()) == 4
