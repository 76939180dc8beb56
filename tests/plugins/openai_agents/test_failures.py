"""How runs fail: what is the agent's, what the endpoint's, and what becomes of work that is stopped."""

import asyncio
import time

import openai
import pytest
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelRetrySettings,
    ModelSettings,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    retry_policies,
)

import agl
from agl.rollouts import Failure
from agl.spans import SpanStatus
from agl.testing import Reply
from agl_openai_agents import plugin


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@function_tool
def boom(a: int) -> int:
    """Breaks."""
    raise RuntimeError("on purpose")


def offered(body):
    return [tool["function"]["name"] for tool in body.get("tools") or ()]


def trainer(server):
    llm = agl.LLM(endpoint=server.base_url(), model="trained", version="1")
    return agl.Trainer(initial_resources={"main_llm": llm}, plugins=[plugin], n_runners=4)


def dev(server, agent, **given):
    """One rollout, as a user tries an agent."""
    return trainer(server).dev(agl.agent(agent, reward=lambda task, output: 1.0), [{"input": "the task"}], **given)[0]


def test_an_agent_that_never_ends_its_turns_has_failed_itself(attempts, script):
    script["answer"] = lambda body: Reply(None, [("add", {"a": 1, "b": 2})])
    result = dev(attempts.server, Agent("solver", tools=[add]))
    assert result.failure == Failure.AGENT
    assert "MaxTurnsExceeded: Max turns (10) exceeded" in result.rollout.attempt.error
    assert len([span for span in result.spans if span.kind == "llm"]) == 10


async def test_a_model_that_calls_a_tool_that_is_not_there_has_failed_itself(attempts, script):
    script["answer"] = lambda body: Reply(None, [("nothing", {})])
    with attempts.inside() as attempt, pytest.raises(ModelBehaviorError):
        await Runner.run(Agent("solver", tools=[add]), "the task")
    assert attempt.infrastructure_error is None


async def test_a_tool_that_breaks_is_a_failed_span_and_the_run_goes_on(attempts, script, spans):
    script["answer"] = lambda body: "ok" if body["messages"][-1]["role"] == "tool" else Reply(None, [("boom", {"a": 1})])
    result, attempt = await attempts.run(Agent("solver", tools=[boom]))
    (tool,) = [span for span in spans(attempt) if span.name == "boom"]
    assert (result.final_output, tool.status) == ("ok", SpanStatus.ERROR)
    assert tool.error.startswith("Error running tool")
    assert tool.attributes["gen_ai.tool.call.result"].startswith("An error occurred while running the tool")


async def test_a_run_that_fails_is_a_failed_span(attempts, spans):
    with attempts.inside() as attempt, pytest.raises(MaxTurnsExceeded):
        await Runner.run(Agent("solver"), "the task", max_turns=0)
    (run,) = [span for span in spans(attempt) if span.name == "Agent workflow"]
    assert (run.status, run.error) == (SpanStatus.ERROR, "MaxTurnsExceeded: Max turns (0) exceeded")


def test_an_endpoint_that_is_down_is_no_failure_of_the_agent(attempts, script):
    script["answer"] = lambda body: Reply("broken", status=500, headers={"retry-after-ms": "1"})
    assert dev(attempts.server, Agent("solver")).failure == Failure.INFRASTRUCTURE


@pytest.mark.parametrize("streamed", [False, True])
def test_an_endpoint_that_fails_an_agent_used_as_a_tool_is_seen_although_the_run_goes_on(attempts, script, streamed):
    """The SDK tells the asking model that its tool failed; what it makes of that says nothing of it."""

    def answer(body):
        if not offered(body):
            return Reply("broken", status=500, headers={"retry-after-ms": "1"})
        return "ok" if body["messages"][-1]["role"] == "tool" else Reply(None, [("ask_helper", {"input": "?"})])

    script["answer"] = answer
    options = {"on_stream": lambda event: None} if streamed else {}
    boss = Agent("boss", tools=[Agent("helper").as_tool("ask_helper", "Asks.", **options)])
    result = dev(attempts.server, boss)
    assert result.failure == Failure.INFRASTRUCTURE
    assert "500" in result.rollout.attempt.error


