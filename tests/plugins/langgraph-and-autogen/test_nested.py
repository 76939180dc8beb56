"""A graph inside an agent's tool, and a team inside a graph's node: one tree, and no call is captured twice."""

from typing import TypedDict

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langgraph.graph import START, StateGraph
from nested_checks import answer, count

from agl_autogen import plugin as of_autogen
from agl_langgraph import plugin as of_langgraph

INFO = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}


@pytest.fixture(params=[(of_autogen, of_langgraph), (of_langgraph, of_autogen)], ids=["autogen first", "langgraph first"])
def attempts(attempts_of, request):
    return attempts_of(*request.param)


@pytest.fixture
async def client():
    made = OpenAIChatCompletionClient(model="users-model", base_url="http://127.0.0.1:9/v1", api_key="users-key", model_info=INFO)
    yield made
    await made.close()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_graph_that_an_agents_tool_calls_stands_below_the_tool(
    attempts, client, chat_model, script, tree, captured_once, asynchronous
):
    script["answer"] = answer
    researcher = create_agent(chat_model, [count], system_prompt="You research.", name="researcher")
    given = {"messages": [("user", "cats")]}

    def look_up(topic: str) -> str:
        """Looks something up."""
        return researcher.invoke(given)["messages"][-1].content

    async def look_up_async(topic: str) -> str:
        """Looks something up."""
        return (await researcher.ainvoke(given))["messages"][-1].content

    look_up_async.__name__ = "look_up"
    solver = AssistantAgent("solver", client, tools=[look_up_async if asynchronous else look_up], max_tool_iterations=3)
    result, attempt = await attempts.run(solver, "the task")
    assert result.messages[-1].content == "ok"
    research = ["researcher", ["model", ["ChatOpenAI"]], ["tools", ["count"]], ["model", ["ChatOpenAI"]]]
    assert tree(attempt) == [["solver", ["look_up", research]]]
    assert attempts.roles() == ["solver", "solver/researcher", "solver/researcher", "solver"]
    (reward,) = attempt.rewards()
    assert (reward.value, reward.span_id) == (3.0, attempts.calls()[1].headers["x-agl-call"])
    # AutoGen's own calls stand right below its agent.
    captured_once(attempts, attempt, without={"solver": 2})


class State(TypedDict, total=False):
    topic: str
    said: str


async def test_a_team_that_a_node_runs_stands_below_the_node(attempts, client, chat_model, tree, captured_once):
    async def write(state):
        team = RoundRobinGroupChat([AssistantAgent("writer", client), AssistantAgent("critic", client)], max_turns=2)
        return {"said": (await team.run(task=state["topic"])).messages[-1].content}

    async def review(state):
        return {"said": (await chat_model.ainvoke(state["said"])).content}

    graph = StateGraph(State).add_node("write", write).add_node("review", review).add_edge(START, "write").add_edge("write", "review")
    output, attempt = await attempts.run(graph.compile(name="paper"), {"topic": "cats"})
    assert output["said"] == "ok"
    assert tree(attempt) == [["paper", ["write", ["RoundRobinGroupChat", ["writer"], ["critic"]]], ["review", ["ChatOpenAI"]]]]
    assert attempts.roles() == ["write/RoundRobinGroupChat/writer", "write/RoundRobinGroupChat/critic", "review"]
    captured_once(attempts, attempt, without={"writer": 1, "critic": 1})
