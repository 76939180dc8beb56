"""A LangGraph agent's tools reward the calls that made them, through a whole `fit`."""

from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langchain_core.tools import ToolException, tool
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition

import agl
from agl.testing.scripted import Reply, ScriptedServer


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def divide(a: int, b: int) -> float:
    """Divide a number by another."""
    return a / b


@tool
def excuse(a: int) -> int:
    """Fail, and say so politely."""
    raise ToolException("no such number")


excuse.handle_tool_error = True


def graph(model):
    """A tool-calling agent as users write it; its tools' failures go back to the model as messages."""
    tools = [add, divide, excuse]
    bound = model.bind_tools(tools)

    async def think(state):
        return {"messages": [await bound.ainvoke(state["messages"])]}

    made = StateGraph(State).add_node(think).add_node("tools", ToolNode(tools, handle_tool_errors=True)).add_edge(START, "think")
    return made.add_conditional_edges("think", tools_condition).add_edge("tools", "think").compile(name="solver")


def script(body):
    """First a tool that works beside one that fails, then one that works, then one that handles its failure, then an answer."""
    turns = [
        Reply(tool_calls=[("add", {"a": 1, "b": 2}), ("divide", {"a": 1, "b": 0})]),
        Reply(tool_calls=[("add", {"a": 3, "b": 4})]),
        Reply(tool_calls=[("excuse", {"a": 1})]),
        Reply("7"),
    ]
    return turns[sum(message["role"] == "assistant" for message in body["messages"])]


class Keeper(agl.Algorithm):
    name = "keeper"

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train), n=2)
            await run.publish(metrics={})


@pytest.fixture
def fit(model, tmp_path):
    def run(**options):
        keeper = Keeper()
        with ScriptedServer(script) as server:
            resources = {"main_llm": agl.LLM(endpoint=server.base_url(), model="m", version="1")}
            trainer = agl.Trainer(algorithm=keeper, initial_resources=resources, store=tmp_path / "s.sqlite", quiet=True, **options)
            solver = agl.agent(
                graph(model),
                input=lambda task: {"messages": [("user", task["q"])]},
                output=lambda state: 1.0,
                reward=lambda task, output: output,
            )
            trainer.fit(solver, [{"q": "go"}])
        return keeper.groups[0].results

    return run


def test_each_call_gets_the_mean_outcome_of_its_tools_and_the_rollout_keeps_its_reward(fit):
    for result in fit(rewards=["tool_outcome"]):
        calls = [item.span_id for item in result.transitions]
        outcomes = {reward.span_id: reward.value for reward in result.rewards if reward.name == "tool_outcome"}
        assert [outcomes.get(call) for call in calls] == [0.0, 1.0, -1.0, None]
        assert [item.reward for item in result.transitions] == pytest.approx([1.0, 1.1, 0.9, 1.0])
        assert (result.reward, {reward.source for reward in result.rewards}) == (1.0, {"returned", "tool_outcome", "combined"})
        assert [item.untrained for item in result.transitions] == [None] * 4


def test_its_weight_comes_from_the_trainer(fit):
    for result in fit(rewards=["tool_outcome"], reward_weights={"reward": 2.0, "tool_outcome": 0.5}):
        assert [item.reward for item in result.transitions] == pytest.approx([2.0, 2.5, 1.5, 2.0])


def test_it_is_off_unless_asked_for(fit):
    for result in fit():
        assert [(reward.name, reward.source) for reward in result.rewards] == [("reward", "returned")]
        assert [item.reward for item in result.transitions] == [1.0] * 4
