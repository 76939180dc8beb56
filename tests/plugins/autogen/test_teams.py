"""Agents and teams as AutoGen's own documentation teaches them: who calls, under which span, with which output."""

import asyncio

import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent, MessageFilterAgent, MessageFilterConfig, SocietyOfMindAgent
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import DiGraphBuilder, GraphFlow, MagenticOneGroupChat, RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken, SingleThreadedAgentRuntime

import agl
from agl.spans import SpanKind, SpanStatus
from agl.testing import Reply

pytestmark = pytest.mark.filterwarnings("ignore:Resolved model mismatch")


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    agl.emit_reward(1.0, "used_the_tool")
    return a + b


def offered(body):
    return [tool["function"]["name"] for tool in body.get("tools") or ()]


def asks_for(tool, **arguments):
    """A model that calls a tool where it is offered and not answered yet."""

    def answer(body):
        answered = body["messages"][-1]["role"] == "tool"
        return Reply(None, [(tool, arguments)]) if tool in offered(body) and not answered else "ok"

    return answer


async def test_an_assistant_calls_its_tool_and_answers(attempts, client, script, tree, spans):
    script["answer"] = asks_for("add", a=1, b=2)
    result, attempt = await attempts.run(AssistantAgent("solver", client(), tools=[add], reflect_on_tool_use=True))
    assert result.messages[-1].content == "ok"
    assert attempts.roles() == ["solver", "solver"]
    assert tree(attempt) == [["solver", ["add"]]]
    agent, tool = spans(attempt)
    assert agent.attributes["agl.input"] == "the task"
    assert agent.attributes["agl.output"]["content"] == "ok"
    assert tool.kind == SpanKind.TOOL
    assert tool.attributes["gen_ai.tool.call.arguments"] == {"a": 1, "b": 2}
    assert tool.attributes["gen_ai.tool.call.result"] == 3


async def test_a_reward_of_a_sync_tool_belongs_to_the_call_that_asked_for_it(attempts, client, script):
    script["answer"] = asks_for("add", a=1, b=2)
    _, attempt = await attempts.run(AssistantAgent("solver", client(), tools=[add]))
    (reward,) = attempt.rewards()
    assert reward.span_id == attempts.server.requests[0].headers["x-agl-call"]


async def test_a_tool_that_does_not_exist_is_a_failed_tool_call(attempts, client, script, spans):
    script["answer"] = lambda body: Reply(None, [("divide", {"a": 1})])
    _, attempt = await attempts.run(AssistantAgent("solver", client(), tools=[add]))
    (tool,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    assert (tool.name, tool.status) == ("divide", SpanStatus.ERROR)
    assert "divide" in tool.error


async def test_an_exception_in_a_tool_is_an_error_of_its_span_and_the_run_goes_on(attempts, client, script, spans):
    def fail() -> str:
        """Fails."""
        raise ValueError("the tool's own")

    script["answer"] = asks_for("fail")
    result, attempt = await attempts.run(AssistantAgent("solver", client(), tools=[fail]))
    assert "the tool's own" in result.messages[-1].content
    assert [span.error for span in spans(attempt) if span.kind == SpanKind.TOOL] == ["ValueError: the tool's own"]


async def test_a_round_robin_team_gives_each_member_its_role(attempts, client, tree, spans):
    members = [AssistantAgent(name, client()) for name in ("writer", "critic")]
    _, attempt = await attempts.run(RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(4)))
    assert attempts.roles() == [f"RoundRobinGroupChat/{name}" for name in ("writer", "critic", "writer")]
    assert tree(attempt) == [["RoundRobinGroupChat", ["writer"], ["critic"], ["writer"]]]
    team, writer, *_ = spans(attempt)
    assert "Maximum number of messages" in team.attributes["agl.autogen.stop_reason"]
    assert writer.attributes["agl.input"][0]["content"] == "the task"
    assert writer.attributes["gen_ai.agent.id"].startswith("writer_")


async def test_a_selectors_own_calls_have_a_role_of_their_own(attempts, client, script, tree, spans):
    script["answer"] = lambda body: "critic" if "role play game" in str(body) else "TERMINATE"
    members = [AssistantAgent(name, client(), description=f"A {name}.") for name in ("writer", "critic")]
    _, attempt = await attempts.run(SelectorGroupChat(members, client(), termination_condition=TextMentionTermination("TERMINATE")))
    manager = "SelectorGroupChat/SelectorGroupChatManager"
    assert attempts.roles() == [manager, "SelectorGroupChat/critic"]
    assert tree(attempt) == [["SelectorGroupChat", ["SelectorGroupChatManager"], ["critic"], ["SelectorGroupChatManager"]]]
    first = spans(attempt)[1]
    assert (first.kind, first.role, first.attributes["agl.output"]) == (SpanKind.NODE, manager, ["critic"])


