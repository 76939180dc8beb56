"""The core's own injection, with plain functions that call the OpenAI SDK, passes the kit for framework plugins."""

import asyncio
import json

import openai

from agl import context
from agl.testing import FrameworkConformance


def messages_of(text):
    return [{"role": "user", "content": text}]


class TestFunctionThatCallsTheSDK(FrameworkConformance):
    """A plain async function with two helpers at the same time, a stream, a tool, and a client of its own."""

    plugin = "agl.builtin.openai_sdk"
    frameworks = ("openai",)
    entry_point = "openai_sdk"
    roles = ("lead/left", "lead/right", "lead", "lead")
    calls_tools = ("add", {"a": 1, "b": 2})
    streams = True
    retries = True
    patched_objects = ("openai:OpenAI", "openai:AsyncOpenAI")

    def make_agent(self, llm):
        none_kept = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)  # nobody closes the client
        http = openai.DefaultAsyncHttpxClient(limits=none_kept)
        client = openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, http_client=http)
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]

        async def helper(name, text):
            with context.role(name):
                answer = await client.chat.completions.create(model=llm.model, messages=messages_of(text))
                return answer.choices[0].message.content

        async def lead(text):
            with context.role("lead"):
                told = await asyncio.gather(helper("left", text), helper("right", text))
                said = messages_of(f"{text}: {told}")
                answer = await client.chat.completions.create(model=llm.model, messages=said, tools=tools)
                (call,) = answer.choices[0].message.tool_calls
                said.append(answer.choices[0].message.to_dict())
                said.append({"role": "tool", "tool_call_id": call.id, "content": str(sum(json.loads(call.function.arguments).values()))})
                chunks = await client.chat.completions.create(model=llm.model, messages=said, tools=tools, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

        return lead


class TestBlockingFunction(FrameworkConformance):
    """A plain function that blocks: AGL runs it in a thread."""

    plugin = "agl.builtin.openai_sdk"
    frameworks = ("openai",)
    roles = ("solver",)
    retries = True
    expected_failures = {"test_a_stopped_rollout_stops_its_work": "a thread cannot be stopped: it is abandoned, and its answer is dropped"}

    def make_agent(self, llm):
        client = openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key)

        def solve(text):
            with context.role("solver"):
                return client.chat.completions.create(model=llm.model, messages=messages_of(text)).choices[0].message.content

        return solve

    def run_sync(self, agent, given):
        return agent(given)
