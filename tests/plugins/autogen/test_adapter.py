"""What is run, on copies of what, and how it ends."""

import asyncio
import logging
import time

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import DiGraphBuilder, RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken, InMemoryStore, SingleThreadedAgentRuntime
from autogen_core.model_context import BufferedChatCompletionContext
from autogen_core.models import UserMessage
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.replay import ReplayChatCompletionClient

import agl
from agl.errors import ConfigError
from agl.rollouts import Failure
from agl.testing import Reply, ScriptedServer
from agl_autogen import plugin

pytestmark = pytest.mark.filterwarnings("ignore:Resolved model mismatch")

STOP_SECONDS = 1.0


def heard(server):
    """How many messages each call held."""
    return [len(call.body["messages"]) for call in server.requests]


def test_what_is_no_agent_of_autogen_is_left_to_others():
    assert plugin.agl_adapt_agent(lambda task: 1.0) is None
    assert plugin.agl_adapt_agent(object()) is None


async def test_a_graph_builder_is_refused_with_what_to_give_instead():
    with pytest.raises(ConfigError, match=r"GraphFlow\(participants, builder.build\(\)"):
        plugin.agl_adapt_agent(DiGraphBuilder())


async def test_no_attempt_hears_what_another_has_said(attempts, client):
    adapter = plugin.agl_adapt_agent(RoundRobinGroupChat([AssistantAgent("solver", client())], max_turns=1))
    for number in range(2):
        with attempts.inside(number) as attempt:
            await adapter.run("the task", attempt.resources, attempt.rollout)
    assert heard(attempts.server) == [2, 2]  # its system prompt and the task


async def test_the_users_own_object_hears_nothing_either(attempts, client):
    solver = AssistantAgent("solver", client())
    await attempts.run(solver)
    assert await solver.model_context.get_messages() == []


@pytest.mark.parametrize("in_a_team", [False, True])
async def test_what_has_been_used_before_starts_without_that_conversation(attempts, client, caplog, in_a_team):
    solver = AssistantAgent("solver", client(attempts.server.base_url("/users")))
    member = RoundRobinGroupChat([solver], max_turns=1) if in_a_team else solver
    await member.run(task="an earlier task")
    with caplog.at_level(logging.WARNING, "agl.autogen"):
        await attempts.run(member)
    assert heard(attempts.server)[-1] == 2
    assert "has been used before" in caplog.text


async def test_messages_that_an_agent_is_made_with_are_kept(attempts, client):
    first = [UserMessage(content="an example", source="user")]
    context = BufferedChatCompletionContext(buffer_size=10, initial_messages=first)
    await attempts.run(AssistantAgent("solver", client(), model_context=context))
    assert heard(attempts.server) == [3]


async def test_tools_are_the_users_own_functions(attempts, client, script):
    class Desk:
        def __init__(self):
            self.asked = 0

        def count(self) -> int:
            """Counts."""
            self.asked += 1
            return self.asked

    desk = Desk()
    script["answer"] = lambda body: Reply(None, [("count", {})])
    for number in range(2):
        await attempts.run(AssistantAgent("solver", client(), tools=[desk.count]), number=number)
    assert desk.asked == 2


async def test_a_tool_that_uses_an_agent_from_outside_is_warned_of(client, caplog):
    writer = AssistantAgent("writer", client())

    async def ask(question: str) -> str:
        """Asks the writer."""
        return (await writer.run(task=question)).messages[-1].to_text()

    with caplog.at_level(logging.WARNING, "agl.autogen"):
        plugin.agl_adapt_agent(AssistantAgent("solver", client(), tools=[ask]))
    assert "the tool `ask` is a function that uses `writer`" in caplog.text


async def test_an_answer_from_a_cache_is_warned_of(client, caplog):
    with caplog.at_level(logging.WARNING, "agl.autogen"):
        plugin.agl_adapt_agent(AssistantAgent("solver", ChatCompletionCache(client(), InMemoryStore())))
    assert "`solver` has a model client with a cache" in caplog.text


async def test_a_scripted_client_of_autogen_starts_from_its_first_reply_in_each_attempt(attempts):
    solver = AssistantAgent("solver", ReplayChatCompletionClient(["first", "second"]))
    for number in range(2):
        result, _ = await attempts.run(solver, number=number)
        assert result.messages[-1].content == "first"