def test_a_refusal_of_what_an_agent_used_as_a_tool_says_is_its_own(attempts, script):
    def answer(body):
        if not offered(body):
            return Reply("too long", status=400)
        return "ok" if body["messages"][-1]["role"] == "tool" else Reply(None, [("ask_helper", {"input": "?"})])

    script["answer"] = answer
    assert dev(attempts.server, Agent("boss", tools=[Agent("helper").as_tool("ask_helper", "Asks.")])).succeeded


def test_a_fallback_of_the_users_own_is_as_good_as_any_answer(attempts, script):
    script["answer"] = lambda body: (
        "ok" if "second" in str(body["messages"]) else Reply("broken", status=500, headers={"retry-after-ms": "1"})
    )

    @agl.rollout
    async def ask(task):
        try:
            await Runner.run(Agent("first"), "first")
        except openai.InternalServerError:
            await Runner.run(Agent("second"), "second")
        return 1.0

    (result,) = trainer(attempts.server).dev(ask, [{"input": "x"}])
    assert (result.succeeded, result.reward) == (True, 1.0)


async def test_retries_of_the_run_are_calls_of_their_own_and_count_once(attempts, script):
    answers = iter([Reply("no", status=500), "ok"])
    script["answer"] = lambda body: next(answers)
    again = ModelSettings(retry=ModelRetrySettings(max_retries=1, policy=retry_policies.http_status([500])))
    result, attempt = await attempts.run(Agent("solver", model_settings=again))
    assert (result.final_output, len(attempts.calls())) == ("ok", 2)
    assert attempt.infrastructure_error is None


@pytest.mark.parametrize("tracing_disabled", [False, True])
async def test_a_stopped_attempt_stops_agents_at_work_in_parallel(attempts, script, tracing_disabled):
    calls = [("ask_one", {"input": "1"}), ("ask_two", {"input": "2"})]
    script["answer"] = lambda body: Reply(None, calls) if offered(body) else Reply("late", delay=5)
    tools = [Agent(name).as_tool(f"ask_{name}", "Asks.") for name in ("one", "two")]

    async def work():
        with attempts.inside() as attempt:
            told.append(attempt)
            await Runner.run(Agent("boss", tools=tools), "the task", run_config=RunConfig(tracing_disabled=tracing_disabled))

    told = []
    task = asyncio.ensure_future(work())
    while len(attempts.server.requests) < 3:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if len(attempts.server.abandoned) == 2:
            break
        await asyncio.sleep(0.02)
    assert len(attempts.server.abandoned) == 2
    runs = [span.status for span in told[0].close()[0] if span.name == "Agent workflow"]
    assert (len(runs), SpanStatus.OK in runs) == (3, False)


def test_blocking_code_is_stopped_when_its_time_is_over(attempts, script):
    script["answer"] = lambda body: Reply("late", delay=5)
    ended = []

    @agl.rollout
    def ask(task):
        try:
            return float(len(Runner.run_sync(Agent("solver"), task["input"]).final_output))
        finally:
            asyncio.get_event_loop_policy().get_event_loop().close()
            ended.append(True)

    llm = agl.LLM(endpoint=attempts.server.base_url(), model="trained", version="1")
    (result,) = agl.Trainer(initial_resources={"main_llm": llm}, plugins=[plugin], timeout=1.0).dev(ask, [{"input": "x"}])
    assert result.failure == Failure.TIMEOUT
    for _ in range(100):
        if ended and attempts.server.abandoned:
            break
        time.sleep(0.02)
    assert (ended, len(attempts.server.abandoned)) == ([True], 1)


async def test_an_endpoint_of_the_users_own_that_is_down_is_told_by_the_core(attempts, client):
    agent = Agent("solver", model=OpenAIResponsesModel("users-model", client(max_retries=0)))
    with attempts.inside(roles={"solver": "original"}) as attempt, pytest.raises(openai.APIConnectionError):
        await Runner.run(agent, "the task")
    assert attempt.infrastructure_error.startswith("the agent's own endpoint failed")
