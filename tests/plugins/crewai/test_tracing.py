"""Spans, roles and rewards of crews, managers, flows and agents."""

import asyncio
import logging
from urllib.parse import unquote

import crewai
import pytest
from crewai import Crew, Process, Task
from crewai.flow import Flow, and_, listen, start
from crewai.tools import tool

import agl
from agl.spans import SpanKind, SpanStatus
from agl.testing import Reply


def asks_for(name, **arguments):
    """The model calls a tool once in each conversation that offers it."""

    def answer(body):
        offered = {item["function"]["name"] for item in body.get("tools", ())}
        used = any(message["role"] == "tool" for message in body["messages"])
        return Reply(None, [(name, arguments)]) if name in offered and not used else "ok"

    return answer


async def test_a_crew_is_a_tree_of_tasks_agents_tools_and_model_calls(attempts, team, script, tree, spans):
    script["answer"] = asks_for("add", a=1, b=2)
    output, attempt = await attempts.run(team(), {"topic": "sums"})
    assert str(output) == "ok"
    model = "chat users-model"
    solver, critic = ["Solver of {topic}", [model], ["add"], [model]], ["Critic", [model]]
    assert tree(attempt) == [["crew", ["solve", solver], ["judge", critic]]]
    assert attempts.roles() == ["crew/Solver of %7Btopic%7D"] * 2 + ["crew/Critic"]
    crew, solve, agent, call, add, *_ = spans(attempt)
    assert (crew.kind, crew.attributes["agl.input"], crew.attributes["agl.output"]) == (SpanKind.AGENT, {"topic": "sums"}, "ok")
    assert (solve.kind, solve.attributes["agl.input"]["description"]) == (SpanKind.NODE, "Solve sums")
    assert (agent.kind, agent.attributes["gen_ai.agent.name"]) == (SpanKind.AGENT, "Solver of sums")
    assert call.kind == SpanKind.MODEL
    assert call.attributes["gen_ai.usage.input_tokens"] > 0
    assert (add.kind, add.attributes["gen_ai.tool.call.arguments"], add.attributes["gen_ai.tool.call.result"]) == (
        SpanKind.TOOL,
        {"a": 1, "b": 2},
        "3",
    )


async def test_a_reward_of_a_tool_belongs_to_the_call_that_asked_for_it(attempts, team, script):
    script["answer"] = asks_for("add", a=1, b=2)
    _, attempt = await attempts.run(team(), {"topic": "sums"})
    (reward,) = attempt.rewards()
    assert (reward.name, reward.value) == ("sum", 3.0)
    assert reward.span_id == attempts.server.requests[0].headers["x-agl-call"]


