"""Each call of the model comes with the path of who made it."""

import asyncio
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypedDict

import openai
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from agl import context
from agl.context import ActiveAttempt
from agl_langgraph._roles import Place, graph_path

ends_seen_late = pytest.mark.xfail(
    not hasattr(ActiveAttempt, "innermost_open"),
    strict=True,
    reason="the core must skip ended spans",
)


class State(TypedDict, total=False):
    notes: Annotated[list, operator.add]
    number: int


EXPECTED = [("a", "branch/sub_a"), ("b", "branch/sub_b"), ("judge", "judge"), ("plan", "plan"), ("w0", "worker"), ("w1", "worker")]


def build(model, is_async):
    """A plan, then in parallel two workers and a branch of two nodes, one of them a chain; then a judge."""
    chain = ChatPromptTemplate.from_messages([("user", "{text}")]) | model | StrOutputParser()

    def node(name, runnable=model, text=None):
        def run(state):
            runnable.invoke(text or f"w{state['number']}")
            return {"notes": [name]}

        async def arun(state):
            await runnable.ainvoke(text or f"w{state['number']}")
            return {"notes": [name]}

        return name, arun if is_async else run

    branch = StateGraph(State).add_node(*node("sub_a", text="a")).add_node(*node("sub_b", chain, {"text": "b"}))
    branch.add_edge(START, "sub_a").add_edge("sub_a", "sub_b")
    graph = StateGraph(State).add_node(*node("plan", text="plan")).add_node(*node("worker")).add_node(*node("judge", text="judge"))
    graph.add_node("branch", branch.compile(name="inner")).add_edge(START, "plan").add_edge("plan", "branch")
    graph.add_conditional_edges("plan", lambda state: [Send("worker", {"number": number}) for number in range(2)], ["worker"])
    return graph.add_edge(["branch", "worker"], "judge").compile(name="app")


def test_a_role_is_the_path_of_nodes_in_a_sync_graph(attempts, model):
    with attempts.inside():
        build(model, False).invoke({})
    assert attempts.said() == EXPECTED


@pytest.mark.parametrize("is_async", [False, True], ids=["sync nodes", "async nodes"])
async def test_a_role_is_the_path_of_nodes_in_an_async_graph(attempts, model, is_async):
    with attempts.inside():
        await build(model, is_async).ainvoke({})
    assert attempts.said() == EXPECTED


async def test_streaming_a_graph_keeps_the_roles(attempts, model):
    with attempts.inside():
        assert list(build(model, False).stream({}, stream_mode=["messages", "updates"], subgraphs=True))
    with attempts.inside(1):
        assert [event async for event in build(model, True).astream_events({}, version="v2")]
    assert attempts.said(0) == attempts.said(1) == EXPECTED


async def test_attempts_at_once_in_threads_and_tasks_never_mix(attempts, model, tree):
    in_thread, in_task, made = build(model, False), build(model, True), {}

    def run(number):
        with attempts.inside(number) as made[number]:
            in_thread.invoke({})

    async def arun(number):
        with attempts.inside(number) as made[number]:
            await in_task.ainvoke({})

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        await asyncio.gather(*(loop.run_in_executor(pool, run, number) for number in range(6)), *(arun(number) for number in range(6, 12)))
    for number in range(12):
        assert attempts.said(number) == EXPECTED
        assert len(tree(made[number])) == 1
    assert len(attempts.server.requests) == 12 * len(EXPECTED)


@pytest.mark.parametrize("outer", ["team", "team/night"])
def test_a_role_that_user_code_sets_around_goes_in_front(attempts, model, outer):
    with attempts.inside(), context.role(outer):
        build(model, False).invoke({})
    assert attempts.said() == [(said, f"{outer}/{role}") for said, role in EXPECTED]


def test_a_role_that_user_code_sets_inside_a_node_goes_below_it(attempts, model):
    def inner(state):
        model.invoke("inner")

    below = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile()

    def write(state):
        model.invoke("before")
        with context.role("draft"):
            model.invoke("drafted")
            below.invoke({})
        model.invoke("after")

    with attempts.inside():
        StateGraph(State).add_node(write).add_edge(START, "write").compile().invoke({})
    assert attempts.said() == [("after", "write"), ("before", "write"), ("drafted", "write/draft"), ("inner", "write/draft/inner")]


