"""The four agents as AGL takes them: what each may see of a task, and where its answer is found. Each framework is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import agl
from problems import judge

MOST_CALLS = 5
"""Calls of the model in one rollout, where a framework has no limit of its own or a large one."""


def langgraph() -> agl.AgentSpec:
    """`create_agent`."""
    from langgraph_agent import agent

    return agl.agent(
        agent.with_config(recursion_limit=2 * MOST_CALLS + 1),
        input=lambda task: {"messages": [("user", task["question"])]},
        output=lambda state: state["messages"][-1].text,
        reward=judge,
        name="math_agent",
    )


def autogen() -> agl.AgentSpec:
    """`AssistantAgent`."""
    from autogen_agent import agent

    return agl.agent(
        agent,
        input=lambda task: task["question"],
        output=lambda result: result.messages[-1].to_text(),
        reward=judge,
        name="math_agent",
    )


def crewai() -> agl.AgentSpec:
    """`Crew`."""
    from crewai_agent import crew

    return agl.agent(crew, input=lambda task: {"question": task["question"]}, output=str, reward=judge, name="math_agent")


def openai_agents() -> agl.AgentSpec:
    """`agents.Agent`."""
    from openai_agents_agent import agent

    return agl.agent(
        agent,
        input=lambda task: {"input": task["question"], "max_turns": MOST_CALLS},
        output=lambda result: result.final_output,
        reward=judge,
        name="math_agent",
    )


FRAMEWORKS: dict[str, Callable[[], agl.AgentSpec]] = {
    "langgraph": langgraph,
    "autogen": autogen,
    "crewai": crewai,
    "openai_agents": openai_agents,
}
