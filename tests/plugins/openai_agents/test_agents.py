"""Agents as the SDK's own documentation teaches them: who calls, under which span, with which output."""

import asyncio

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
)
from agents.handoffs import Handoff
from pydantic import BaseModel

import agl
from agl.spans import SpanKind
from agl.testing import Reply

# `Runner.run_sync` ends the generators of its thread's event loop, and uses the loop again.
pytestmark = pytest.mark.filterwarnings("ignore:asynchronous generator .* was scheduled after:ResourceWarning")


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    agl.emit_reward(1.0, "used_the_tool")
    return a + b


@function_tool
async def multiply(a: int, b: int) -> int:
    """The product of two numbers."""
    return a * b


class Answer(BaseModel):
    """What a structured agent says."""

    value: int


def offered(body):
    return [tool["function"]["name"] for tool in body.get("tools") or ()]


def asks_for(*calls, then="ok"):
    """A model that makes these tool calls, one in each answer, where they are offered."""
    left = list(calls)

    def answer(body):
        if left and left[0][0] in offered(body):
            return Reply(None, [left.pop(0)])
        return then

    return answer


async def test_an_agent_calls_its_tools_and_answers(attempts, script, tree, spans):
    calls = [("add", {"a": 1, "b": 2}), ("multiply", {"a": 3, "b": 4})]
    script["answer"] = lambda body: "ok" if body["messages"][-1]["role"] == "tool" else Reply(None, calls)
    result, attempt = await attempts.run(Agent("solver", instructions="Solve.", tools=[add, multiply], model="gpt-4o"))
    assert result.final_output == "ok"
    assert attempts.roles() == ["solver", "solver"]
    assert tree(attempt) == [["Agent workflow", ["solver", ["chat gpt-4o"], ["add"], ["multiply"], ["chat gpt-4o"]]]]
    run, agent, first, *tools, last = spans(attempt)
    assert (run.attributes["agl.input"], run.attributes["agl.output"]) == ("the task", "ok")
    assert (agent.kind, agent.attributes["agl.tools"]) == (SpanKind.AGENT, ["add", "multiply"])
    asked = {call["function"]["name"]: call["id"] for call in attempts.calls()[1].body["messages"][-3]["tool_calls"]}
    assert {tool.name: tool.attributes["gen_ai.tool.call.id"] for tool in tools} == asked
    assert {tool.name: tool.attributes["gen_ai.tool.call.result"] for tool in tools} == {"add": 3, "multiply": 12}
    assert {tool.kind for tool in tools} == {SpanKind.TOOL}
    assert last.attributes["gen_ai.usage.output_tokens"] > 0
    assert attempts.calls()[0].headers["traceparent"].split("-")[2] == first.span_id


async def test_a_reward_of_a_tool_belongs_to_the_call_that_asked_for_it(attempts, script):
    script["answer"] = asks_for(("add", {"a": 1, "b": 2}))
    _, attempt = await attempts.run(Agent("solver", tools=[add]))
    (reward,) = attempt.rewards()
    assert reward.span_id == attempts.calls()[0].headers["x-agl-call"]


async def test_a_reward_after_a_run_belongs_to_its_last_call(attempts, script):
    script["answer"] = asks_for(("add", {"a": 1, "b": 2}))
    with attempts.inside() as attempt:
        await Runner.run(Agent("solver", tools=[add]), "the task")
        agl.emit_reward(0.5, "judged")
    assert [reward.span_id for reward in attempt.rewards() if reward.name == "judged"] == [attempts.calls()[1].headers["x-agl-call"]]


async def test_after_a_handoff_the_calls_are_those_of_the_agent_now_speaking(attempts, script, tree):
    math = Agent("math", instructions="Reckon.", tools=[add])
    triage = Agent("triage", instructions="Find who can.", handoffs=[handoff(math)])
    script["answer"] = asks_for(("transfer_to_math", {}), ("add", {"a": 1, "b": 2}))
    result, attempt = await attempts.run(triage)
    assert result.last_agent is math
    assert attempts.roles() == ["triage", "math", "math"]
    ((_, first, second),) = tree(attempt)
    assert (first[0], [name for name, *_ in first[1:]][-1]) == ("triage", "handoff to math")
    assert (second[0], [name for name, *_ in second[1:]][1]) == ("math", "add")


