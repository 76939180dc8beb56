"""The plugin as a part of a process: what it takes, what it changes, and what it leaves as it is."""

import subprocess
import sys

import agents
import pytest
from agents import Agent, RunConfig, Runner, custom_span, trace
from agents.realtime import RealtimeAgent
from agents.tracing import TracingProcessor, get_trace_provider
from agents.tracing.processors import BackendSpanExporter
from agents.tracing.provider import DefaultTraceProvider
from agents.tracing.spans import NoOpSpan
from agents.tracing.traces import NoOpTrace

from agl.errors import ConfigError, PluginError
from agl.gateway.wire import PLACEHOLDER_KEY
from agl.patching import Patch, Patches
from agl.spans import SpanKind
from agl_openai_agents import _patches, _processor, plugin


class Listener(TracingProcessor):
    """A processor of the user's own."""

    def __init__(self):
        self.ended = []

    def on_trace_start(self, trace):
        self.ended.append("trace")

    def on_trace_end(self, trace):
        pass

    def on_span_start(self, span):
        pass

    def on_span_end(self, span):
        self.ended.append(span.span_data.type)

    def shutdown(self):
        pass

    def force_flush(self):
        pass


@pytest.fixture
def listener():
    made = Listener()
    agents.set_trace_processors([made])
    yield made
    agents.set_trace_processors([])


def test_a_realtime_agent_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="the realtime agent `voice` speaks over a connection that lasts"):
        plugin.agl_adapt_agent(RealtimeAgent(name="voice"))


def test_objects_of_others_are_not_the_plugins():
    assert [plugin.agl_adapt_agent(value) for value in (object(), "agent", Agent, 1)] == [None] * 4


@pytest.mark.parametrize("task", [{"role": "user", "content": "hi"}, {"input": "hi", "turns": 3}, 5, {"context": 1}])
async def test_an_input_that_the_sdk_does_not_take_is_refused(attempts, task):
    with pytest.raises(ConfigError, match=r"Runner\.run"):
        await attempts.run(Agent("solver"), task)


async def test_a_mapping_holds_more_arguments_of_a_run(attempts):
    seen = []

    class Hooks(agents.RunHooks):
        async def on_llm_start(self, context, agent, *args):
            seen.append((context.context, agent.name))

    await attempts.run(Agent("solver"), {"input": [{"role": "user", "content": "hi"}], "context": 7, "hooks": Hooks(), "max_turns": 1})
    assert seen == [(7, "solver")]


async def test_listeners_of_the_users_own_go_on_hearing_everything(attempts, listener):
    await attempts.run(Agent("solver"))
    await Runner.run(Agent("solver"), "outside", run_config=RunConfig(model=agents.OpenAIChatCompletionsModel("m", local(attempts))))
    heard = [kind for kind in listener.ended if kind not in ("turn", "task")]
    assert heard == ["trace", "response", "agent", "trace", "generation", "agent"]


def local(attempts):
    import openai

    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    http = openai.DefaultAsyncHttpxClient(limits=limits, verify=False)
    return openai.AsyncOpenAI(base_url=attempts.server.base_url("/users"), api_key="k", http_client=http)


async def test_spans_are_recorded_also_when_user_code_replaces_all_listeners(attempts, tree):
    for number in range(2):
        agents.set_trace_processors([])
        _, attempt = await attempts.run(Agent("solver", model="m"), number=number)
        assert tree(attempt) == [["Agent workflow", ["solver", ["chat m"]]]]


async def test_one_listener_is_enough(attempts):
    for number in range(3):
        await attempts.run(Agent("solver"), number=number)
    known = get_trace_provider()._multi_processor._processors
    assert known.count(_processor.PROCESSOR) == 1
    plugin.uninstall()
    assert get_trace_provider()._multi_processor._processors == ()


async def test_a_provider_of_the_users_own_that_tells_nothing_is_told_once(attempts):
    class Mine(DefaultTraceProvider):
        def __init__(self):
            super().__init__()
            del self._multi_processor
            self.heard = []

        def register_processor(self, processor):
            self.heard.append(processor)

        def create_span(self, span_data, *args, **kwargs):
            return NoOpSpan(span_data)

        def create_trace(self, *args, **kwargs):
            return NoOpTrace()

    before, mine = get_trace_provider(), Mine()
    agents.tracing.set_trace_provider(mine)
    try:
        for number in range(2):
            await attempts.run(Agent("solver"), number=number)
        assert mine.heard == [_processor.PROCESSOR]
        assert attempts.roles(0) == ["solver"]
    finally:
        agents.tracing.set_trace_provider(before)


