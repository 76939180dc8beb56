"""What the tests of all plugins share: which are collected, a scripted model, hand-made attempts, and their spans as a tree.

Tests of a plugin are collected where its frameworks are installed, those of a folder `x-and-y` where those of both are.
`make test-plugins` runs each folder in an environment of its own and names it in `AGL_TEST_PLUGIN`. Then it is collected in any
case, and a run without a passed test fails: a skip cannot hide that nothing is tested.
"""

import asyncio
import contextlib
import importlib.metadata
import os
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web
from packaging.requirements import Requirement

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt, ContextExecutor
from agl.gateway.dialects.responses import Responses
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem
from agl.resources import LLM, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.spans import SpanKind
from agl.tasks import Task
from agl.testing import ScriptedServer
from agl.testing.scripted import Recorded

# CrewAI reads these when it is imported.
os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # what several folders share: `math_agent_checks`, `nested_checks`
REQUIRED = os.environ.get("AGL_TEST_PLUGIN", "")


def missing(folder):
    """What the extras `instruments` of a folder's plugins ask for and this environment does not have."""
    about = [tomllib.loads(path.read_text())["project"] for path in plugins_of(folder)]
    needed = [text for each in about for text in (each["name"], *each["optional-dependencies"]["instruments"])]
    return [text for text in needed if not is_installed(Requirement(text))]


def plugins_of(folder):
    return [ROOT / "plugins" / plugin / "pyproject.toml" for plugin in folder.split("-and-")]


def is_installed(requirement):
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def folders():
    return sorted(path.name for path in HERE.iterdir() if all(about.exists() for about in plugins_of(path.name)))


LEFT_OUT = {folder: lacks for folder in folders() if folder != REQUIRED and (lacks := missing(folder))}


def pytest_ignore_collect(collection_path):
    return True if collection_path.parent == HERE and collection_path.name in LEFT_OUT else None


def pytest_terminal_summary(terminalreporter):
    for folder, lacks in ({} if REQUIRED else LEFT_OUT).items():
        terminalreporter.write_line(f"tests/plugins/{folder} is not collected here: not installed are {lacks}; `make test-plugins` runs it")


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if REQUIRED and reporter is not None and not session.config.option.collectonly and not reporter.stats.get("passed"):
        reporter.write_line(f"no test of `{REQUIRED}` has passed in its own environment", red=True)
        session.exitstatus = session.exitstatus or 1


class Endpoint(ScriptedServer):
    """The scripted model behind what the gateway does with Responses: scripts and tests see chat completions, whichever API is asked."""

    async def _handle(self, request):
        if not (request.path.endswith("/responses") and request.path.startswith("/r/")):
            return await super()._handle(request)
        dialect, headers = Responses(), {name.lower(): value for name, value in request.headers.items()}
        try:
            chat = dialect.read(await request.json(), Memory()).chat
        except Problem as problem:
            return web.json_response(dialect.error(problem), status=problem.status)
        recorded = Recorded(request.path, headers, chat, time.time())
        self.requests.append(recorded)
        try:
            return await self._answer(request, chat, len(self.requests))
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned.append(recorded)
            raise asyncio.CancelledError from None