async def test_agents_as_tools_are_below_who_asks_them_also_two_at_the_same_time(attempts, script, tree):
    one, two = (Agent(name, instructions="Help.").as_tool(f"ask_{name}", "Asks.") for name in ("one", "two"))
    calls = [("ask_one", {"input": "1"}), ("ask_two", {"input": "2"})]
    script["answer"] = lambda body: (
        Reply(None, calls) if len(offered(body)) == 2 and body["messages"][-1]["role"] == "user" else Reply("ok", delay=0.05)
    )
    _, attempt = await attempts.run(Agent("boss", tools=[one, two]))
    assert sorted(attempts.roles()) == ["boss", "boss", "boss/one", "boss/two"]
    ((_, boss),) = tree(attempt)
    assert sorted(name for name, *_ in boss[1:] if not name.startswith("chat")) == ["ask_one", "ask_two"]
    (inner,) = next(below for name, *below in boss[1:] if name == "ask_one")
    assert (inner[0], inner[1][0]) == ("Agent workflow", "one")


async def test_an_agent_below_an_agent_that_took_over_is_below_that_one(attempts, script):
    helper = Agent("helper")
    math = Agent("math", tools=[helper.as_tool("ask_helper", "Asks.")])
    script["answer"] = asks_for(("transfer_to_math", {}), ("ask_helper", {"input": "?"}))
    await attempts.run(Agent("triage", handoffs=[math]))
    assert attempts.roles() == ["triage", "math", "math/helper", "math"]


@pytest.mark.parametrize("disabled", [False, True])
async def test_agents_of_guardrails_are_below_the_agent_that_they_guard(attempts, script, disabled):
    checker = Agent("checker")

    async def checked(context, agent, given):
        await Runner.run(checker, "Is it all right?", run_config=RunConfig(tracing_disabled=disabled))
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    math = Agent("math", output_guardrails=[output_guardrail(checked)])
    triage = Agent("triage", handoffs=[math], input_guardrails=[input_guardrail(checked)])
    script["answer"] = asks_for(("transfer_to_math", {}))
    with attempts.inside():
        await Runner.run(triage, "the task", run_config=RunConfig(tracing_disabled=disabled))
    assert sorted(attempts.roles()) == ["math", "math/checker", "triage", "triage/checker"]


async def test_a_guardrail_that_trips_is_a_span_and_an_exception_of_the_agent(attempts, spans):
    @input_guardrail
    async def no_sums(context, agent, given):
        return GuardrailFunctionOutput(output_info="a sum", tripwire_triggered=True)

    @output_guardrail
    async def no_answers(context, agent, output):
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    with attempts.inside(0) as attempt, pytest.raises(InputGuardrailTripwireTriggered):
        await Runner.run(Agent("solver", input_guardrails=[no_sums]), "1 + 1")
    assert attempt.infrastructure_error is None
    assert [span.attributes["agl.data"] for span in spans(attempt) if span.name == "no_sums"] == [{"triggered": True}]
    with attempts.inside(1) as attempt, pytest.raises(OutputGuardrailTripwireTriggered):
        await Runner.run(Agent("solver", output_guardrails=[no_answers]), "1 + 1")
    (run,) = [span for span in spans(attempt) if span.name == "Agent workflow"]
    assert run.error.startswith("OutputGuardrailTripwireTriggered")


async def test_structured_output_is_asked_for_and_parsed(attempts, script):
    script["answer"] = lambda body: '{"value": 3}'
    result, _ = await attempts.run(Agent("solver", output_type=Answer))
    assert result.final_output == Answer(value=3)
    assert attempts.calls()[0].body["response_format"]["json_schema"]["schema"]["required"] == ["value"]


async def test_a_streamed_run_gives_its_events_and_token_counts(attempts, script, tree):
    script["answer"] = asks_for(("transfer_to_math", {}), ("add", {"a": 1, "b": 2}))
    triage = Agent("triage", handoffs=[Agent("math", tools=[add])])
    with attempts.inside() as attempt:
        result = Runner.run_streamed(triage, "the task")
        kinds = {event.type async for event in result.stream_events()}
    assert kinds == {"agent_updated_stream_event", "raw_response_event", "run_item_stream_event"}
    assert (result.final_output, attempts.roles()) == ("ok", ["triage", "math", "math"])
    assert result.context_wrapper.usage.output_tokens > 0
    assert all(call.body["stream"] for call in attempts.calls())
    assert [first[0] for first in tree(attempt)[0][1:]] == ["triage", "math"]
    assert [span.attributes["agl.output"] for span in attempt.close()[0] if span.name == "Agent workflow"] == ["ok"]