async def test_a_handoff_in_a_swarm_is_a_span_with_its_target(attempts, client, script, tree, spans):
    script["answer"] = asks_for("transfer_to_bob")
    team = Swarm([AssistantAgent("alice", client(), handoffs=["bob"]), AssistantAgent("bob", client())], max_turns=2)
    _, attempt = await attempts.run(team)
    assert attempts.roles() == ["Swarm/alice", "Swarm/bob"]
    assert tree(attempt) == [["Swarm", ["alice", ["transfer_to_bob"], ["handoff to bob"]], ["bob"]]]
    (handoff,) = [span for span in spans(attempt) if span.name == "handoff to bob"]
    assert (handoff.attributes["agl.handoff.source"], handoff.attributes["agl.handoff.target"]) == ("alice", "bob")


async def test_parallel_branches_of_a_graph_keep_their_roles_and_rewards(attempts, client, script):
    script["answer"] = asks_for("add", a=1, b=2)
    builder, members = DiGraphBuilder(), [AssistantAgent(name, client(), tools=[add]) for name in ("first", "left", "right")]
    for member in members:
        builder.add_node(member)
    builder.add_edge(members[0], members[1]).add_edge(members[0], members[2])
    _, attempt = await attempts.run(GraphFlow(members, graph=builder.build()))
    assert sorted(attempts.roles()) == ["GraphFlow/first", "GraphFlow/left", "GraphFlow/right"]
    calls = {call.headers["x-agl-call"] for call in attempts.server.requests}
    assert {reward.span_id for reward in attempt.rewards()} == calls
    assert len(attempt.rewards()) == 3


async def test_a_society_of_mind_stands_above_its_inner_team(attempts, client, tree):
    inner = RoundRobinGroupChat([AssistantAgent("writer", client())], name="inner", max_turns=1)
    team = RoundRobinGroupChat([SocietyOfMindAgent("society", inner, client()), AssistantAgent("judge", client())], max_turns=2)
    _, attempt = await attempts.run(team)
    outer = "RoundRobinGroupChat"
    assert attempts.roles() == [f"{outer}/society/inner/writer", f"{outer}/society", f"{outer}/judge"]
    assert tree(attempt) == [[outer, ["society", ["inner", ["writer"]]], ["judge"]]]


@pytest.mark.parametrize("as_team", [False, True])
async def test_agents_and_teams_as_tools_are_below_their_caller(attempts, client, script, tree, as_team):
    writer = AssistantAgent("writer", client())
    team = RoundRobinGroupChat([writer], name="office", max_turns=1)
    tool = TeamTool(team, name="office", description="Writes.") if as_team else AgentTool(writer)
    script["answer"] = asks_for(tool.name, task="write")
    _, attempt = await attempts.run(AssistantAgent("boss", client(parallel_tool_calls=False), tools=[tool], max_tool_iterations=2))
    assert attempts.roles() == ["boss", "boss/office/writer" if as_team else "boss/writer", "boss"]
    below = ["office", ["office", ["writer"]]] if as_team else ["writer", ["writer"]]
    assert tree(attempt) == [["boss", below]]


async def test_an_agent_behind_a_filter_is_below_it(attempts, client):
    await attempts.run(MessageFilterAgent("filter", AssistantAgent("inner", client()), MessageFilterConfig(per_source=[])))
    assert attempts.roles() == ["filter/inner"]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the framework's own structured output
async def test_the_orchestrator_of_magentic_one_has_a_role_of_its_own(attempts, client, script):
    ledger = {name: {"reason": "so", "answer": True} for name in ("is_request_satisfied", "is_in_loop", "is_progress_being_made")}
    ledger |= {name: {"reason": "so", "answer": "worker"} for name in ("next_speaker", "instruction_or_question")}
    script["answer"] = lambda body: str(ledger).replace("'", '"').replace("True", "true") if "is_in_loop" in str(body) else "ok"
    await attempts.run(MagenticOneGroupChat([AssistantAgent("worker", client())], client()))
    assert set(attempts.roles()) == {"MagenticOneGroupChat/MagenticOneOrchestrator"}


