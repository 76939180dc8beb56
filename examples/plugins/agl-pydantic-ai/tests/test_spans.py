"""What is recorded of a run."""

import asyncio

import agl
import pytest
from agl.testing import Reply, ScriptedServer
from pydantic_ai import Agent, ModelRetry

from team import make_trainer


def one(server, folder, function):
    (result,) = make_trainer(server, folder).dev(agl.rollout(function), [{}])
    return result


def tools_of(result):
    return [(span.name, span.status, span.error or "") for span in result.spans if span.kind == "tool"]


def asking_once(name, arguments):
    """A model that calls a tool, and is content with whatever it hears."""
    return lambda body: "done" if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=[(name, arguments)])


@pytest.mark.parametrize("arguments", [{"n": "many"}, {"n": 0}])
def test_a_tool_that_refuses_a_call_is_recorded_as_failed(tmp_path, arguments):
    agent = Agent("test", name="solo")

    @agent.tool_plain
    def count(n: int) -> int:
        if not n:
            raise ModelRetry("more than none")
        return n

    async def solo(task):
        return float((await agent.run("count")).output == "done")

    with ScriptedServer(asking_once("count", arguments)) as server:
        result = one(server, tmp_path, solo)
    assert result.reward == 1.0
    ((name, status, error),) = tools_of(result)
    assert (name, status) == ("count", "error")
    assert "Retry" in error or "ValidationError" in error


def test_an_exception_in_a_tool_fails_the_rollout_and_closes_every_span(tmp_path):
    agent = Agent("test", name="solo")

    @agent.tool_plain
    async def explode() -> str:
        raise OSError("no disk")

    async def solo(task):
        await agent.run("go")

    with ScriptedServer(asking_once("explode", {})) as server:
        result = one(server, tmp_path, solo)
    assert result.failure == "agent"
    assert [(span.kind, span.name) for span in result.spans if span.error == "OSError: no disk"] == [
        ("agent", "solo"),  # the function
        ("agent", "solo"),
        ("tool", "explode"),
    ]


def test_runs_side_by_side_keep_their_roles_their_spans_and_their_rewards(server, tmp_path):
    agents = [Agent("test", name=f"writer{number}") for number in range(6)]

    async def write(agent, number):
        await asyncio.sleep(0.01 * (6 - number))
        await agent.run(f"topic {number}")
        agl.emit_reward(number, name="own")

    async def many(task):
        with agl.role("team"):
            await asyncio.gather(*(write(agent, number) for number, agent in enumerate(agents)))
        return 1.0

    result = one(server, tmp_path, many)
    assert sorted(step.role for step in result.transitions) == [f"team/writer{number}" for number in range(6)]
    role_of = {step.span_id: step.role for step in result.transitions}
    assert {role_of[reward.span_id]: reward.value for reward in result.rewards if reward.name == "own"} == {
        f"team/writer{number}": number for number in range(6)
    }


def test_an_agent_without_a_name_stays_without_one(server, tmp_path):
    nameless = Agent("test")
    spec = agl.agent(nameless, input=lambda task: "a dog", reward=lambda task, output: 1.0)
    (result,) = make_trainer(server, tmp_path).dev(spec, [{}])
    assert [step.role for step in result.transitions] == ["agent"]
    assert nameless.name is None


def test_what_json_cannot_hold_or_is_long_is_recorded_all_the_same(tmp_path):
    agent = Agent("test", name="solo")

    @agent.tool_plain
    def make() -> object:
        return {"text": "x" * 20_000}

    async def solo(task):
        return float(len((await agent.run("go")).output))

    with ScriptedServer(asking_once("make", {})) as server:
        result = one(server, tmp_path, solo)
    (span,) = [span for span in result.spans if span.kind == "tool"]
    assert span.attributes["gen_ai.tool.call.result"].endswith("x…")
    assert len(span.attributes["gen_ai.tool.call.result"]) < 10_000