async def test_a_stream_that_nobody_reads_to_its_end_stops_with_the_attempt(attempts, script):
    script["answer"] = lambda body: Reply("a long answer " * 50, chunk_delay=0.05)
    with attempts.inside():
        result = Runner.run_streamed(Agent("solver"), "the task")
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                break
    await asyncio.wait([result.run_loop_task], timeout=2)
    assert result.run_loop_task.done()


async def test_roles_of_user_code_go_in_front(attempts):
    with attempts.inside(), agl.role("team"):
        await Runner.run(Agent("solver"), "the task")
    assert attempts.roles() == ["team/solver"]


async def test_a_role_that_a_tool_sets_itself_wins_over_the_agents(attempts, script):
    @function_tool
    async def look_up(question: str) -> str:
        """Looks it up."""
        with agl.role("library"):
            return (await Runner.run(Agent("reader"), question)).final_output

    script["answer"] = asks_for(("look_up", {"question": "?"}))
    await attempts.run(Agent("solver", tools=[look_up]))
    assert attempts.roles() == ["solver", "solver/library/reader", "solver"]


async def test_blocking_code_in_many_threads_shares_one_agent(attempts, script, client):
    """Each thread has an event loop of its own, and a client's connections belong to one."""
    from agents import OpenAIChatCompletionsModel

    from agl.context import ContextExecutor

    script["answer"] = lambda body: Reply("ok", delay=0.02)
    users = client()
    both = [Agent("chat", model=OpenAIChatCompletionsModel("users-model", users)), Agent("by_name")]
    pool, loop = ContextExecutor(), asyncio.get_running_loop()

    def ask(number):
        try:
            return [Runner.run_sync(agent, f"task {number}").final_output for agent in both]
        finally:
            asyncio.get_event_loop_policy().get_event_loop().close()  # the SDK leaves it to the thread

    async def one(number):
        with attempts.inside(number):
            return await loop.run_in_executor(pool, ask, number)

    assert await asyncio.gather(*map(one, range(8))) == [["ok", "ok"]] * 8
    assert [attempts.roles(number) for number in range(8)] == [["chat", "by_name"]] * 8
    assert all(call.body["messages"][-1]["content"] == f"task {number}" for number in range(8) for call in attempts.calls(number))
    pool.shutdown()


async def test_a_session_belongs_to_one_rollout(attempts):
    session = SQLiteSession("shared")
    with attempts.inside(0):
        for _ in range(2):
            await Runner.run(Agent("solver"), "the task", session=session)
    assert [len(call.body["messages"]) for call in attempts.calls(0)] == [1, 3]
    with (
        attempts.inside(1) as attempt,
        pytest.raises(agl.AglError, match=r"the session `shared` was used by another rollout.*make a new one"),
    ):
        await Runner.run(Agent("solver"), "the task", session=session)
    assert "was used by another rollout" in attempt.infrastructure_error
    assert attempts.calls(1) == []
    session.close()


async def test_a_run_outside_of_an_attempt_is_as_before(attempts, script, client):
    from agents import OpenAIChatCompletionsModel

    agent = Agent("solver", model=OpenAIChatCompletionsModel("users-model", client(attempts.server.base_url("/users"))))
    await attempts.run(agent)
    attempts.server.requests.clear()
    assert (await Runner.run(agent, "hello")).final_output == "ok"
    (call,) = attempts.server.requests
    assert (call.path, call.body["model"], "x-agl-role" in call.headers) == ("/users/v1/chat/completions", "users-model", False)


def test_a_handoff_without_an_agent_of_its_own_is_taken(attempts):
    async def somewhere(context, given):
        return Agent("found")

    made = Handoff(tool_name="go", tool_description="Goes.", input_json_schema={}, on_invoke_handoff=somewhere, agent_name="found")
    assert set(agl.prompts(Agent("triage", handoffs=[made]))) == {"triage.tools.go.description"}