def test_a_node_that_uses_the_openai_sdk_itself_has_its_role_and_span(attempts, model, tree):
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="users")

    def direct(state):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "direct"}])

    with attempts.inside() as attempt:
        StateGraph(State).add_node(direct).add_edge(START, "direct").compile(name="app").invoke({})
    assert attempts.said() == [("direct", "direct")]
    assert attempts.parent_of(attempt, "direct").name == "direct"


def test_an_agents_own_name_stands_for_its_nodes(attempts, model):
    graph = StateGraph(State).add_node("model", lambda state: model.invoke("hi") and {}).add_edge(START, "model").compile()
    with attempts.inside():
        graph.with_config(metadata={"lc_agent_name": "solver"}).invoke({})
    assert attempts.said() == [("hi", "solver")]


def test_run_names_that_the_user_gave_name_plain_runnables(attempts, model):
    prompt = ChatPromptTemplate.from_messages([("user", "{text}")])
    writer = (prompt | model | StrOutputParser()).with_config(run_name="writer")

    def route(text):
        return writer.invoke({"text": text})

    with attempts.inside():
        writer.invoke({"text": "chain"})
        RunnableLambda(route).invoke("nested")
        list(writer.stream({"text": "streamed"}))
        model.with_config(run_name="judge").invoke("named model")
        model.invoke("nameless")
        (prompt | model).invoke({"text": "nameless chain"})
    assert attempts.said() == sorted(
        {
            "chain": "writer",
            "nested": "route/writer",
            "streamed": "writer",
            "named model": "judge",
            "nameless": None,
            "nameless chain": None,
        }.items()
    )


def test_a_finished_run_leaves_no_role_behind_in_sync_code(attempts, model):
    with attempts.inside() as attempt:
        build(model, False).invoke({})
        assert (context.current_role(), context.current_span()) == (None, attempt.root_id)
        with pytest.raises(ZeroDivisionError):
            StateGraph(State).add_node("bad", lambda state: 1 / 0).add_edge(START, "bad").compile().invoke({})
        assert (context.current_role(), context.current_span()) == (None, attempt.root_id)


@ends_seen_late
async def test_a_finished_run_leaves_no_role_behind_in_async_code(attempts, model):
    with attempts.inside() as attempt:
        await build(model, True).ainvoke({})
        assert (context.current_role(), context.current_span()) == (None, attempt.root_id)
        await model.with_config(run_name="judge").ainvoke("hi")
        assert (context.current_role(), context.current_span()) == (None, attempt.root_id)
        with context.role("mine"):
            await build(model, True).ainvoke({})
            assert context.current_role() == "mine"


def test_the_next_attempt_starts_without_the_roles_of_the_last(attempts, model):
    with asyncio.Runner() as runner:  # one context for all that it runs
        for number in range(2):

            async def attempt(number=number):
                with attempts.inside(number):
                    assert context.current_role() is None
                    await build(model, True).ainvoke({})
                    await model.ainvoke("bare")

            runner.run(attempt())
    assert attempts.said(1) == attempts.said(0)


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({}, ""),
        ({"langgraph_node": "n"}, "n"),
        ({"langgraph_node": "n", "langgraph_checkpoint_ns": "outer:1b-2c|n:3d"}, "outer/n"),
        ({"langgraph_node": "n", "langgraph_checkpoint_ns": "outer:1b|2|n:3d"}, "outer/n"),
        ({"langgraph_node": "n", "langgraph_checkpoint_ns": "n:3d", "lc_agent_name": "agent"}, "agent"),
        ({"langgraph_checkpoint_ns": "a:b:3d"}, "a:b"),
    ],
)
def test_langgraphs_metadata_becomes_a_path(metadata, path):
    assert graph_path(metadata) == path


@pytest.mark.parametrize(
    ("place", "role"),
    [
        (Place(), None),
        (Place("a/b"), "a/b"),
        (Place("a/b", "team"), "team/a/b"),
        (Place("a/b", "a/draft", "a"), "a/draft/b"),
        (Place("a", "a/draft", "a"), "a/draft"),
        (Place("ab", "x", "a"), "x/ab"),
    ],
)
def test_a_place_gives_its_role(place, role):
    assert place.role == role
