"""Real agents, and a scripted model that answers them."""

import asyncio
import json

import agl
from agl.testing import Reply
from pydantic_ai import Agent, RunContext


def answer(body):
    """The planner asks its tool once, then repeats what that said; the writer rhymes. Both see the task's own words."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"final: {last['content']}"
    if body.get("tools"):
        return Reply(tool_calls=[("write", {"topic": last["content"]})])
    return f"a rhyme on {last['content']}"


def make_team(model="openai:gpt-5", writers_model="anthropic:claude-sonnet-4-5"):
    """Two agents, the second used in a tool of the first."""
    writer = Agent(writers_model, name="writer", instructions="Rhyme.")
    planner = Agent(model, name="planner", instructions="Plan.", deps_type=dict)

    @planner.tool
    async def write(ctx: RunContext[dict], topic: str) -> str:
        """Let the writer write."""
        text = (await writer.run(topic, usage=ctx.usage)).output
        agl.emit_reward(len(topic) / 10, name="topic")
        return text

    return planner


def make_trainer(server, folder, **options):
    """A trainer whose only model is the scripted one."""
    llm = agl.LLM(endpoint=server.base_url(), model="policy", version="1", sampling_parameters={"temperature": 0.5})
    resources = {"main_llm": llm, **options.pop("resources", {})}
    return agl.Trainer(initial_resources=resources, store=folder / "store.sqlite", quiet=True, **options)


def calls_of(result):
    """What each LLM call of a rollout was answered, by its role, in order."""
    return [(step.role, text(step.response_ids)) for step in result.transitions]


def text(token_ids):
    """What toy tokens say: one id per byte, and a mark at the end of a turn."""
    return bytes(token for token in token_ids if token < 256).decode()


def said(body):
    """System messages and the last message of a request."""
    system = [message["content"] for message in body["messages"] if message["role"] == "system"]
    return system, json.dumps(body["messages"][-1]["content"])


def run_blocking(agent, prompt):
    """`agent.run_sync`, with an event loop of its own: the one that the framework makes for a thread is never closed."""
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        return agent.run_sync(prompt).output