async def test_an_exception_of_a_tool_is_text_for_the_model_and_an_error_of_its_span(attempts, member, script, spans):
    @tool("fail")
    def fail() -> str:
        """Fails."""
        raise ValueError("the tool's own")

    script["answer"] = asks_for("fail")
    output, attempt = await attempts.run(member("solver", tools=[fail]), "go")
    assert str(output) == "ok"
    assert "the tool's own" in str(attempts.server.requests[-1].body["messages"][-1])
    (span,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    assert span.status == SpanStatus.ERROR
    assert "the tool's own" in span.error


async def test_a_coworker_works_below_the_manager_that_delegates_to_it(attempts, team, model, script, tree):
    def answer(body):
        ask = asks_for("delegate_work_to_coworker", task="write", context="none", coworker="Critic")
        return ask(body)

    script["answer"] = answer
    crew = team(process=Process.hierarchical, manager_llm=model(), name="office")
    crew.tasks = crew.tasks[1:]
    _, attempt = await attempts.run(crew, {"topic": "sums"})
    assert attempts.roles() == ["office/Crew Manager", "office/Crew Manager/Critic", "office/Crew Manager"]
    call = ["chat users-model"]
    delegated = ["delegate_work_to_coworker", ["Critic", call]]
    assert tree(attempt) == [["office", ["judge", ["Crew Manager", call, delegated, call]]]]


async def test_a_manager_delegates_to_both_of_its_agents_one_of_them_with_a_tool(attempts, team, model, script, tree, captured_once):
    work = [{"task": "add", "context": "none", "coworker": "Solver of sums"}, {"task": "judge", "context": "none", "coworker": "Critic"}]

    def answer(body):
        offered = {item["function"]["name"] for item in body.get("tools", ())}
        done = sum(message["role"] == "tool" for message in body["messages"])
        if "delegate_work_to_coworker" in offered and done < len(work):
            return Reply(None, [("delegate_work_to_coworker", work[done])])
        return asks_for("add", a=1, b=2)(body)

    script["answer"] = answer
    crew = team(process=Process.hierarchical, manager_llm=model(), name="office")
    crew.tasks = [Task(name="both", description="Do it", expected_output="A word")]  # of no agent: the manager may ask all
    _, attempt = await attempts.run(crew, {"topic": "sums"})
    manager, solver = "office/Crew Manager", "office/Crew Manager/Solver of {topic}"
    assert [unquote(role) for role in attempts.roles()] == [manager, solver, solver, manager, f"{manager}/Critic", manager]
    call = ["chat users-model"]
    delegated = [["Solver of {topic}", call, ["add"], call], ["Critic", call]]
    below = [part for member in delegated for part in (call, ["delegate_work_to_coworker", member])]
    assert tree(attempt) == [["office", ["both", ["Crew Manager", *below, call]]]]
    (reward,) = attempt.rewards()
    assert (reward.value, reward.span_id) == (3.0, attempts.calls()[1].headers["x-agl-call"])
    captured_once(attempts, attempt)


def make_flow(team, member, model):
    class Report(Flow):
        @start()
        def begin(self):
            return model().call([{"role": "user", "content": f"begin {self.state.get('topic')}"}])

        @listen(begin)
        def left(self, said):
            return team().kickoff(inputs={"topic": "left"}).raw

        @listen(begin)
        async def right(self, said):
            return (await member("Lone").kickoff_async("go")).raw

        @listen(and_(left, right))
        def end(self):
            agl.emit_reward(1.0)
            return "done"

    return Report


@pytest.mark.parametrize("as_class", [True, False])
async def test_models_agents_and_crews_that_a_flow_makes_are_below_its_methods(attempts, team, member, model, tree, as_class):
    flow = make_flow(team, member, model)
    output, attempt = await attempts.run(flow if as_class else flow(), {"topic": "sums"})
    assert output == "done"
    assert set(attempts.roles()) == {
        "Report/begin",
        "Report/left/crew/Solver of %7Btopic%7D",
        "Report/left/crew/Critic",
        "Report/right/Lone",
    }
    assert "begin sums" in str(attempts.server.requests[0].body)
    assert [reward.value for reward in attempt.rewards()] == [1.0]
    (whole,) = tree(attempt)
    assert [whole[0], sorted(child[0] for child in whole[1:])] == ["Report", ["begin", "end", "left", "right"]]


async def test_tasks_at_the_same_time_keep_their_roles_and_rewards(attempts, member, add, script):
    script["answer"] = asks_for("add", a=1, b=2)
    agents = [member(name, tools=[add]) for name in ("one", "two", "three")]
    tasks = [Task(description=agent.role, expected_output="x", agent=agent, async_execution=agent.role != "three") for agent in agents]
    _, attempt = await attempts.run(Crew(agents=agents, tasks=tasks), {})
    assert sorted(attempts.roles()) == sorted(["crew/one", "crew/two", "crew/three"] * 2)
    asked = {call.headers["x-agl-call"] for call in attempts.server.requests if call.body["messages"][-1]["role"] != "tool"}
    assert {reward.span_id for reward in attempt.rewards()} == asked


@pytest.mark.parametrize("kickoff", ["akickoff_for_each", "kickoff_for_each_async"])
async def test_a_function_that_runs_crews_for_several_inputs_is_traced_and_the_users_role_goes_in_front(attempts, team, tree, kickoff):
    with attempts.inside() as attempt, agl.role("mine"):
        outputs = await getattr(team(), kickoff)([{"topic": "one"}, {"topic": "two"}])
    assert len(outputs) == 2
    assert set(attempts.roles()) == {"mine/crew/Solver of %7Btopic%7D", "mine/crew/Critic"}
    assert len(attempts.roles()) == 4
    assert [branch[0] for branch in tree(attempt)] == ["crew", "crew"]


async def test_a_stream_tells_when_its_first_token_came(attempts, member, model, spans):
    _, attempt = await attempts.run(member("solver", model(stream=True)), "go")
    (call,) = [span for span in spans(attempt) if span.kind == SpanKind.MODEL]
    assert call.attributes["agl.first_token_seconds"] > 0


async def test_a_model_that_does_not_use_the_openai_sdk_is_named_in_a_warning(attempts, member, caplog):
    class Own(crewai.BaseLLM):
        def call(
            self, messages, tools=None, callbacks=None, available_functions=None, from_task=None, from_agent=None, response_model=None
        ):
            self._emit_call_started_event(messages=messages, from_agent=from_agent)
            self._emit_call_completed_event("own answer", "llm_call", from_agent=from_agent)
            return "own answer"

    with caplog.at_level(logging.WARNING, "agl.crewai"):
        output, _ = await attempts.run(member("solver", Own(model="own-model")), "go")
    assert str(output) == "own answer"
    assert "the calls of the role `solver` to the model `own-model` (Own) do not use the OpenAI SDK" in caplog.text


async def test_outside_an_attempt_nothing_is_recorded_and_the_users_endpoint_is_called(attempts, member, model):
    with attempts.inside() as attempt:
        pass
    await member("solver", model(attempts.server.base_url("/users"))).kickoff_async("go")
    assert [call.path for call in attempts.server.requests] == ["/users/v1/chat/completions"]
    assert "x-agl-role" not in attempts.server.requests[0].headers
    assert attempt.close()[0] == []


async def test_roles_that_are_left_alone_reach_the_users_own_model(attempts, team, model):
    crew = team(model(attempts.server.base_url("/users")))
    await attempts.run(crew, {"topic": "sums"}, roles={"Critic": "original"})
    assert [call.path.split("/")[1] for call in attempts.server.requests] == ["r", "users"]


async def test_concurrent_runs_of_one_crew_keep_their_inputs_keys_and_rewards(attempts, team, script):
    script["answer"] = asks_for("add", a=1, b=2)
    crew = team()

    async def one(number):
        return await attempts.run(crew, {"topic": f"topic-{number}"}, number)

    ended = await asyncio.gather(*(one(number) for number in range(32)))
    assert all(len(attempt.rewards()) == 1 for _, attempt in ended)
    assert len(attempts.server.requests) == 96
    for call in attempts.server.requests:
        number = call.path.split("/")[2].removeprefix("ro")
        assert call.headers["authorization"] == f"Bearer key{number}"
        if "Solver" in call.headers["x-agl-role"]:
            assert f"You are Solver of topic-{number}." in call.body["messages"][0]["content"]
            assert f"Solve topic-{number}\n" in call.body["messages"][1]["content"]
