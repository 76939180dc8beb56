"""The LangGraph plugin, with real graphs, passes the kit for framework plugins."""

import operator
from typing import Annotated, Any, TypedDict

import openai
from langchain.agents import create_agent
from langchain_core.messages import AnyMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition

from agl.testing import FrameworkConformance


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[str], operator.add]


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def chat(llm, **options):
    """The user's model. It shares no client with other tests: LangChain keeps those, and each has an event loop of its own."""
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    clients = {"http_client": openai.DefaultHttpxClient(limits=limits), "http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
    return ChatOpenAI(base_url=llm.base_url, api_key=llm.api_key, model=llm.model, **clients, **options)


class LangGraph(FrameworkConformance):
    """What every kind of graph shares."""

    plugin = "agl_langgraph.plugin"
    frameworks = ("langgraph", "langchain_core")
    entry_point = "langgraph"
    records_spans = True
    retries = True

    def make_input(self, text: str) -> Any:
        return {"messages": [("user", text)]}

    def output_text(self, output: Any) -> str:
        return output["messages"][-1].text


class TestToolAgent(LangGraph):
    """A model that streams and calls a tool, in two nodes."""

    roles = ("think", "think")
    calls_tools = ("add", {"a": 1, "b": 2})
    streams = True

    def make_agent(self, llm):
        model = chat(llm, streaming=True).bind_tools([add])

        async def think(state):
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(State).add_node(think).add_node("tools", ToolNode([add])).add_edge(START, "think")
        return graph.add_conditional_edges("think", tools_condition).add_edge("tools", "think").compile(name="solver")


class TestCreateAgent(LangGraph):
    """LangChain's own agent, whose prompts are known before it runs."""

    roles = ("solver", "solver")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = ("solver.system_prompt", "solver.tools.add.description")

    def make_agent(self, llm):
        return create_agent(chat(llm), [add], system_prompt="You add.", name="solver")


class TestNestedAndParallelGraphs(LangGraph):
    """Two nodes at the same time, one of them a graph of its own, and a third that reads what they wrote."""

    roles = ("search/look", "plan", "write")

    def make_agent(self, llm):
        model = chat(llm)

        async def ask(state):
            return {"notes": [(await model.ainvoke(state["messages"])).text]}

        async def write(state):
            told = [("user", f"{state['messages'][0].text}: {sorted(state['notes'])}")]
            return {"messages": [await model.ainvoke(told)]}

        inner = StateGraph(State).add_node("look", ask).add_edge(START, "look").compile()
        graph = StateGraph(State).add_node("search", inner).add_node("plan", ask).add_node(write)
        graph.add_edge(START, "search").add_edge(START, "plan")
        return graph.add_edge(["search", "plan"], "write").compile(name="team")


class TestBlockingGraph(LangGraph):
    """A graph whose node blocks, called by blocking code."""

    roles = ("answer",)
    expected_failures = {"test_a_stopped_rollout_stops_its_work": "a node that blocks runs in a thread, which cannot be stopped"}

    def make_agent(self, llm):
        model = chat(llm)

        def answer(state):
            return {"messages": [model.invoke(state["messages"])]}

        return StateGraph(State).add_node(answer).add_edge(START, "answer").compile()

    def run_sync(self, agent, given):
        return agent.invoke(given)


del LangGraph
