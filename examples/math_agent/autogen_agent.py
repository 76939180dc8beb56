"""The math agent in AutoGen: an `AssistantAgent` with one tool. Nothing here knows of training.

OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/math_agent/autogen_agent.py
"""

from __future__ import annotations

import asyncio
import os

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from calculator import calculate

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
INFO = ModelInfo(vision=False, function_calling=True, json_output=False, family=ModelFamily.UNKNOWN, structured_output=False)


async def calculator(expression: str) -> str:
    """Compute an arithmetic expression."""
    return calculate(expression)


agent = AssistantAgent(
    name="solver",
    model_client=OpenAIChatCompletionClient(model=MODEL, model_info=INFO, api_key=os.environ.get("OPENAI_API_KEY", "none")),
    tools=[calculator],
    system_message="Solve the problem with the calculator. End with: The answer is N",
    max_tool_iterations=5,
)


async def main() -> None:
    """Solves one problem."""
    result = await agent.run(task="Ann has 34 apples and buys 27 more. How many apples does she have?")
    print(result.messages[-1].to_text())


if __name__ == "__main__":
    asyncio.run(main())
