"""The math agent in LangGraph: `create_agent` with one tool. Nothing here knows of training.

OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/math_agent/langgraph_agent.py
"""

from __future__ import annotations

import os

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from calculator import calculate

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


@tool
def calculator(expression: str) -> str:
    """Compute an arithmetic expression."""
    return calculate(expression)


agent = create_agent(
    ChatOpenAI(model=MODEL, api_key=os.environ.get("OPENAI_API_KEY", "none")),
    tools=[calculator],
    system_prompt="Solve the problem with the calculator. End with: The answer is N",
    name="solver",
)


if __name__ == "__main__":
    state = agent.invoke({"messages": [("user", "Ann has 34 apples and buys 27 more. How many apples does she have?")]})
    print(state["messages"][-1].text)
