"""A graph inside an agent's tool, and an agent of the SDK inside a graph's node: one tree, and no call is captured twice."""

from typing import TypedDict

import agents
import pytest
from langchain.agents import create_agent
from langgraph.graph import START, StateGraph
from nested_checks import answer, count

from agl_langgraph import plugin as of_langgraph
from agl_openai_agents import plugin as of_agents

agents.set_trace_processors([])  # nothing is sent to OpenAI; as a user does it


@pytest.fixture(params=[(of_agents, of_langgraph), (of_langgraph, of_agents)], ids=["agents first", "langgraph first"])
def attempts(attempts_of, request):
    return attempts_of(*request.param)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_graph_that_an_agents_tool_calls_stands_below_the_tool(attempts, chat_model, script, tree, captured_once, asynchronous):
    script["answer"] = answer
    researcher = create_agent(chat_model, [count], system_prompt="You research.", name="researcher")
    given = {"messages": [("user", "cats")]}

    def look_up(topic: str) -> str:
        """Looks something up."""
        return researcher.invoke(given)["messages"][-1].content

    async def look_up_async(topic: str) -> str:
        """Looks something up."""
        return (await researcher.ainvoke(given))["messages"][-1].content

    asked = agents.function_tool(look_up_async if asynchronous else look_up, name_override="look_up")
    result, attempt = await attempts.run(agents.Agent(name="solver", model="users-model", tools=[asked]), "the task")
    assert result.final_output == "ok"
    chat = ["chat users-model"]
    research = ["researcher", ["model", ["ChatOpenAI"]], ["tools", ["count"]], ["model", ["ChatOpenAI"]]]
    assert tree(attempt) == [["Agent workflow", ["solver", chat, ["look_up", research], chat]]]
    assert attempts.roles() == ["solver", "solver/researcher", "solver/researcher", "solver"]
    (reward,) = attempt.rewards()
    assert (reward.value, reward.span_id) == (3.0, attempts.calls()[1].headers["x-agl-call"])
    captured_once(attempts, attempt)


class State(TypedDict, total=False):
    topic: str
    said: str


async def test_an_agent_that_a_node_runs_stands_below_the_node(attempts, chat_model, tree, captured_once):
    async def write(state):
        return {"said": (await agents.Runner.run(agents.Agent(name="writer", model="users-model"), state["topic"])).final_output}

    async def review(state):
        return {"said": (await chat_model.ainvoke(state["said"])).content}

    graph = StateGraph(State).add_node("write", write).add_node("review", review).add_edge(START, "write").add_edge("write", "review")
    output, attempt = await attempts.run(graph.compile(name="paper"), {"topic": "cats"})
    assert output["said"] == "ok"
    writing = ["Agent workflow", ["writer", ["chat users-model"]]]
    assert tree(attempt) == [["paper", ["write", writing], ["review", ["ChatOpenAI"]]]]
    assert attempts.roles() == ["write/writer", "review"]
    captured_once(attempts, attempt)
