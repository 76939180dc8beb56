"""What the tests of the LangGraph plugin share: a scripted model, hand-made attempts, and their spans as a tree."""

import contextlib

import openai
import pytest
from langchain_openai import ChatOpenAI

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt
from agl.resources import LLM, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl.testing.scripted import ScriptedServer
from agl_langgraph import plugin


class Attempts:
    """Makes attempts whose model is the scripted server, and keeps what they recorded."""

    def __init__(self, server):
        self.server = server

    @contextlib.contextmanager
    def inside(self, number=0, resources=(), roles=None):
        """An attempt as a runner enters it, with these resources beside its LLM; closed at the end."""
        attempt = self.make(number, dict(resources), roles)
        with context.entered(attempt), plugin.agl_trace_rollout(attempt):
            openai_sdk.agl_inject_resources(attempt)
            yield attempt
        attempt.close()

    def make(self, number=0, resources=(), roles=None):
        attempt = Attempt(attempt_id=f"at{number}", rollout_id=f"ro{number}", number=1, worker_id="w")
        rollout = Rollout(rollout_id=f"ro{number}", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
        llm = LLM(endpoint=self.server.base_url(f"/r/ro{number}/at{number}"), model="trained", api_key=f"key{number}")
        return ActiveAttempt(rollout, Resources(version=1, values={"main_llm": llm, **dict(resources)}), Roles(roles=roles))

    def roles(self, number=None):
        """What each call said (its last message) and the role it came with, sorted."""
        here = "/" if number is None else f"/r/ro{number}/"
        calls = [call for call in self.server.requests if call.path.startswith(here)]
        return sorted((call.body["messages"][-1]["content"], call.headers.get("x-agl-role")) for call in calls)

    def model_span_of(self, attempt, said):
        """The span that the call with this last message hangs under."""
        (call,) = [call for call in self.server.requests if call.body["messages"][-1]["content"] == said]
        return {span.span_id: span for span in spans_of(attempt)}[call.headers["traceparent"].split("-")[2]]


def spans_of(attempt):
    return sorted(attempt.close()[0], key=lambda span: span.started_at)


def tree_of(attempt):
    """Spans as nested lists `[name, children...]`, after a check that nothing is an orphan."""
    spans = spans_of(attempt)
    known = {span.span_id for span in spans} | {attempt.root_id}
    assert len(known) == len(spans) + 1
    assert [span.name for span in spans if span.parent_id not in known] == []
    assert {span.trace_id for span in spans} <= {attempt.trace_id}

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
    openai_sdk.uninstall()


@pytest.fixture
def model(monkeypatch):
    """The user's model; its own endpoint does not exist.

    It keeps no connection: LangChain shares HTTP clients between models, and each test has an event loop of its own.
    """
    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    clients = {"http_client": openai.DefaultHttpxClient(limits=limits), "http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
    yield ChatOpenAI(model="users-model", base_url="http://127.0.0.1:9/v1", max_retries=0, **clients)
    clients["http_client"].close()