class Attempts:
    """Makes attempts whose model is the scripted server, for plugins that record what happens in them."""

    def __init__(self, server, *plugins):
        self.server, self.plugins = server, plugins

    @contextlib.contextmanager
    def inside(self, number=0, roles=None, **given):
        """An attempt as a runner enters it; closed at the end."""
        attempt = self.make(number, roles, **given)
        with context.entered(attempt), contextlib.ExitStack() as opened:
            for plugin in self.plugins:
                opened.enter_context(plugin.agl_trace_rollout(attempt))
            openai_sdk.agl_inject_resources(attempt)
            yield attempt
        attempt.close()

    def make(self, number=0, roles=None, llm=True, **resources):
        attempt = Attempt(attempt_id=f"at{number}", rollout_id=f"ro{number}", number=1, worker_id="w")
        rollout = Rollout(rollout_id=f"ro{number}", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
        model = LLM(endpoint=self.server.base_url(f"/r/ro{number}/at{number}"), model="trained", api_key=f"key{number}")
        values = {"main_llm": model} if llm else {}
        return ActiveAttempt(rollout, Resources(version=1, values={**values, **resources}), Roles(roles=roles))

    async def run(self, agent, task="the task", number=0, **given):
        """Run an agent as AGL does, in a loop such as AGL's own; gives its output and the attempt."""
        keep_context_in_threads()
        adapter = next(filter(None, (plugin.agl_adapt_agent(agent) for plugin in self.plugins)))
        with self.inside(number, **given) as attempt:
            return await adapter.run(task, attempt.resources, attempt.rollout), attempt

    def calls(self, number=None):
        """What came to an attempt's endpoint, or to those of all."""
        here = "/r/" if number is None else f"/r/ro{number}/"
        return [call for call in self.server.requests if call.path.startswith(here)]

    def roles(self, number=None):
        """The roles that the calls came with, in order."""
        return [call.headers.get("x-agl-role") for call in self.calls(number)]

    def said(self, number=None):
        """What each call said (its last message) and the role it came with, sorted."""
        return sorted((call.body["messages"][-1]["content"], call.headers.get("x-agl-role")) for call in self.calls(number))

    def parent_of(self, attempt, said):
        """The span that the call with this last message hangs under."""
        (call,) = [call for call in self.calls() if call.body["messages"][-1]["content"] == said]
        return {span.span_id: span for span in spans_of(attempt)}[call.headers["traceparent"].split("-")[2]]


def keep_context_in_threads():
    loop = asyncio.get_running_loop()
    if not isinstance(getattr(loop, "_default_executor", None), ContextExecutor):
        loop.set_default_executor(ContextExecutor())


def captured_once_of(attempts, attempt, without=()):
    """Check that every call was made once, under a span of its own.

    Args:
        attempts: that the attempt is one of.
        attempt: in which all calls were made.
        without: names of agents whose calls have no model span around them, and how many each makes.
    """
    made = [call.headers["x-agl-call"] for call in attempts.calls()]
    assert len(made) == len(set(made))
    spans = {span.span_id: span for span in spans_of(attempt)}
    above = [spans[call.headers["traceparent"].split("-")[2]] for call in attempts.calls()]
    direct = Counter(span.name for span in above if span.kind != SpanKind.MODEL)
    assert direct == Counter(dict(without))
    models = [span.span_id for span in spans.values() if span.kind == SpanKind.MODEL]
    assert sorted(span.span_id for span in above if span.kind == SpanKind.MODEL) == sorted(models)


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
def captured_once():
    return captured_once_of


@pytest.fixture
def chat_model(monkeypatch):
    """LangChain's model, as users have it; its own endpoint does not exist.

    It keeps no connection: LangChain shares HTTP clients between models, and each test has an event loop of its own.
    """
    import openai
    from langchain_openai import ChatOpenAI

    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    clients = {"http_client": openai.DefaultHttpxClient(limits=limits), "http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
    yield ChatOpenAI(model="users-model", base_url="http://127.0.0.1:9/v1", max_retries=0, **clients)
    clients["http_client"].close()


@pytest.fixture
def script():
    """The scripted model: it says `ok`, or what a test puts in its place."""
    return {"answer": lambda body: "ok"}


@pytest.fixture
def attempts_of(script):
    """Makes `Attempts` of these plugins; afterwards the libraries have their own methods back."""
    used = []

    def make(*plugins):
        used.extend(plugins)
        return Attempts(server, *plugins)

    with Endpoint(lambda body: script["answer"](body)) as server:
        yield make
    for plugin in used:
        plugin.uninstall()
    openai_sdk.uninstall()
