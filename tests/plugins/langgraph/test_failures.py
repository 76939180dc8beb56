"""What goes wrong gets its class: the endpoint's failures are not the agent's, and a stopped attempt stops its graph."""

import asyncio
import time
from typing import TypedDict

import openai
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

import agl
from agl.spans import SpanKind
from agl.testing.scripted import Reply, ScriptedServer


class State(TypedDict, total=False):
    text: str


@pytest.fixture
def script():
    return {"answer": lambda body: "ok"}


@pytest.fixture
def server(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(lambda body: script["answer"](body)) as running:
        yield running


def chat(**options):
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    clients = {"http_client": openai.DefaultHttpxClient(limits=limits), "http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
    return ChatOpenAI(
        **{"model": "users", "base_url": "http://127.0.0.1:9/v1", "api_key": "users-key", "max_retries": 0, **clients, **options}
    )


def run(server, agent, **options):
    """One rollout; a graph takes and gives a state, anything else a text."""
    graph = hasattr(agent, "nodes")
    spec = agl.agent(agent, input=lambda task: {"text": "go"} if graph else "go", reward=lambda task, output: 1.0)
    main = {"main_llm": agl.LLM(endpoint=server.base_url(), model="policy", version="1")}
    (result,) = agl.Trainer(quiet=True, initial_resources=main, max_attempts=1, **options).dev(spec, [{"q": 1}])
    return result


def asking(model, **node_options):
    async def node(state):
        return {"text": (await model.ainvoke(state["text"])).content}

    return StateGraph(State).add_node("node", node, **node_options).add_edge(START, "node").compile()


def calls(result):
    return [span for span in result.spans if span.kind == SpanKind.LLM]


@pytest.mark.parametrize(("status", "failure"), [(500, "infrastructure"), (429, "infrastructure"), (401, "infrastructure"), (400, "agent")])
def test_a_failing_endpoint_is_the_infrastructures_failure_and_a_refused_request_the_agents(server, script, status, failure):
    script["answer"] = lambda body: Reply("no", status=status)
    result = run(server, asking(chat()))
    assert str(result.failure) == failure
    assert result.reward == (0.0 if failure == "agent" else None)


def test_an_endpoint_failure_that_the_graph_swallows_is_no_result_of_the_agent(server, script):
    script["answer"] = lambda body: Reply("no", status=500)

    async def node(state):
        try:
            await chat().ainvoke("hi")
        except openai.InternalServerError:
            return {"text": "sorry"}

    result = run(server, StateGraph(State).add_node("node", node).add_edge(START, "node").compile())
    assert (str(result.failure), result.reward) == ("infrastructure", None)


def test_a_fallback_that_answers_makes_the_rollout_succeed(server, script):
    script["answer"] = lambda body: Reply("no", status=500) if body.get("user") == "first" else "from the second"
    result = run(server, (chat(model_kwargs={"user": "first"}).with_fallbacks([chat()])) | RunnableLambda(lambda message: message.content))
    assert (result.failure, result.rollout.attempt.output) == (None, "from the second")
    assert [span.status for span in calls(result)] == ["error", "ok"]


@pytest.mark.parametrize("who", ["sdk", "node", "runnable"])
def test_retries_are_seen_and_only_the_last_try_is_learned_from(script, who, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = chat(max_retries=2) if who == "sdk" else chat()
    retried = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False) if who == "runnable" else model
    policy = (
        {"retry_policy": RetryPolicy(max_attempts=3, initial_interval=0.01, retry_on=openai.InternalServerError)} if who == "node" else {}
    )
    with ScriptedServer("ok", fail_first=1) as failing:
        result = run(failing, asking(retried, **policy))
    assert result.failure is None
    assert [(item.role, item.trainable) for item in result.transitions] == [("node", False), ("node", True)]


def test_a_recursion_limit_is_the_agents_failure(server):
    graph = StateGraph(State).add_node("a", lambda state: {}).add_node("b", lambda state: {}).add_edge(START, "a")
    result = run(server, graph.add_edge("a", "b").add_edge("b", "a").compile().with_config(recursion_limit=4))
    assert (str(result.failure), result.reward) == ("agent", 0.0)
    assert GraphRecursionError.__name__ in result.rollout.attempt.error


def test_a_tool_or_node_that_raises_is_the_agents_failure(server):
    graph = StateGraph(State).add_node("node", lambda state: 1 / 0).add_edge(START, "node").compile()
    result = run(server, graph)
    assert str(result.failure) == "agent"
    assert "ZeroDivisionError" in result.rollout.attempt.error


def test_a_timeout_ends_the_graphs_own_tasks_and_their_calls(server, script):
    script["answer"] = lambda body: Reply("late", delay=30)
    left, model = [], chat()

    async def node(state):
        try:
            await model.ainvoke("hi")
        finally:
            left.append(asyncio.current_task())

    graph = StateGraph(State)
    for name in ("a", "b"):
        graph.add_node(name, node).add_edge(START, name)
    result = run(server, graph.compile(), timeout=4.0)
    assert str(result.failure) == "timeout"
    (root,) = [span for span in result.spans if span.parent_id is None]
    assert root.ended_at - root.started_at < 15
    assert [task.done() for task in left] == [True, True]
    deadline = time.monotonic() + 5
    while len(server.abandoned) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.abandoned) == 2
