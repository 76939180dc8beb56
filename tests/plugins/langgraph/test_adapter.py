"""Recognises graphs and runnables, and runs each attempt on a thread of its own."""

import asyncio
import operator
import threading
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph

from agl import context
from agl.errors import ConfigError
from agl_langgraph import plugin


class State(TypedDict, total=False):
    notes: Annotated[list, operator.add]


def builder(node):
    return StateGraph(State).add_node("node", node).add_edge(START, "node")


def note(state):
    return {"notes": [f"after {len(state['notes'])}"]}


async def run(agent, task):
    return await plugin.agl_adapt_agent(agent).run(task, None, None)


class SyncSaver(BaseCheckpointSaver):
    """A checkpointer as `SqliteSaver` is: sync methods only."""

    def __init__(self):
        super().__init__()
        self.inner = InMemorySaver()

    def get_tuple(self, config):
        return self.inner.get_tuple(config)

    def list(self, config, **kwargs):
        return self.inner.list(config, **kwargs)

    def put(self, *args):
        return self.inner.put(*args)

    def put_writes(self, *args):
        return self.inner.put_writes(*args)

    def delete_thread(self, thread_id):
        self.inner.delete_thread(thread_id)


async def test_a_compiled_graph_runs(attempts):
    assert await run(builder(note).compile(), {"notes": ["x"]}) == {"notes": ["x", "after 1"]}


async def test_a_graph_with_configuration_keeps_it():
    seen = {}

    def node(state, config):
        seen.update(config["configurable"])

    await run(
        builder(node).compile(checkpointer=InMemorySaver()).with_config(configurable={"mine": 1, "thread_id": "fixed"}), {"notes": []}
    )
    assert seen["mine"] == 1
    assert seen["thread_id"] != "fixed"


async def test_runnables_chains_and_entrypoints_run():
    @entrypoint()
    async def flow(number: int) -> int:
        return number + 1

    assert await run(flow, 1) == 2
    assert await run(RunnableLambda(lambda x: x * 2) | RunnableLambda(lambda x: x + 1), 3) == 7


def test_a_graph_that_is_not_compiled_is_refused():
    with pytest.raises(ConfigError, match=r"graph\.compile\(\)"):
        plugin.agl_adapt_agent(builder(note))


@pytest.mark.parametrize("other", [lambda task: 1, 5, object(), None, StateGraph])
def test_anything_else_is_not_ours(other):
    assert plugin.agl_adapt_agent(other) is None


@pytest.mark.parametrize("saver", [InMemorySaver, SyncSaver])
@pytest.mark.parametrize("wrap", [lambda graph: graph, lambda graph: RunnableLambda(lambda x: x) | graph, lambda graph: graph.with_retry()])
async def test_attempts_do_not_see_each_others_threads_and_leave_none(saver, wrap):
    checkpointer = saver()
    adapter = plugin.agl_adapt_agent(wrap(builder(note).compile(checkpointer=checkpointer)))
    results = await asyncio.gather(*(adapter.run({"notes": ["x"]}, None, None) for _ in range(8)))
    assert results == [{"notes": ["x", "after 1"]}] * 8
    assert not getattr(checkpointer, "inner", checkpointer).storage


async def test_a_sync_checkpointer_runs_in_a_thread_inside_the_attempt(attempts, tree):
    seen = []

    def node(state):
        seen.append((threading.current_thread() is threading.main_thread(), context.current()))
        return {"notes": []}

    with attempts.inside() as attempt:
        await run(builder(node).compile(checkpointer=SyncSaver(), name="app"), {"notes": []})
    assert seen == [(False, attempt)]
    assert tree(attempt) == [["app", ["node"]]]


async def test_a_node_that_is_not_implemented_is_run_once():
    runs = []

    def node(state):
        runs.append(1)
        raise NotImplementedError("mine")

    with pytest.raises(NotImplementedError, match="mine"):
        await run(builder(node).compile(checkpointer=InMemorySaver()), {"notes": []})
    assert len(runs) == 1


async def test_sync_nodes_keep_the_attempt_in_threads(attempts, model):
    def node(state):
        assert threading.current_thread() is not threading.main_thread()
        model.invoke("hi")
        return {"notes": []}

    with attempts.inside():
        await run(builder(node).compile(), {"notes": []})
    assert attempts.said() == [("hi", "node")]


async def test_cancelling_an_attempt_stops_its_graph_at_once():
    stopped = asyncio.Event()

    async def node(state):
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run(builder(node).compile(checkpointer=InMemorySaver()), {"notes": []})
    assert stopped.is_set()
