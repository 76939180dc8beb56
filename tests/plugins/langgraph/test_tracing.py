"""Runs become spans: one tree, what went in and came out, and how each one ended."""

import asyncio
import functools
from typing import Annotated, TypedDict

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AnyMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command

from agl import context
from agl.context import ActiveAttempt
from agl.spans import SpanKind, SpanStatus
from agl.testing.scripted import Reply

ends_seen_late = pytest.mark.xfail(
    not hasattr(ActiveAttempt, "innermost_open"),
    strict=True,
    reason="the core must skip ended spans",
)


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    with context.operation("adding"):
        context.emit_reward(a + b, "sum")
        return a + b


@tool
async def double(a: int) -> int:
    """Double a number."""
    with context.operation("doubling"):
        await asyncio.sleep(0.01)
        return 2 * a


@tool
def broken(a: int) -> int:
    """Fail."""
    raise RuntimeError("tool broke")


def agent(model, *tools):
    """A tool-calling agent of two nodes, as users write it."""
    bound = model.bind_tools(list(tools))

    def think(state):
        return {"messages": [bound.invoke(state["messages"])]}

    graph = StateGraph(State).add_node(think).add_node("tools", ToolNode(list(tools), handle_tool_errors=False)).add_edge(START, "think")
    return graph.add_conditional_edges("think", tools_condition).add_edge("tools", "think").compile(name="solver")


def calling(*calls):
    """A model that calls these tools once and then answers."""
    return lambda body: "done" if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=calls)


def single(node):
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(name="app")


ASK = {"messages": [("user", "go")]}


async def test_an_agent_with_tools_gives_one_tree(attempts, model, script, tree):
    script["answer"] = calling(("add", {"a": 1, "b": 2}), ("double", {"a": 4}))
    with attempts.inside() as attempt:
        result = await agent(model, add, double).ainvoke(ASK)
    assert [message.content for message in result["messages"][-3:]] == ["3", "8", "done"]
    think = ["think", ["ChatOpenAI"], ["tools_condition"]]
    (root,) = tree(attempt)
    assert root[:2] == ["solver", think]
    assert root[3:] == [think]
    assert sorted(root[2][1:]) == [["add", ["adding"]], ["double", ["doubling"]]]
    (reward,) = attempt.rewards()
    assert (reward.name, reward.value, reward.span_id) == ("sum", 3.0, attempts.server.requests[0].headers["x-agl-call"])


async def test_each_call_hangs_under_its_own_model_span(attempts, model):
    async def node(state):
        await asyncio.gather(*(model.ainvoke(f"q{number}") for number in range(6)))

    with attempts.inside() as attempt:
        await single(node).ainvoke(ASK)
    spans = [attempts.parent_of(attempt, f"q{number}") for number in range(6)]
    assert len({span.span_id for span in spans}) == 6
    for number, span in enumerate(spans):
        assert span.kind == SpanKind.MODEL
        assert span.attributes["agl.input"] == [{"type": "human", "content": f"q{number}"}]


def test_a_model_span_tells_model_tokens_and_answer(attempts, model, spans):
    with attempts.inside() as attempt:
        model.invoke("hi")
    (span,) = spans(attempt)
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "users-model",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "agl.output": {"type": "ai", "content": "ok"},
    }
    assert {name: span.attributes.get(name) for name in wanted} == wanted
    assert span.status == SpanStatus.OK
    assert span.ended_at >= span.started_at


