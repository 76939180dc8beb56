"""What the tests of the CrewAI plugin share: the user's models, agents and crews.

They run in the plugin's own environment (`make test-plugins`), which fails when it runs none of them.
"""

from pathlib import Path

import pytest

pytest.importorskip("crewai", reason="CrewAI is not installed here: `make test-plugins` runs these")

import crewai
from crewai.tools import tool

import agl
from agl_crewai import plugin


@pytest.fixture
def attempts(attempts_of):
    return attempts_of(plugin)


@pytest.fixture
def model():
    """Makes the user's models, whose endpoint does not exist unless a test names one."""

    def make(base_url="http://127.0.0.1:9/v1", **options):
        return crewai.LLM(model="openai/users-model", base_url=base_url, api_key="users-key", **options)

    return make


@pytest.fixture
def member(model):
    """Makes agents."""

    def make(role, llm=None, **options):
        return crewai.Agent(role=role, goal=f"GOAL of {role}", backstory=f"STORY of {role}", llm=llm or model(), **options)

    return make


@pytest.fixture
def add():
    """A tool that rewards the call that asked for it."""

    @tool("add")
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        agl.emit_reward(a + b, "sum")
        return a + b

    return add


@pytest.fixture
def team(member, add):
    """Makes a crew of a solver with a tool and a critic, each with a task."""

    def make(llm=None, **options):
        solver, critic = member("Solver of {topic}", llm, tools=[add]), member("Critic", llm)
        solve = crewai.Task(name="solve", description="Solve {topic}", expected_output="A number", agent=solver)
        judge = crewai.Task(name="judge", description="Judge it", expected_output="A word", agent=critic)
        return crewai.Crew(agents=[solver, critic], tasks=[solve, judge], **options)

    return make


def pytest_collection_modifyitems(items):
    """CrewAI warns of its own deprecated fields whenever it makes an agent."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai"))
