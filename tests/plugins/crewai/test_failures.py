"""What becomes of failing endpoints, stops and time-outs; and what the framework may not do inside an attempt."""

import asyncio
import time

import httpx
import openai
import pytest
from crewai import Crew, Task
from crewai.flow import Flow, start
from crewai.hooks import HookAborted
from crewai.telemetry.telemetry import Telemetry

import agl
from agl.errors import PluginError
from agl.patching import Patch, Patches
from agl.rollouts import Failure
from agl.spans import SpanStatus
from agl.testing import Reply, ScriptedServer
from agl_crewai import _patches, plugin

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def crew_of(agent, **options):
    return Crew(agents=[agent], tasks=[Task(description="x", expected_output="y", agent=agent)], **options)


@pytest.mark.parametrize("kind", ["crew", "agent", "flow", "function"])
async def test_one_call_that_is_refused_with_429_makes_the_sdks_three_requests_and_no_more(attempts, member, script, kind):
    class OneCrew(Flow):
        @start()
        async def begin(self):
            return await crew_of(member("solver")).akickoff()

    async def in_a_function():
        with attempts.inside():
            await crew_of(member("solver")).akickoff()

    works = {
        "crew": lambda: attempts.run(crew_of(member("solver")), {}),
        "agent": lambda: attempts.run(member("solver"), "go"),
        "flow": lambda: attempts.run(OneCrew, {}),
        "function": in_a_function,
    }
    script["answer"] = lambda body: Reply("slow down", status=429, headers={"retry-after-ms": "1"})
    with pytest.raises(Exception, match="slow down"):
        await works[kind]()
    assert len(attempts.server.requests) == 3
    assert len({call.headers["x-agl-call"] for call in attempts.server.requests}) == 1


def test_an_agent_still_tries_again_after_a_failure_that_is_not_the_models(attempts, member):
    agent = member("solver", max_retry_limit=1)
    task = Task(description="x", expected_output="y", agent=agent)
    with attempts.inside():
        with pytest.raises(ConnectionError):
            agent._check_execution_error(of_the_sdk(), task)
        agent._check_execution_error(ValueError("its own"), task)
        with pytest.raises(ValueError, match="its own"):
            agent._check_execution_error(ValueError("its own"), task)


def of_the_sdk():
    """A lost connection as the framework tells of it."""
    request = httpx.Request("POST", "http://127.0.0.1:9/v1")
    lost = ConnectionError("Failed to connect to OpenAI API")
    lost.__cause__ = openai.APIConnectionError(request=request)
    return lost


async def test_spans_around_a_failed_call_say_so_and_none_stays_open(attempts, member, script, spans):
    script["answer"] = lambda body: Reply("refused", status=400)
    with attempts.inside() as attempt:
        adapter = plugin.agl_adapt_agent(crew_of(member("solver")))
        with pytest.raises(Exception, match="refused"):
            await adapter.run({}, attempt.resources, attempt.rollout)
    found = {span.name: span for span in spans(attempt)}
    assert set(found) == {"crew", "task", "solver", "chat users-model"}
    assert {span.status for span in found.values()} == {SpanStatus.ERROR}
    assert all("refused" in span.error for span in found.values())


def trained(agent, server, tmp_path, **options):
    """Try an agent in a real Trainer; gives the only result."""
    llm = agl.LLM(endpoint=server.base_url(), model="trained", api_key="upstream", version="1")
    options = {"initial_resources": {"main_llm": llm}, "max_attempts": 1, "timeout": 20} | options
    trainer = agl.Trainer(store=tmp_path / "store.sqlite", **options)
    spec = agl.agent(agent, input=lambda task: {"topic": task["question"]}, output=str, reward=lambda task, output: 1.0)
    return trainer.dev(spec, [{"question": "sums"}])[0]


def test_a_dead_endpoint_is_an_infrastructure_failure_though_the_framework_tells_it_as_pythons_own(tmp_path, member):
    with ScriptedServer() as server:
        result = trained(crew_of(member("solver")), server, tmp_path, roles={"solver": "original"})
    assert result.failure == Failure.INFRASTRUCTURE
    assert "ConnectionError: Failed to connect" in result.rollout.attempt.error


