"""The math agent in the OpenAI Agents SDK: an `Agent` with one function tool. Nothing here knows of training.

OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/math_agent/openai_agents_agent.py
"""

from __future__ import annotations

import os

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI

from calculator import calculate

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


@function_tool
def calculator(expression: str) -> str:
    """Compute an arithmetic expression."""
    return calculate(expression)


agent = Agent(
    name="solver",
    instructions="Solve the problem with the calculator. End with: The answer is N",
    tools=[calculator],
    model=OpenAIChatCompletionsModel(model=MODEL, openai_client=AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none"))),
)


if __name__ == "__main__":
    print(Runner.run_sync(agent, "Ann has 34 apples and buys 27 more. How many apples does she have?", max_turns=5).final_output)
