"""A graph in worker processes is recorded as in threads: the same tree of spans, calls, rewards and transitions."""

import pytest

import agl
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import call_of

MODULE = """
import operator
from typing import Annotated, TypedDict

import agl
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    question: str
    said: Annotated[list[str], operator.add]


def ask(state, text):
    return {"said": [ChatOpenAI(model="m", api_key="x", max_retries=0).invoke(f"{text} {state['question']}").text]}


def write(state):
    found = ask(state, "write")
    agl.emit_reward(0.5, name="piece")
    return found


def check(state):
    with agl.operation("thinking"):
        return ask(state, "check")


builder = StateGraph(State)
builder.add_node("write", write)
builder.add_node("check", check)
builder.add_edge(START, "write")
builder.add_edge("write", "check")
builder.add_edge("check", END)
graph = builder.compile()


def visible(task):
    return {"question": task["q"], "said": []}


def reward(task, state):
    return float(len(state["said"]))
"""


@pytest.fixture
def agent(tmp_path, monkeypatch):
    (tmp_path / "graph_for_workers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import graph_for_workers as module

    return agl.agent(module.graph, input=module.visible, reward=module.reward, name="asker")


def told(result):
    """What is recorded of a rollout, without ids and times."""
    names = {span.span_id: span.name for span in result.spans}
    calls = [span for span in sorted(result.spans, key=lambda span: span.started_at) if span.kind == "llm"]
    at = [span.span_id for span in calls]
    spans = sorted((span.name, span.kind, span.role or "", names.get(span.parent_id, ""), span.status) for span in result.spans)
    rewards = sorted((r.name, r.value, r.source, at.index(r.span_id) if r.span_id else -1) for r in result.rewards)
    return spans, rewards, [(span.role, call_of(span).prompt_ids, call_of(span).choices) for span in calls]


def test_a_graph_in_workers_is_recorded_as_in_threads(agent):
    seen = {}
    for executor in ("thread", "process"):
        with ScriptedServer(lambda body: Reply(f"echo {body['messages'][0]['content']}")) as server:
            trainer = agl.Trainer(
                executor=executor, n_runners=2, quiet=True, store=f"{executor}.sqlite", initial_resources={"main_llm": server.llm()}
            )
            seen[executor] = [told(result) for result in trainer.evaluate(agent, [{"q": str(n)} for n in range(4)]).results]
    assert seen["process"] == seen["thread"]
    spans, rewards, calls = seen["process"][0]
    assert ("thinking", "operation", "check", "check", "ok") in spans
    assert [role for role, _, _ in calls] == ["write", "check"]
    assert rewards == [("piece", 0.5, "agent", 0), ("reward", 2.0, "returned", -1)]