def test_an_endpoint_that_breaks_down_is_an_infrastructure_failure(tmp_path, member):
    with ScriptedServer(lambda body: Reply("down", status=503, headers={"retry-after-ms": "1"})) as server:
        result = trained(crew_of(member("solver")), server, tmp_path)
    assert result.failure == Failure.INFRASTRUCTURE


def test_a_refusal_of_what_the_agent_says_is_the_agents_failure(tmp_path, member):
    with ScriptedServer(lambda body: Reply("too long", status=400)) as server:
        result = trained(crew_of(member("solver")), server, tmp_path)
    assert result.failure == Failure.AGENT
    assert "too long" in result.rollout.attempt.error


def test_the_agents_own_time_limit_is_its_failure(tmp_path, member):
    with ScriptedServer(lambda body: Reply("late", delay=3)) as server:
        result = trained(crew_of(member("solver", max_execution_time=1)), server, tmp_path)
    assert result.failure == Failure.AGENT
    assert "timed out after 1 seconds" in result.rollout.attempt.error


def test_at_the_attempts_deadline_its_call_is_given_up_and_no_other_is_made(tmp_path, team):
    with ScriptedServer(lambda body: Reply("late", delay=30)) as server:
        started = time.perf_counter()
        result = trained(team(), server, tmp_path, timeout=1.5)
        seconds = time.perf_counter() - started
        until = time.monotonic() + 5
        while not server.abandoned and time.monotonic() < until:
            time.sleep(0.01)
        assert len(server.abandoned) == len(server.requests) == 1
    assert result.failure == Failure.TIMEOUT
    assert seconds < 15


async def test_what_goes_on_in_a_thread_of_a_stopped_attempt_ends_at_its_next_step(attempts, team, script):
    script["answer"] = lambda body: Reply("late", delay=0.5)
    ended = []

    class Slow(Flow):
        @start()
        def begin(self):
            try:
                team().kickoff({"topic": "sums"})
            except BaseException as error:
                ended.append(error)
                raise

    work = asyncio.ensure_future(attempts.run(Slow, None))
    while not attempts.server.requests:
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    while not ended:
        await asyncio.sleep(0.01)
    assert isinstance(ended[0], HookAborted)
    assert len(attempts.server.requests) == 1


def test_telemetry_is_off_inside_an_attempt_unless_the_user_has_switched_it_on(attempts, monkeypatch):
    telemetry = Telemetry()
    monkeypatch.setattr(telemetry, "ready", True)
    monkeypatch.delenv("CREWAI_DISABLE_TELEMETRY", raising=False)
    with attempts.inside():
        assert telemetry._should_execute_telemetry() is False
        monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "false")
        assert telemetry._should_execute_telemetry() is True
    monkeypatch.delenv("CREWAI_DISABLE_TELEMETRY")
    assert telemetry._should_execute_telemetry() is True


def test_a_users_first_run_is_not_collected_when_it_is_an_attempt(attempts, monkeypatch):
    from crewai.events.listeners.tracing import utils

    token = utils._first_time_trace_hook.set(lambda: True)
    try:
        with attempts.inside():
            assert utils.should_auto_collect_first_time_traces() is False
        assert utils.should_auto_collect_first_time_traces() is True
    finally:
        utils._first_time_trace_hook.reset(token)


async def test_prompts_are_not_sent_to_openai_to_be_counted(attempts, member, monkeypatch, no_network):
    import crewai

    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    await attempts.run(member("solver", crewai.LLM(model="openai/gpt-4o-mini")), "go")
    assert len(attempts.server.requests) == 1
    assert no_network == []


@pytest.mark.parametrize("patch", _patches.PATCHES.table, ids=lambda patch: patch.target.rpartition(":")[2])
def test_a_target_that_is_no_longer_what_it_was_is_named_with_the_versions_that_fit(patch):
    gone = Patch(patch.target + "_of_old", patch.why, patch.replacement, patch.parameters)
    with pytest.raises(PluginError, match=r"cannot patch .*_of_old.* is gone: .*pip install 'crewai>="):
        Patches("crewai", [gone], supported=_patches.PATCHES.supported).apply()
