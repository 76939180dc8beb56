"""Agents as the framework's own pages teach them: `create_agent`, a supervisor over sub-graphs, structured output, streams."""

import asyncio
import json
import operator
from typing import Annotated, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, wrap_model_call
from langchain_core.messages import AnyMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph, add_messages
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send
from pydantic import BaseModel

import agl
from agl import context
from agl.errors import ConfigError
from agl.spans import SpanKind, SpanStatus
from agl.testing.scripted import Reply
from agl_langgraph import plugin

ASK = {"messages": [("user", "what is 1 + 2?")]}


class Team(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    facts: Annotated[list[str], operator.add]
    topic: str


class Answer(BaseModel):
    """A number with its unit."""

    number: int
    unit: str


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    context.emit_reward(1.0, "used")
    context.emit_message("adding", a=a)
    return a + b


def once(*calls):
    """A model that calls these tools, and then answers."""
    return lambda body: "done" if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=calls)


@pytest.fixture
def solver(model, script):
    script["answer"] = once(("add", {"a": 1, "b": 2}))
    return create_agent(model, [add], system_prompt="You add.", name="solver")


async def test_an_agent_with_tools_has_its_name_as_role_and_its_tools_as_spans(attempts, solver, spans):
    with attempts.inside() as attempt:
        result = await solver.ainvoke(ASK)
    assert [message.content for message in result["messages"][-2:]] == ["3", "done"]
    assert attempts.said() == [("3", "solver"), ("what is 1 + 2?", "solver")]
    (called,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    wanted = {"gen_ai.tool.name": "add", "gen_ai.tool.call.arguments": {"a": 1, "b": 2}, "gen_ai.agent.name": "solver"}
    assert {name: called.attributes[name] for name in wanted} == wanted
    assert called.attributes["gen_ai.tool.call.id"] == result["messages"][1].tool_calls[0]["id"]
    (said,) = [span for span in spans(attempt) if span.kind == SpanKind.MESSAGE]
    assert (said.parent_id, said.attributes) == (called.span_id, {"body": "adding", "a": 1})
    (reward,) = attempt.rewards()
    assert reward.span_id == attempts.server.requests[0].headers["x-agl-call"]


@pytest.mark.parametrize("how", ["invoke", "stream", "astream", "astream_events", "batch"])
async def test_every_way_to_run_an_agent_is_recorded_alike(attempts, solver, tree, how):
    def blocking():
        list(solver.stream(ASK)) if how == "stream" else solver.batch([ASK]) if how == "batch" else solver.invoke(ASK)

    with attempts.inside() as attempt:
        if how == "astream":
            assert [part async for part in solver.astream(ASK, stream_mode="messages")]
        elif how == "astream_events":
            assert [event async for event in solver.astream_events(ASK, version="v2")]
        else:
            await asyncio.to_thread(blocking)
    (root,) = tree(attempt)
    names = [root[0], *(node[0] for node in root[1:])]
    assert names == ["solver", "model", "tools", "model"]
    assert attempts.said() == [("3", "solver"), ("what is 1 + 2?", "solver")]


def team(model):
    """A supervisor that sends two topics to a researcher in parallel and hands over to a writer, both agents of their own."""
    researcher = create_agent(model, system_prompt="You research.", name="researcher")
    writer = create_agent(model, system_prompt="You write.", name="writer")

    async def supervisor(state):
        await model.ainvoke("who is next?")
        context.emit_object({"sent": 2}, "plan")
        return Command(goto=[Send("research", {"topic": topic}) for topic in ("cats", "dogs")])

    async def research(state):
        result = await researcher.ainvoke({"messages": [("user", state["topic"])]})
        return {"facts": [result["messages"][-1].content]}

    graph = StateGraph(Team).add_node(supervisor, destinations=("research",)).add_node(research).add_node("write", writer)
    return graph.add_edge(START, "supervisor").add_edge("research", "write").compile(name="team")


async def test_a_supervisor_with_two_agents_and_parallel_branches_is_one_tree_with_stable_roles(attempts, model, tree):
    graph = team(model)
    expected = [("cats", "researcher"), ("dogs", "researcher"), ("go", "writer"), ("who is next?", "supervisor")]
    for number in range(2):
        with attempts.inside(number) as attempt:
            result = await graph.ainvoke({"messages": [("user", "go")]})
        assert result["facts"] == ["ok", "ok"]
        assert attempts.said(number) == expected
        (root,) = tree(attempt)
        assert sorted(branch[0] for branch in root[1:]) == ["research", "research", "supervisor", "write"]
        assert ["plan"] in next(branch for branch in root if branch[0] == "supervisor")


class Facts(TypedDict, total=False):
    facts: Annotated[list[str], operator.add]


def desk(model, *steps):
    """A sub-graph whose nodes ask the model one after the other."""

    def asking(step):
        return lambda state: {"facts": [model.invoke(f"{step} {state['topic']}").content]}

    return StateGraph(Team, output_schema=Facts).add_sequence([(step, asking(step)) for step in steps]).add_edge(START, steps[0]).compile()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_two_sub_graphs_that_a_supervisor_sends_work_to_at_once_keep_their_roles(attempts, model, script, tree, asynchronous):
    def supervisor(state):
        model.invoke("plan")
        return Command(goto=[Send("research", {"topic": "cats"}), Send("research", {"topic": "dogs"}), Send("write", {"topic": "both"})])

    script["answer"] = lambda body: body["messages"][-1]["content"]
    graph = StateGraph(Team).add_node(supervisor, destinations=("research", "write")).add_edge(START, "supervisor")
    graph = graph.add_node("research", desk(model, "search", "note")).add_node("write", desk(model, "draft")).compile(name="office")
    with attempts.inside() as attempt:
        result = await graph.ainvoke({}) if asynchronous else await asyncio.to_thread(graph.invoke, {})
    sent = {"search cats", "note cats", "search dogs", "note dogs", "draft both"}
    assert set(result["facts"]) == sent
    assert attempts.said() == sorted(
        [("plan", "supervisor"), ("draft both", "write/draft")]
        + [(f"{step} {topic}", f"research/{step}") for step in ("search", "note") for topic in ("cats", "dogs")]
    )
    (root,) = tree(attempt)
    assert sorted(branch[0] for branch in root[1:]) == ["research", "research", "supervisor", "write"]
    names = [attempts.parent_of(attempt, said).name for said in sent]
    assert names == ["ChatOpenAI"] * len(sent)


def test_each_parallel_branch_keeps_the_rewards_of_its_own_call(attempts, model):
    def judge(state):
        model.invoke(state["topic"])
        context.emit_reward(len(state["topic"]), "length")

    graph = StateGraph(Team).add_node(judge)
    graph.add_conditional_edges(START, lambda state: [Send("judge", {"topic": "x" * size}) for size in (1, 2, 3)], ["judge"])
    with attempts.inside() as attempt:
        graph.compile().invoke({})
    calls = {call.headers["x-agl-call"]: float(len(call.body["messages"][-1]["content"])) for call in attempts.server.requests}
    assert {reward.span_id: reward.value for reward in attempt.rewards()} == calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_a_chain_with_structured_output_gives_its_object(attempts, model, script, method):
    wanted = {"number": 3, "unit": "m"}
    script["answer"] = lambda body: Reply(tool_calls=[("Answer", wanted)]) if body.get("tools") else json.dumps(wanted)
    prompt = ChatPromptTemplate.from_messages([("system", "Answer as JSON."), ("user", "{question}")])
    chain = (prompt | model.with_structured_output(Answer, method=method)).with_config(run_name="reader")
    with attempts.inside():
        assert await chain.ainvoke({"question": "how long?"}) == Answer(**wanted)
        assert chain.invoke({"question": "how long?"}) == Answer(**wanted)
    assert attempts.said() == [("how long?", "reader")] * 2


async def test_a_streamed_answer_tells_its_first_token_and_its_usage(attempts, model, script, spans):
    script["answer"] = lambda body: Reply("one two three", chunk_delay=0.02)
    with attempts.inside() as attempt:
        parts = [part.content async for part in model.with_config(run_name="poet").astream("go", stream_usage=True)]
    assert "".join(parts) == "one two three"
    (span,) = spans(attempt)
    assert 0.0 < span.attributes["agl.first_token_seconds"] < span.ended_at - span.started_at
    assert span.attributes["gen_ai.usage.output_tokens"] > 0


def test_long_and_secret_values_are_not_kept(attempts, spans):
    @tool
    def look(key: dict, text: str) -> str:
        """Look."""
        return text

    with attempts.inside() as attempt:
        look.invoke({"key": {"api_key": "very-secret"}, "text": "x" * 100_000})
    (span,) = spans(attempt)
    assert span.attributes["gen_ai.tool.call.arguments"]["key"] == {"api_key": "***"}
    assert "very-secret" not in str(span.attributes)
    assert len(str(span.attributes)) < 20_000


def test_a_tool_that_returns_its_failure_ends_as_an_error(attempts, model, script, spans):
    script["answer"] = once(("add", {"a": "no number", "b": 2}))
    with attempts.inside() as attempt:
        create_agent(model, [add], name="solver").invoke(ASK)
    (span,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    assert span.status == SpanStatus.ERROR


def test_emitting_outside_an_attempt_does_nothing(attempts, solver):
    assert add.invoke({"a": 1, "b": 2}) == 3
    assert not attempts.server.requests


def test_a_remote_graph_is_refused_since_its_calls_are_made_elsewhere():
    remote = RemoteGraph("agent", url="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"`RemoteGraph` runs in its server's process.*give the graph itself"):
        plugin.agl_adapt_agent(remote)


# Prompts.


def templates(prompts):
    return {name: prompt.template for name, prompt in prompts.items()}


SOLVER = {"solver.system_prompt": "You add.", "solver.tools.add.description": "Add two numbers."}


def test_the_prompts_of_create_agent_are_listed(solver):
    assert templates(agl.prompts(solver)) == SOLVER
    assert templates(agl.prompts(agl.agent(solver.with_config(tags=["x"])))) == SOLVER


def test_an_agent_without_a_name_is_listed_under_its_node_which_is_its_role(attempts, model):
    agent = create_agent(model, system_prompt="Hello.")
    outer = StateGraph(Team).add_node("helper", agent).add_edge(START, "helper").compile()
    for number, graph, role in ((0, agent, "model"), (1, outer, "helper/model")):
        assert templates(agl.prompts(graph)) == {f"{role}.system_prompt": "Hello."}
        with attempts.inside(number):
            graph.invoke(ASK)
        assert attempts.said(number) == [("what is 1 + 2?", role)]


async def test_a_prompt_is_put_into_one_attempts_calls_and_the_agent_stays_as_it_is(attempts, solver):
    resources = {
        "solver.system_prompt": agl.PromptTemplate(template="You {add} well."),
        "solver.tools.add.description": agl.PromptTemplate(template="Sum."),
    }
    with attempts.inside(**resources) as attempt:
        await solver.ainvoke(ASK)
    with attempts.inside(1):
        await solver.ainvoke(ASK)
    assert attempt.used_prompts == resources.keys()
    said = [(call.body["messages"][0]["content"], call.body["tools"][0]["function"]["description"]) for call in attempts.server.requests]
    assert said == [("You {add} well.", "Sum.")] * 2 + [("You add.", "Add two numbers.")] * 2
    assert templates(agl.prompts(solver)) == SOLVER


def test_agents_that_are_nodes_of_a_graph_are_listed(model):
    assert templates(agl.prompts(team(model))) == {"writer.system_prompt": "You write."}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agent_that_words_each_call_anew_is_not_listed(model, asynchronous):
    if asynchronous:

        class Anew(AgentMiddleware):
            async def awrap_model_call(self, request, handler):
                return await handler(request)

        middleware = Anew()
    else:
        middleware = wrap_model_call(lambda request, handler: handler(request))
    agent = create_agent(model, system_prompt="Hello.", name="solver", middleware=[middleware])
    with pytest.raises(ConfigError, match=r"not known before it runs.*agl\.prompts\(trainer\.dev\(agent, tasks\)\)"):
        agl.prompts(agent)


def test_a_graph_of_functions_is_not_listed(model):
    graph = StateGraph(Team).add_node("node", lambda state: state).add_edge(START, "node").compile()
    with pytest.raises(ConfigError, match=r"the prompts of a .*CompiledStateGraph are not known before it runs"):
        agl.prompts(graph)


def test_langchain_keeps_what_create_agent_was_given_where_the_plugin_looks(solver):
    """The canary: if this fails, LangChain has changed `create_agent`, and `agl.prompts` no longer sees its prompts before a run."""
    from agl_langgraph._prompts import _given

    given = _given(solver.nodes["model"].bound)
    assert given is not None
    assert {"system_message", "default_tools", "wrap_model_call_handler", "initial_response_format"} <= given.keys()
