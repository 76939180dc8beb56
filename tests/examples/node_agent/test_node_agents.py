"""The agents in JavaScript, run by Node with the SDKs of npm: `make test-node`."""

import sys
from pathlib import Path

import pytest

import agl
from agl.spans import SpanKind
from agl.testing.scripted import Reply, ScriptedServer
from agl.testing.toy_tokens import END
from agl.transitions import call_of

FOLDER = Path(__file__).parents[3] / "examples" / "node_agent"
TASK = {"question": "What is 6 times 7?", "answer": "42"}


@pytest.fixture(autouse=True)
def _judge(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    sys.modules.pop("judge", None)


def answer(body):
    return "It is 42." if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])


def run(agent, server, **values):
    resources = {"main_llm": server.llm(), "instructions": agl.PromptTemplate(template="Be exact.")}
    [result] = agl.Trainer(initial_resources=resources, timeout=120, **values).dev(agent, [TASK])
    return result


def sampled(result):
    """Token ids of each call, as the gateway recorded them."""
    return [call_of(span).choices[0].response_ids for span in result.spans if span.kind == SpanKind.LLM]


def exact(reply):
    return [*reply.text().encode(), END]


def test_the_agent_with_the_openai_sdk_calls_its_tool_and_is_judged():
    import judge

    with ScriptedServer(answer) as server:
        agent = agl.command("node openai_agent.mjs", cwd=FOLDER, input=judge.question, reward=judge.correct)
        result = run(agent, server)
        bodies = [request.body for request in server.requests]
    assert (result.reward, result.output) == (1.0, "It is 42.\n")
    assert [body["stream"] for body in bodies] == [True, True]
    assert bodies[0]["messages"] == [{"role": "system", "content": "Be exact."}, {"role": "user", "content": TASK["question"]}]
    assert bodies[1]["messages"][-1]["content"] == "42"
    assert sampled(result) == [exact(Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])), exact(Reply("It is 42."))]
    assert all(item.trainable for item in result.transitions)


def test_the_agent_with_the_anthropic_sdk_calls_its_tool_and_judges_itself():
    with ScriptedServer(answer) as server:
        result = run(agl.command("node anthropic_agent.mjs", cwd=FOLDER), server)
    assert {(reward.name, reward.value, reward.source) for reward in result.rewards} == {
        ("used_tool", 1.0, "agent"),
        ("reward", 1.0, "agent"),
    }
    assert result.output == 'It is 42.\n{"reward":1}\n'
    assert sampled(result) == [exact(Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])), exact(Reply("It is 42."))]
    assert all(item.trainable for item in result.transitions)


@pytest.mark.parametrize("program", ["openai_agent.mjs", "anthropic_agent.mjs"])
def test_an_agent_whose_endpoint_fails_is_no_failure_of_the_agent(program):
    with ScriptedServer("no", fail_first=99, fail_status=503) as server:
        result = run(agl.command(["node", program], cwd=FOLDER), server, max_attempts=1)
    assert (result.failure, result.reward) == ("infrastructure", None)
