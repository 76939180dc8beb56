"""What the tests of the CrewAI plugin share: a scripted model, hand-made attempts, and their spans as a tree.

They run in the plugin's own environment (`make test-plugins`), which fails when it runs none of them.
"""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt, ContextExecutor
from agl.resources import LLM, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl.testing import ScriptedServer

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")  # read when the framework is imported
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

pytest.importorskip("crewai", reason="CrewAI is not installed here: `make test-plugins` runs these")

import crewai
from crewai.tools import tool

import agl
from agl_crewai import plugin


class Attempts:
    """Makes attempts whose model is the scripted server, and keeps what they recorded."""

    def __init__(self, server):
        self.server = server

    @contextlib.contextmanager
    def inside(self, number=0, roles=None, **prompts):
        """An attempt as a runner enters it; closed at the end."""
        attempt = self.make(number, roles, **prompts)
        with context.entered(attempt), plugin.agl_trace_rollout(attempt):
            openai_sdk.agl_inject_resources(attempt)
            yield attempt
        attempt.close()

    def make(self, number=0, roles=None, **prompts):
        attempt = Attempt(attempt_id=f"at{number}", rollout_id=f"ro{number}", number=1, worker_id="w")
        rollout = Rollout(rollout_id=f"ro{number}", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
        llm = LLM(endpoint=self.server.base_url(f"/r/ro{number}/at{number}"), model="trained", api_key=f"key{number}")
        return ActiveAttempt(rollout, Resources(version=1, values={"main_llm": llm, **prompts}), Roles(roles=roles))

    async def run(self, agent, given=None, number=0, **options):
        """Run a crew, a flow or an agent as AGL does; gives its output and the attempt."""
        asyncio.get_running_loop().set_default_executor(ContextExecutor())
        adapter = plugin.agl_adapt_agent(agent)
        with self.inside(number, **options) as attempt:
            return await adapter.run(given, attempt.resources, attempt.rollout), attempt

    def roles(self, number=None):
        """The roles that the calls came with, in order."""
        here = "/r/" if number is None else f"/r/ro{number}/"
        return [call.headers.get("x-agl-role") for call in self.server.requests if call.path.startswith(here)]


def spans_of(attempt):
    return sorted(attempt.close()[0], key=lambda span: span.started_at)


def tree_of(attempt):
    """Spans as nested lists `[name, children...]`, after a check that nothing is an orphan."""
    spans = spans_of(attempt)
    known = {span.span_id for span in spans} | {attempt.root_id}
    assert len(known) == len(spans) + 1
    assert [span.name for span in spans if span.parent_id not in known] == []

    def below(span_id):
        return [[span.name, *below(span.span_id)] for span in spans if span.parent_id == span_id]

    return below(attempt.root_id)


@pytest.fixture
def spans():
    return spans_of


@pytest.fixture
def tree():
    return tree_of


@pytest.fixture
def script():
    """The scripted model: it says `ok`, or what a test puts in its place."""
    return {"answer": lambda body: "ok"}


@pytest.fixture
def attempts(script):
    with ScriptedServer(lambda body: script["answer"](body)) as server:
        yield Attempts(server)
    plugin.uninstall()
    openai_sdk.uninstall()


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