async def test_a_team_that_cannot_be_copied_is_refused_before_anything_starts(client):
    class Holder(AssistantAgent):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.lines = (line for line in "ab")

    with pytest.raises(ConfigError, match=r"`solver` cannot be copied .*generator.*make it inside a function"):
        plugin.agl_adapt_agent(Holder("solver", client()))


async def test_a_team_with_a_runtime_of_the_users_is_refused(client):
    team = RoundRobinGroupChat([AssistantAgent("solver", client())], runtime=SingleThreadedAgentRuntime())
    with pytest.raises(ConfigError, match=r"`RoundRobinGroupChat` was made with `runtime=`"):
        plugin.agl_adapt_agent(team)


@pytest.mark.parametrize(
    "given", ["the task", TextMessage(content="the task", source="user"), [TextMessage(content="the task", source="user")]]
)
async def test_a_task_is_a_text_a_message_or_a_list_of_messages(attempts, client, given):
    await attempts.run(RoundRobinGroupChat([AssistantAgent("solver", client())], max_turns=1), given)
    assert "the task" in str(attempts.server.requests[0].body["messages"][-1])


async def test_32_concurrent_rollouts_use_their_own_endpoint_key_and_conversation(attempts, client, script):
    script["answer"] = lambda body: Reply(f"said {body['messages'][-1]['content']}", delay=0.05)
    team = RoundRobinGroupChat([AssistantAgent(name, client()) for name in ("one", "two")], max_turns=2)
    adapter = plugin.agl_adapt_agent(team)

    async def attempt_of(number):
        with attempts.inside(number) as attempt:
            await adapter.run(f"task {number}", attempt.resources, attempt.rollout)

    await asyncio.gather(*(attempt_of(number) for number in range(32)))
    assert len(attempts.server.requests) == 64
    for call in attempts.server.requests:
        number = call.path.split("/")[2].removeprefix("ro")
        assert call.headers["authorization"] == f"Bearer key{number}"
        said = [str(message["content"]) for message in call.body["messages"] if message["role"] == "user"]
        assert all(text.endswith(f"task {number}") for text in said), said


def hanging_tool():
    async def wait() -> str:
        """Waits."""
        await asyncio.sleep(60)
        return "never"

    return wait


def made_of(kind, client):
    solver = AssistantAgent("solver", client(), tools=[hanging_tool()])
    if kind == "agent":
        return solver
    if kind == "streaming agent":
        return AssistantAgent("solver", client(), model_client_stream=True)
    if kind == "selector":
        return SelectorGroupChat([solver, AssistantAgent("other", client())], client(), max_turns=3)
    inner = RoundRobinGroupChat([solver], name="inner", termination_condition=MaxMessageTermination(3))
    return RoundRobinGroupChat([inner], max_turns=1) if kind == "nested team" else inner


async def stopped(work, ready):
    """Cancel work when it is ready; seconds until it has ended, and its error."""
    running = asyncio.ensure_future(work)
    while not ready():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    running.cancel()
    (error,) = await asyncio.gather(running, return_exceptions=True)
    return time.perf_counter() - started, error


async def nothing_is_left(server, others):
    """The connection is given up, no task of the framework's goes on."""
    async with asyncio.timeout(STOP_SECONDS):
        while len(server.abandoned) < len([call for call in server.requests if call.body["messages"][-1]["role"] != "tool"]):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() - others - {asyncio.current_task()} == set()


@pytest.mark.parametrize("kind", ["agent", "streaming agent", "team", "selector", "nested team"])
@pytest.mark.parametrize("in_a_function", [False, True])
async def test_a_stopped_attempt_ends_within_a_second_while_the_model_hangs(attempts, client, script, kind, in_a_function):
    script["answer"] = lambda body: Reply("late", delay=30)
    member, server, before = made_of(kind, client), attempts.server, asyncio.all_tasks()

    async def work():
        if in_a_function:
            with attempts.inside():
                await member.run(task="the task")
        else:
            await attempts.run(member)

    seconds, error = await stopped(work(), lambda: server.requests)
    assert seconds < STOP_SECONDS
    assert isinstance(error, asyncio.CancelledError)
    await nothing_is_left(server, before)


@pytest.mark.parametrize("kind", ["agent", "team", "nested team"])
@pytest.mark.parametrize("in_a_function", [False, True])
async def test_a_stopped_attempt_ends_within_a_second_while_a_tool_hangs(attempts, client, script, kind, in_a_function):
    script["answer"] = lambda body: Reply(None, [("wait", {})])
    member, server, before = made_of(kind, client), attempts.server, asyncio.all_tasks()

    async def work():
        if in_a_function:
            with attempts.inside():
                await member.run(task="the task")
        else:
            await attempts.run(member)

    seconds, error = await stopped(work(), lambda: server.requests)
    await asyncio.sleep(0.05)
    assert seconds < STOP_SECONDS
    assert isinstance(error, asyncio.CancelledError)
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