def test_a_tool_span_tells_arguments_and_result(attempts, model, script, spans):
    script["answer"] = calling(("add", {"a": 1, "b": 2}))
    with attempts.inside() as attempt:
        agent(model, add).invoke(ASK)
    (span,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    assert (span.name, span.role) == ("add", "tools")
    assert span.attributes["gen_ai.tool.call.arguments"] == {"a": 1, "b": 2}
    assert span.attributes["gen_ai.tool.call.result"]["content"] == "3"
    assert span.attributes["gen_ai.tool.call.id"].startswith("call_")


def test_kinds_tell_agents_nodes_tools_and_models_apart(attempts, model, script, spans):
    script["answer"] = calling(("add", {"a": 1, "b": 2}))
    with attempts.inside() as attempt:
        agent(model, add).invoke(ASK)
    kinds = {(span.name, span.kind) for span in spans(attempt)}
    assert {("solver", SpanKind.AGENT), ("think", SpanKind.NODE), ("add", SpanKind.TOOL), ("ChatOpenAI", SpanKind.MODEL)} <= kinds


def test_a_retriever_is_recorded(attempts, spans):
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return []

    with attempts.inside() as attempt:
        Shelf().invoke("books")
    assert [(span.name, span.attributes["agl.input"], span.attributes["agl.output"]) for span in spans(attempt)] == [("Shelf", "books", [])]


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_inside_a_node_ends_its_spans_as_errors(attempts, model, spans, tree, is_async):
    def node(state):
        model.invoke("hi")
        raise ValueError("node broke")

    with attempts.inside() as attempt, pytest.raises(ValueError, match="node broke"):
        await single(node).ainvoke(ASK) if is_async else single(node).invoke(ASK)
    ended = {span.name: (span.status, span.error) for span in spans(attempt)}
    broke = (SpanStatus.ERROR, "ValueError: node broke")
    assert ended == {"app": broke, "node": broke, "ChatOpenAI": (SpanStatus.OK, None)}
    assert tree(attempt) == [["app", ["node", ["ChatOpenAI"]]]]


def test_a_tool_that_raises_ends_as_an_error(attempts, model, script, spans):
    script["answer"] = calling(("broken", {"a": 1}))
    with attempts.inside() as attempt, pytest.raises(RuntimeError, match="tool broke"):
        agent(model, broken).invoke(ASK)
    (span,) = [span for span in spans(attempt) if span.kind == SpanKind.TOOL]
    assert (span.status, span.error) == (SpanStatus.ERROR, "RuntimeError: tool broke")


def test_a_model_call_that_fails_ends_as_an_error(attempts, model, script, spans):
    script["answer"] = lambda body: Reply("no such model", status=404)
    with attempts.inside() as attempt, pytest.raises(Exception, match="no such model"):
        model.invoke("hi")
    (span,) = spans(attempt)
    assert span.status == SpanStatus.ERROR
    assert "no such model" in span.error


async def test_a_cancelled_attempt_closes_every_span(attempts, model, script, spans, tree):
    script["answer"] = lambda body: Reply("late", delay=30)

    async def node(state):
        await model.ainvoke("hi")

    with attempts.inside() as attempt, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await single(node).ainvoke(ASK)
    status = {span.name: span.status for span in spans(attempt)}
    assert status == {"app": SpanStatus.ERROR, "node": SpanStatus.ERROR, "ChatOpenAI": SpanStatus.OPEN}
    assert tree(attempt) == [["app", ["node", ["ChatOpenAI"]]]]


def test_a_handover_to_the_parent_graph_is_no_error(attempts, model, spans):
    inner = StateGraph(State).add_node("go", lambda state: Command(goto="after", graph=Command.PARENT)).add_edge(START, "go").compile()
    outer = StateGraph(State).add_node("inner", inner, destinations=("after",)).add_node("after", lambda state: {}).add_edge(START, "inner")
    with attempts.inside() as attempt:
        outer.compile().invoke(ASK)
    assert "after" in {span.name for span in spans(attempt)}
    assert {span.status for span in spans(attempt)} == {SpanStatus.OK}


def test_a_stream_left_early_is_closed_with_its_attempt(attempts, model, spans):
    with attempts.inside() as attempt:
        next(iter(model.stream("hi")))
    assert len(spans(attempt)) == 1


def test_an_operation_of_the_user_stands_between_the_runs(attempts, model, tree):
    def node(state):
        with context.operation("mine"):
            model.invoke("hi")
        model.invoke("again")

    with attempts.inside() as attempt, context.operation("around"):
        single(node).invoke(ASK)
    assert tree(attempt) == [["around", ["app", ["node", ["mine", ["ChatOpenAI"]], ["ChatOpenAI"]]]]]


@ends_seen_late
async def test_an_operation_after_an_async_model_call_hangs_under_its_node(attempts, model, tree):
    async def node(state):
        await model.ainvoke("hi")
        with context.operation("mine"):
            pass

    with attempts.inside() as attempt:
        await single(node).ainvoke(ASK)
    assert tree(attempt) == [["app", ["node", ["ChatOpenAI"], ["mine"]]]]


async def test_a_reward_belongs_to_the_call_of_its_own_parallel_branch(attempts, model, script):
    script["answer"] = lambda body: Reply("ok", delay=0.05 * (5 - int(body["messages"][-1]["content"])))

    async def node(state, number):
        await model.ainvoke(str(number))
        await asyncio.sleep(0.4)
        context.emit_reward(number, "quality")

    graph = StateGraph(State)
    for number in range(4):
        graph.add_node(f"n{number}", functools.partial(node, number=number)).add_edge(START, f"n{number}")
    with attempts.inside() as attempt:
        await graph.compile().ainvoke(ASK)
    calls = {float(call.body["messages"][-1]["content"]): call.headers["x-agl-call"] for call in attempts.server.requests}
    assert {reward.value: reward.span_id for reward in attempt.rewards()} == calls


async def test_a_reward_after_a_graph_belongs_to_the_graphs_last_call(attempts, model):
    async def node(state):
        await model.ainvoke("inner")

    with attempts.inside() as attempt:
        model.invoke("outer")
        await single(node).ainvoke(ASK)
        context.emit_reward(1, "quality")
    assert attempt.rewards()[0].span_id == attempts.server.requests[-1].headers["x-agl-call"]


def test_two_graphs_of_one_attempt_are_two_trees(attempts, model, tree):
    graph = single(lambda state: model.invoke("hi") and {})
    with attempts.inside() as attempt:
        graph.invoke(ASK)
        graph.batch([ASK, ASK])
    assert tree(attempt) == [["app", ["node", ["ChatOpenAI"]]]] * 3


@pytest.fixture
def cache():
    kept = InMemoryCache()
    set_llm_cache(kept)
    yield kept
    set_llm_cache(None)


def test_langchains_global_cache_answers_only_outside_attempts(attempts, model, script, cache):
    answers = iter(["first", "second", "third"])
    script["answer"] = lambda body: next(answers)
    cache.update("p", "l", [])
    with attempts.inside():
        assert [model.invoke("hi").content for _ in range(2)] == ["first", "second"]
    assert get_llm_cache().lookup("p", "l") == []
    with attempts.inside(1):
        assert asyncio.run(model.ainvoke("hi")).content == "third"
        assert get_llm_cache().lookup("p", "l") is None
    outside = model.model_copy()
    outside.client = openai.OpenAI(base_url=attempts.server.base_url(), api_key="k", http_client=model.http_client).chat.completions
    script["answer"] = lambda body: "outside"
    assert [outside.invoke("hi").content for _ in range(2)] == ["outside", "outside"]
    assert len(attempts.server.requests) == 4


def test_an_answer_from_a_models_own_cache_is_marked_and_warned_about(attempts, model, spans, caplog):
    caching = model.model_copy(update={"cache": InMemoryCache()})
    with attempts.inside() as attempt:
        caching.invoke("hi")
        caching.invoke("hi")
    assert [span.attributes.get("agl.cached") for span in spans(attempt)] == [None, True]
    assert len(attempts.server.requests) == 1
    assert "own `cache=`" in caplog.text
