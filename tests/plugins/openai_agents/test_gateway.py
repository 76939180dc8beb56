"""Agents that know nothing of AGL but a URL and a key, through the gateway, by the Responses API that the SDK takes by itself."""

import pytest
from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, RunConfig, Runner, function_tool
from pydantic import BaseModel

from agl.context import ActiveAttempt
from agl.gateway.server import Gateway
from agl.resources import Resources
from agl.rollouts import AttemptStatus, Rollout
from agl.spans import SpanKind
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Task
from agl.testing import Reply, ScriptedServer
from agl.transitions import call_of, transitions_of


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


class Sum(BaseModel):
    value: int


class Outside:
    """One attempt, seen from an agent in another process."""

    def __init__(self, store, gateway, attempt, server, llm):
        self.store, self.gateway, self.attempt, self.server, self.llm = store, gateway, attempt, server, llm

    async def transitions(self):
        await self.gateway.close(self.attempt.attempt_id)
        await self.store.finish(self.attempt.attempt_id, AttemptStatus.SUCCEEDED)
        (result,) = await self.store.results([self.attempt.rollout.rollout_id])
        assert {call_of(span).dialect for span in result.spans if span.kind == SpanKind.LLM} == {"responses"}
        return transitions_of(result.spans)


@pytest.fixture
async def outside(tmp_path):
    store, server = SQLiteStore(tmp_path / "store.sqlite"), ScriptedServer()
    record = RunRecord(run_id="run", created_at=0.0, status="running", step=0, seed=0, config={}, command=[], folder="", directory="")
    await store.create_run(record)
    await store.enqueue([Rollout(rollout_id="ro", run_id="run", task=Task(task_id="t", data={}), group_id="g")])
    (rollout,) = await store.claim("run", "w")
    gateway = Gateway(store)
    await gateway.start()
    async with server:
        llms = {"main_llm": server.llm()}
        attempt = ActiveAttempt(rollout, Resources(version=0, values=llms))
        yield Outside(store, gateway, attempt, server, gateway.open(attempt, llms)["main_llm"])
        await gateway.stop()
    store.close()


async def run(agent, streamed, *args, **options):
    if not streamed:
        return await Runner.run(agent, *args, **options)
    result = Runner.run_streamed(agent, *args, **options)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_and_handoffs_work_and_every_turn_goes_on_from_the_one_before(outside, client, streamed):
    steps = [Reply(tool_calls=[("transfer_to_math", {})]), Reply("adding", tool_calls=[("add", {"a": 1, "b": 2})]), "3"]
    outside.server.answer = steps
    model = OpenAIResponsesModel("users-model", client(outside.llm.base_url))
    math = Agent("math", tools=[add], model=model)
    triage = Agent("triage", handoffs=[math], model=model)
    result = await run(triage, streamed, "1 + 2?", run_config=RunConfig(tracing_disabled=True))
    assert (result.final_output, result.last_agent.name) == ("3", "math")
    items = await outside.transitions()
    assert [item.trainable for item in items] == [True, True, True]
    assert items[2].parent == items[1].span_id


@pytest.mark.parametrize("streamed", [False, True])
async def test_structured_output_and_chained_responses_work(outside, client, streamed):
    outside.server.answer = [Reply(tool_calls=[("add", {"a": 1, "b": 2})]), '{"value": 3}']
    agent = Agent("math", tools=[add], output_type=Sum, model=OpenAIResponsesModel("users-model", client(outside.llm.base_url)))
    given = {"run_config": RunConfig(tracing_disabled=True), "auto_previous_response_id": True}
    assert (await run(agent, streamed, "1 + 2?", **given)).final_output == Sum(value=3)
    first, second = outside.server.requests
    assert first.body["response_format"]["json_schema"]["schema"]["properties"].keys() == {"value"}
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "tool"]
    one, two = await outside.transitions()
    assert two.parent == one.span_id


async def test_a_session_of_conversations_is_kept_for_the_attempt(outside, client):
    outside.server.answer = ["one", "two"]
    users = client(outside.llm.base_url)
    agent, session = Agent("talker", model=OpenAIResponsesModel("users-model", users)), OpenAIConversationsSession(openai_client=users)
    for text in ("first", "second"):
        await run(agent, False, text, session=session, run_config=RunConfig(tracing_disabled=True))
    said = [(message["role"], message["content"]) for message in outside.server.requests[1].body["messages"]]
    assert said == [("user", "first"), ("assistant", "one"), ("user", "second")]
