"""What the tests of the AutoGen plugin share: a scripted model, hand-made attempts, and their spans as a tree."""

import asyncio
import contextlib

import pytest
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt, ContextExecutor
from agl.resources import LLM, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl.testing import ScriptedServer
from agl_autogen import plugin

INFO = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}


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

    async def run(self, member, task="the task", number=0, **given):
        """Run an agent or a team as AGL does; gives its output and the attempt."""
        adapter = plugin.agl_adapt_agent(member)
        with self.inside(number, **given) as attempt:
            return await adapter.run(task, attempt.resources, attempt.rollout), attempt

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


@pytest.fixture(autouse=True)
def originals():
    """Each test starts from the libraries' own methods."""
    yield
    plugin.uninstall()
    openai_sdk.uninstall()


def make_client(base_url="http://127.0.0.1:9/v1", **options):
    return OpenAIChatCompletionClient(model="users-model", base_url=base_url, api_key="users-key", model_info=INFO, **options)


@pytest.fixture
async def client():
    """Makes the user's model clients, whose endpoint does not exist unless a test names one; in a loop as AGL's own is."""
    asyncio.get_running_loop().set_default_executor(ContextExecutor())
    made = []

    def make(*args, **options):
        made.append(make_client(*args, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def plain_client():
    """The same for tests that start no loop of their own; a client that nobody has asked anything holds no connection."""
    return make_client