async def test_the_users_own_cancellation_token_still_works(attempts, client, script):
    script["answer"] = lambda body: Reply("late", delay=30)
    token = CancellationToken()
    with attempts.inside():
        running = asyncio.ensure_future(made_of("team", client).run(task="the task", cancellation_token=token))
        while not attempts.server.requests:
            await asyncio.sleep(0.01)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, STOP_SECONDS)


def trained(member, server, tmp_path, **options):
    """Try an agent in a real Trainer; gives the only result."""
    llm = agl.LLM(endpoint=server.base_url(), model="trained", api_key="upstream", version="1")
    options = {"initial_resources": {"main_llm": llm}, "max_attempts": 1, "timeout": 20} | options
    trainer = agl.Trainer(store=tmp_path / "store.sqlite", **options)
    agent = agl.agent(
        member, input=lambda task: task["question"], output=lambda result: result.messages[-1].content, reward=lambda task, output: 1.0
    )
    return trainer.dev(agent, [{"question": "the task"}])[0]


def test_a_broken_endpoint_is_an_infrastructure_failure_though_the_team_hides_its_error(tmp_path, plain_client):
    with ScriptedServer(lambda body: Reply("down", status=503, headers={"retry-after-ms": "1"})) as server:
        result = trained(RoundRobinGroupChat([AssistantAgent("solver", plain_client())], max_turns=1), server, tmp_path)
    assert result.failure == Failure.INFRASTRUCTURE
    assert "503" in result.rollout.attempt.error


def test_a_timeout_ends_the_team_and_says_where_it_was(tmp_path, plain_client):
    with ScriptedServer(lambda body: Reply("late", delay=30)) as server:
        started = time.perf_counter()
        result = trained(RoundRobinGroupChat([AssistantAgent("solver", plain_client())], max_turns=1), server, tmp_path, timeout=1.0)
    assert time.perf_counter() - started < 1.0 + STOP_SECONDS + 4.0
    assert result.failure == Failure.TIMEOUT
    assert "autogen_agentchat" in result.rollout.attempt.error


def test_one_member_is_trained_and_the_critic_stays_on_its_own_endpoint(tmp_path, plain_client):
    with ScriptedServer(lambda body: "from the policy") as server, ScriptedServer(lambda body: "from the critic's own") as own:
        critics = plain_client(own.base_url("/own"), temperature=0.25)
        team = RoundRobinGroupChat([AssistantAgent("writer", plain_client()), AssistantAgent("critic", critics)], max_turns=2)
        result = trained(team, server, tmp_path, roles={"writer": "train", "critic": "original"})
        (call,) = own.requests
        policys = [request.body["model"] for request in server.requests]
    assert result.output == "from the critic's own"
    assert [item.role for item in result.transitions if item.trainable] == ["RoundRobinGroupChat/writer"]
    assert policys == ["trained"]
    assert (call.path, call.headers["authorization"]) == ("/own/v1/chat/completions", "Bearer users-key")
    assert (call.body["model"], call.body["temperature"]) == ("users-model", 0.25)
    assert [name for name in call.headers if name.startswith("x-agl")] == []


def test_a_frozen_member_uses_the_policy_and_is_not_learned_from(tmp_path, plain_client):
    with ScriptedServer(lambda body: "ok") as server:
        team = RoundRobinGroupChat([AssistantAgent(name, plain_client()) for name in ("writer", "critic")], max_turns=2)
        result = trained(team, server, tmp_path, roles={"critic": "freeze"})
    assert {item.role.rpartition("/")[2]: item.trainable for item in result.transitions} == {"writer": True, "critic": False}


def test_an_agent_can_be_tried_again_in_another_event_loop(tmp_path, plain_client):
    with ScriptedServer(lambda body: "ok") as server:
        client = plain_client(server.base_url())
        solver = AssistantAgent("solver", client)
        with asyncio.Runner() as runner:
            runner.run(solver.run(task="by hand"))
            for number in range(2):
                (tmp_path / str(number)).mkdir()
                assert trained(solver, server, tmp_path / str(number)).succeeded
            runner.run(client.close())