async def test_a_custom_agent_has_its_role_also_when_it_streams(attempts, client):
    class Twice(BaseChatAgent):
        """Asks the model twice."""

        produced_message_types = (TextMessage,)

        async def on_messages(self, messages, cancellation_token):
            model = client()
            for _ in range(2):
                answer = await model.create([message.to_model_message() for message in messages])
            return Response(chat_message=TextMessage(content=answer.content, source=self.name))

        async def on_reset(self, cancellation_token):
            pass

    with attempts.inside():
        await Twice("alone", "").run(task="the task")
        async for _ in RoundRobinGroupChat([Twice("member", "")], max_turns=1).run_stream(task="the task"):
            pass
    assert attempts.roles() == ["alone", "alone", "RoundRobinGroupChat/member", "RoundRobinGroupChat/member"]


async def test_streams_interleaved_by_the_caller_keep_their_roles(attempts, client):
    async def next_of(stream):
        return await anext(stream)

    with attempts.inside() as attempt, agl.role("caller"):
        streams = [AssistantAgent(name, client(), model_client_stream=True).run_stream(task=name) for name in ("one", "two")]
        for _ in range(2):
            for stream in streams:
                await next_of(stream)
                assert agl.context.current_role() == "caller"
        for stream in streams:
            await stream.aclose()
        assert agl.context.current_span() == attempt.root_id
    assert sorted(attempts.roles()) == ["caller/one", "caller/two"]


async def test_direct_messages_to_an_assistant_carry_its_role(attempts, client, tree):
    with attempts.inside() as attempt:
        await AssistantAgent("solver", client()).on_messages([TextMessage(content="hi", source="user")], CancellationToken())
    assert attempts.roles() == ["solver"]
    assert tree(attempt) == [["solver"]]


async def test_a_function_that_makes_its_team_is_traced_and_the_users_role_goes_in_front(attempts, client, tree):
    with attempts.inside() as attempt, agl.role("mine"):
        await asyncio.gather(
            *(RoundRobinGroupChat([AssistantAgent(name, client())], max_turns=1).run(task=name) for name in ("one", "two"))
        )
    assert sorted(attempts.roles()) == ["mine/RoundRobinGroupChat/one", "mine/RoundRobinGroupChat/two"]
    assert sorted(tree(attempt)) == [["RoundRobinGroupChat", ["one"]], ["RoundRobinGroupChat", ["two"]]]


async def test_members_in_a_runtime_that_was_started_before_belong_to_the_attempt(attempts, client, tree):
    runtime = SingleThreadedAgentRuntime()
    runtime.start()
    with attempts.inside() as attempt:
        team = SelectorGroupChat([AssistantAgent(name, client()) for name in ("one", "two")], client(), max_turns=1, runtime=runtime)
        await team.run(task="the task")
    await runtime.stop_when_idle()
    assert attempts.roles() == ["SelectorGroupChat/SelectorGroupChatManager"] * 3 + ["SelectorGroupChat/one"]
    assert tree(attempt)[0][:3] == ["SelectorGroupChat", ["SelectorGroupChatManager"], ["one"]]


def test_a_sync_tool_keeps_its_attempt_in_a_loop_that_the_user_started(attempts, script):
    seen = []

    def look() -> str:
        """Looks."""
        seen.append(agl.current())
        return "seen"

    async def main():
        from autogen_ext.models.openai import OpenAIChatCompletionClient

        info = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}
        model = OpenAIChatCompletionClient(model="m", base_url="http://127.0.0.1:9/v1", api_key="k", model_info=info)
        await AssistantAgent("solver", model, tools=[look]).run(task="look")
        await model.close()

    script["answer"] = asks_for("look")
    with attempts.inside() as attempt:
        asyncio.run(main())
    assert seen == [attempt]


async def test_outside_an_attempt_nothing_is_recorded_and_the_users_endpoint_is_called(attempts, client):
    with attempts.inside() as attempt:
        pass
    team = RoundRobinGroupChat([AssistantAgent("solver", client(attempts.server.base_url("/users")))], max_turns=1)
    await team.run(task="the task")
    assert [call.path for call in attempts.server.requests] == ["/users/v1/chat/completions"]
    assert "x-agl-role" not in attempts.server.requests[0].headers
    assert attempt.close()[0] == []
