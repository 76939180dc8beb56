"""A graph inside a crew's tool, and a crew inside a graph's node: one tree, and no call is captured twice."""

from typing import TypedDict

import crewai
import pytest
from crewai.tools import tool as crew_tool
from langchain.agents import create_agent
from langgraph.graph import START, StateGraph
from nested_checks import answer, count

import agl
from agl.spans import SpanKind
from agl.testing import ScriptedServer
from agl_crewai import plugin as of_crewai
from agl_langgraph import plugin as of_langgraph

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")
ROLES = ["crew/solver", "crew/solver/researcher", "crew/solver/researcher", "crew/solver"]
RESEARCH = ["researcher", ["model", ["ChatOpenAI"]], ["tools", ["count"]], ["model", ["ChatOpenAI"]]]


@pytest.fixture(params=[(of_crewai, of_langgraph), (of_langgraph, of_crewai)], ids=["crewai first", "langgraph first"])
def attempts(attempts_of, request):
    return attempts_of(*request.param)


def crew_with(*tools):
    llm = crewai.LLM(model="openai/users-model", base_url="http://127.0.0.1:9/v1", api_key="users-key")
    solver = crewai.Agent(role="solver", goal="Solve.", backstory="You solve.", llm=llm, tools=list(tools))
    solve = crewai.Task(name="solve", description="Solve it", expected_output="A word", agent=solver)
    return crewai.Crew(agents=[solver], tasks=[solve])


@pytest.fixture
def researcher(chat_model):
    return create_agent(chat_model, [count], system_prompt="You research.", name="researcher")


@pytest.fixture
def crew(researcher):
    """Its tool asks an agent of LangGraph."""

    @crew_tool("look_up")
    def look_up(topic: str) -> str:
        """Looks something up."""
        return researcher.invoke({"messages": [("user", topic)]})["messages"][-1].content

    return crew_with(look_up)


async def test_a_graph_that_a_crews_tool_calls_stands_below_the_tool(attempts, crew, script, tree, captured_once):
    script["answer"] = answer
    output, attempt = await attempts.run(crew, {})
    assert str(output) == "ok"
    chat = ["chat users-model"]
    assert tree(attempt) == [["crew", ["solve", ["solver", chat, ["look_up", RESEARCH], chat]]]]
    assert attempts.roles() == ROLES
    captured_once(attempts, attempt)


async def test_a_reward_inside_the_graphs_tool_belongs_to_the_call_of_the_graph(attempts, crew, script):
    script["answer"] = answer
    _, attempt = await attempts.run(crew, {})
    (reward,) = attempt.rewards()
    assert (reward.value, reward.span_id) == (3.0, attempts.calls()[1].headers["x-agl-call"])


class State(TypedDict, total=False):
    topic: str
    said: str


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_crew_that_a_node_kicks_off_stands_below_the_node(attempts, script, tree, captured_once, chat_model, asynchronous):
    script["answer"] = answer
    team = crew_with()

    def write(state):
        return {"said": team.kickoff().raw}

    async def awrite(state):
        return {"said": (await team.akickoff()).raw}

    def review(state):
        return {"said": chat_model.invoke(state["said"]).content}

    graph = StateGraph(State).add_node("write", awrite if asynchronous else write).add_node("review", review)
    output, attempt = await attempts.run(
        graph.add_edge(START, "write").add_edge("write", "review").compile(name="paper"), {"topic": "cats"}
    )
    assert output["said"] == "ok"
    team_tree = ["crew", ["solve", ["solver", ["chat users-model"]]]]
    assert tree(attempt) == [["paper", ["write", team_tree], ["review", ["ChatOpenAI"]]]]
    assert attempts.roles() == ["write/crew/solver", "review"]
    captured_once(attempts, attempt)


def test_a_trainer_finds_both_plugins_and_learns_from_each_call_once(crew, tmp_path):
    with ScriptedServer(answer) as server:
        trainer = agl.Trainer(store=tmp_path / "store.sqlite", initial_resources={"main_llm": server.llm()}, max_attempts=1)
        (result,) = trainer.dev(agl.agent(crew, input=lambda task: {}, reward=lambda task, output: 1.0), [{"question": "?"}])
        assert len(server.requests) == len(ROLES)
    assert [item.role for item in result.transitions] == ROLES
    names = {span.span_id: span.name for span in result.spans}
    below = [names[span.parent_id] for span in result.spans if span.kind == SpanKind.LLM]
    assert below == ["chat users-model", "ChatOpenAI", "ChatOpenAI", "chat users-model"]
