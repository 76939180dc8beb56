"""The math agent in CrewAI: a crew of one agent with one tool. Nothing here knows of training.

OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/math_agent/crewai_agent.py
"""

from __future__ import annotations

import os

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from calculator import calculate

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


@tool("calculator")
def calculator(expression: str) -> str:
    """Compute an arithmetic expression."""
    return calculate(expression)


solver = Agent(
    role="solver",
    goal="Solve the problem with the calculator.",
    backstory="You are good at math.",
    tools=[calculator],
    llm=LLM(model=f"openai/{MODEL}", api_key=os.environ.get("OPENAI_API_KEY", "none")),
    max_iter=5,
)
task = Task(name="solve", description="{question}", expected_output="The answer is N", agent=solver)
crew = Crew(name="math", agents=[solver], tasks=[task])


if __name__ == "__main__":
    print(crew.kickoff({"question": "Ann has 34 apples and buys 27 more. How many apples does she have?"}))
