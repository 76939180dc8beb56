"""What the tests of the OpenAI Agents SDK plugin share: a scripted model, hand-made attempts, and their spans as a tree.

They run in the plugin's own environment: `make test-plugins PLUGINS=openai_agents`.
"""

import contextlib

import agents
import openai
import pytest

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt
from agl.resources import LLM, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl.testing import ScriptedServer
from agl_openai_agents import plugin

agents.set_trace_processors([])  # nothing is sent to OpenAI; as a user does it


class Attempts:
    """Makes attempts whose model is the scripted server, and keeps what they recorded."""

    def __init__(self, server):
        self.server = server

    @contextlib.contextmanager
    def inside(self, number=0, roles=None, **given):
        """An attempt as a runner enters it; closed at the end."""
        attempt = self.make(number, roles, **given)
        with context.entered(attempt), plugin.agl_trace_rollout(attempt):
            openai_sdk.agl_inject_resources(attempt)
            yield attempt
        attempt.close()

    def make(self, number=0, roles=None, llm=True, **prompts):
        attempt = Attempt(attempt_id=f"at{number}", rollout_id=f"ro{number}", number=1, worker_id="w")
        rollout = Rollout(rollout_id=f"ro{number}", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
        model = LLM(endpoint=self.server.base_url(f"/r/ro{number}/at{number}"), model="trained", api_key=f"key{number}")
        values = {"main_llm": model} if llm else {}
        return ActiveAttempt(rollout, Resources(version=1, values={**values, **prompts}), Roles(roles=roles))

    async def run(self, agent, task="the task", number=0, **given):
        """Run an agent as AGL does; gives its result and the attempt."""
        adapter = plugin.agl_adapt_agent(agent)
        with self.inside(number, **given) as attempt:
            return await adapter.run(task, attempt.resources, attempt.rollout), attempt

    def calls(self, number=0):
        """What came to an attempt's endpoint."""
        return [call for call in self.server.requests if call.path.startswith(f"/r/ro{number}/")]

    def roles(self, number=0):
        """The roles that the calls of an attempt came with, in order."""
        return [call.headers.get("x-agl-role") for call in self.calls(number)]


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
def attempts(script, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ScriptedServer(lambda body: script["answer"](body)) as server:
        yield Attempts(server)
    plugin.uninstall()
    openai_sdk.uninstall()


@pytest.fixture
async def client():
    """Makes the user's clients; their endpoint does not exist unless a test names one. They keep no connections."""
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    made = []

    def make(base_url="http://127.0.0.1:9/v1", **options):
        http = openai.DefaultAsyncHttpxClient(limits=limits, verify=False)
        made.append(openai.AsyncOpenAI(base_url=base_url, api_key="users-key", http_client=http, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