async def test_traces_and_spans_of_the_users_own_are_part_of_the_tree(attempts, tree, spans):
    with attempts.inside() as attempt, trace("whole"), custom_span("both", {"of": 2}):
        await Runner.run(Agent("one", model="m"), "hi", run_config=RunConfig(workflow_name="first"))
        await Runner.run(Agent("two", model="m"), "hi", run_config=RunConfig(workflow_name="second"))
    assert tree(attempt) == [["both", ["first", ["one", ["chat m"]]], ["second", ["two", ["chat m"]]]]]
    (both,) = [span for span in spans(attempt) if span.name == "both"]
    assert (both.kind, both.attributes["agl.data"]) == (SpanKind.OPERATION, {"data": {"of": 2}})


async def test_without_tracing_there_are_roles_and_a_span_for_each_run(attempts, tree, spans):
    agents.set_tracing_disabled(True)
    try:
        _, attempt = await attempts.run(Agent("solver"))
    finally:
        agents.set_tracing_disabled(False)
    assert (attempts.roles(), tree(attempt)) == (["solver"], [["Agent workflow"]])
    assert spans(attempt)[0].role == "solver"


async def test_what_traces_must_not_hold_is_in_no_span(attempts, spans):
    @agents.function_tool
    def unlock(code: str) -> str:
        """Opens it."""
        return "a secret"

    attempts.server.answer = ask_once("unlock", code="1234")
    with attempts.inside() as attempt:
        await Runner.run(Agent("solver", tools=[unlock]), "hi", run_config=RunConfig(trace_include_sensitive_data=False))
    (tool,) = [span for span in spans(attempt) if span.name == "unlock"]
    said = {"gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "agl.input", "agl.output"}
    assert all(said.isdisjoint(span.attributes) for span in spans(attempt))
    assert tool.attributes["gen_ai.tool.call.id"] == attempts.calls()[1].body["messages"][-1]["tool_call_id"]


def ask_once(name, **arguments):
    from agl.testing import Reply

    return [Reply(None, [(name, arguments)]), "ok"]


def test_no_trace_is_sent_with_the_key_that_stands_in_for_one(monkeypatch):
    sent = []
    monkeypatch.setattr(BackendSpanExporter, "_export_with_deadline", lambda self, items, deadline: sent.extend(items), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", PLACEHOLDER_KEY)
    exporter = BackendSpanExporter()
    exporter._client = type("Client", (), {"post": lambda self, **given: sent.append(given) or type("R", (), {"status_code": 200})()})()
    own, other = (
        type("Item", (), {"tracing_api_key": key, "export": lambda self: {"object": "trace"}})() for key in ("key-of-its-own", None)
    )
    _patches.PATCHES.apply()
    try:
        exporter.export([other])
        assert sent == []
        exporter.export([own, other])
        assert len(sent) == 1
        monkeypatch.setenv("OPENAI_API_KEY", "users-key")
        exporter.export([other])
        assert len(sent) == 2
    finally:
        plugin.uninstall()


def test_an_sdk_that_has_changed_is_named_with_what_is_gone():
    broken = Patches("openai_agents", [Patch("agents.run:AgentRunner.walk", "it runs", _patches.run)], supported=_patches.PATCHES.supported)
    with pytest.raises(PluginError, match=r"cannot patch openai-agents \d.*AgentRunner.walk.*pip install 'openai-agents>=0.20,<0.25'"):
        broken.check()


def test_a_run_configuration_that_has_changed_is_named(monkeypatch):
    monkeypatch.delitem(RunConfig.__dataclass_fields__, "call_model_input_filter")
    with pytest.raises(PluginError, match=r"`agents\.RunConfig` has no `call_model_input_filter` any more"):
        _patches.PATCHES.check()


PROBE = """
import importlib, sys, threading
sys.path.insert(0, sys.argv[1])
from agl_openai_agents import plugin
from agl import context
from agl.context import ActiveAttempt
from agl.resources import Resources
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task

assert "agents" not in sys.modules and "openai" not in sys.modules
attempt = Attempt(attempt_id="at", rollout_id="ro", number=1, worker_id="w")
rollout = Rollout(rollout_id="ro", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
active = ActiveAttempt(rollout, Resources(version=1, values={}))
with context.entered(active), plugin.agl_trace_rollout(active):
    assert "agents" not in sys.modules
    run = importlib.import_module("agents.run")
patched = hasattr(run, "AgentRunner") and hasattr(run.AgentRunner.run, "__wrapped__")
plugin.uninstall()
back = hasattr(run, "AgentRunner") and not hasattr(run.AgentRunner.run, "__wrapped__")
print(patched, back, len([finder for finder in sys.meta_path if type(finder).__module__.startswith("agl")]))
"""


def probe(folder):
    done = subprocess.run([sys.executable, "-c", PROBE, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_sdk_that_the_agent_imports_itself_is_patched_then_and_given_back(tmp_path):
    assert probe(tmp_path) == ["True", "True", "0"]


def test_a_package_of_the_users_own_with_the_same_name_is_left_alone(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    (tmp_path / "agents" / "run.py").write_text("def main():\n    pass\n")
    assert probe(tmp_path) == ["False", "False", "0"]
