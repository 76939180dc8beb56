"""Runners keep attempts apart, class every failure, and outlive whatever an agent does."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import openai
import pytest

import agl
from agl import runner as module
from agl.context import ContextExecutor
from agl.errors import ConfigError, PluginError
from agl.gateway.server import Gateway
from agl.plugins import Plugins
from agl.rewards import Reward
from agl.rollouts import AttemptStatus, Failure, RolloutStatus
from agl.runner import BoundAgent, ThreadExecutor
from agl.testing.scripted import Reply, ScriptedServer

RUN = "run"


class Bench:
    """A store, a gateway and runners."""

    def __init__(self, store, gateway, make_rollout):
        self.store, self.gateway, self._make_rollout = store, gateway, make_rollout
        self.version = 0

    def make_rollout(self, task=None, **values):
        return self._make_rollout(task, resources_version=self.version, **values)

    @contextlib.asynccontextmanager
    async def working(self, agent, *, plugins=(), n_runners=8, **values):
        plugins = Plugins(plugins)
        executor = ThreadExecutor(
            run_id=RUN,
            agent=BoundAgent(agent, plugins),
            store=self.store,
            gateway=self.gateway,
            plugins=plugins,
            n_runners=n_runners,
            **values,
        )
        work = asyncio.ensure_future(executor.run())
        try:
            yield work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def run(self, agent, tasks=({"q": "?"},), *, plugins=(), n_runners=8, failure_reward=0.0, **values):
        rollouts = [self.make_rollout(task, **values) for task in tasks]
        await self.store.enqueue(rollouts)
        ids = [rollout.rollout_id for rollout in rollouts]
        async with self.working(agent, plugins=plugins, n_runners=n_runners, failure_reward=failure_reward) as work:
            while await self.store.wait_ended(ids, timeout=1.0) and not work.done():
                pass
            if work.done():
                work.result()
        return await self.store.results(ids)

    async def one(self, agent, **values):
        (result,) = await self.run(agent, **values)
        return result


@pytest.fixture
async def bench(store, make_rollout):
    executor = ContextExecutor()
    asyncio.get_running_loop().set_default_executor(executor)
    gateway = Gateway(store)
    await gateway.start()
    yield Bench(store, gateway, make_rollout)
    await gateway.stop()


@pytest.fixture
async def with_llm(bench, llm_of):
    async def publish(server, **values):
        bench.version = (await bench.store.publish(RUN, {"main_llm": llm_of(server, **values)})).version

    return publish


@pytest.fixture(autouse=True)
async def _resources(store):
    await store.publish(RUN, {"prompt": agl.PromptTemplate(template="{q}")})


def error(result):
    return result.rollout.attempt.error


# Kinds of agents.


async def test_a_sync_function_is_run_and_what_it_returns_is_the_reward(bench):
    @agl.rollout
    def agent(task, rollout):
        assert agl.current().rollout.rollout_id == rollout.rollout_id
        return len(task["q"])

    result = await bench.one(agent)
    assert (result.reward, result.rewards[0].source, result.rollout.status) == (1.0, "returned", RolloutStatus.SUCCEEDED)


async def test_an_async_function_gets_the_resources_that_it_names(bench):
    @agl.rollout
    async def agent(task, prompt_template, prompt, resources):
        assert prompt is prompt_template is resources["prompt"]
        return 0.5

    assert (await bench.one(agent)).reward == 0.5


async def test_an_agent_with_a_reward_function_sees_only_its_input(bench):
    seen = []

    def solve(question):
        seen.append(question)
        return {"answer": question.upper()}

    async def judge(task, output):
        return float(output == task["gold"])

    agent = agl.agent(solve, input=lambda task: task["q"], output=lambda found: found["answer"], reward=judge)
    result = await bench.one(agent, tasks=[{"q": "a", "gold": "A"}])
    assert (seen, result.reward, result.output) == (["a"], 1.0, "A")


async def test_without_an_input_function_the_input_field_is_taken_and_nothing_leaks(bench):
    agent = agl.agent(lambda text: text, reward=lambda task, output: output == "a")
    assert (await bench.one(agent, tasks=[{"input": "a", "gold": "secret"}])).output == "a"
    with pytest.raises(ConfigError, match=r"say which part of a task the agent may see.*\['gold', 'q'\]"):
        BoundAgent(agent, Plugins()).input({"q": "a", "gold": "secret"})


def test_an_input_function_that_asks_for_a_missing_field_names_those_that_exist():
    agent = BoundAgent(agl.agent(lambda text: text, input=lambda task: task["question"], reward=lambda task, output: 0), Plugins())
    with pytest.raises(ConfigError, match=r"KeyError: 'question'; the task has the fields \['q'\]"):
        agent.input({"q": "a"})


def test_an_agent_that_returns_its_reward_takes_no_reward_function():
    with pytest.raises(ConfigError, match="returns its reward itself"):
        BoundAgent(agl.agent(agl.rollout(lambda task: 1.0), reward=lambda task, output: 0), Plugins())


async def test_a_lit_agent_runs_by_mode(bench):
    class Lit(agl.LitAgent):
        def training_rollout(self, task, resources, rollout):
            return 1.0

        def validation_rollout(self, task, resources, rollout):
            return 2.0

    assert (await bench.one(Lit())).reward == 1.0
    assert (await bench.one(Lit(), mode=agl.Mode.VAL)).reward == 2.0


async def test_an_output_that_json_cannot_hold_is_kept_as_text(bench):
    agent = agl.agent(lambda text: {"o": object(), "big": "x" * 100_000}, input=lambda task: task["q"], reward=lambda task, output: 1)
    result = await bench.one(agent)
    assert "<object object" in result.output
    assert len(result.output) <= 20_000


# Many at once.


async def _ask(client, number):
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": str(number)}])
    return answer.choices[0].message.content


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_attempts_that_run_at_the_same_time_are_never_mixed(bench, with_llm, kind):
    together = threading.Barrier(32)
    client, sync_client = openai.AsyncOpenAI(api_key="x"), openai.OpenAI(api_key="x")

    @agl.rollout
    async def async_agent(task, llm):
        number = task["n"]
        with agl.role(f"role-{number}"):
            await asyncio.sleep(0.01 * (number % 3))
            assert await _ask(client, number) == f"echo {number}"
            agl.emit_reward(number, name="own")
            assert await _ask(client, number) == f"echo {number}"
        return number

    @agl.rollout
    def sync_agent(task, llm):
        number = task["n"]
        together.wait(30)  # all 32 are inside at once
        with agl.role(f"role-{number}"):
            for _ in range(2):
                answer = sync_client.chat.completions.create(model="m", messages=[{"role": "user", "content": str(number)}])
                assert answer.choices[0].message.content == f"echo {number}"
                agl.emit_reward(number, name="own")
        return number

    async with ScriptedServer(lambda body: Reply(f"echo {body['messages'][0]['content']}", delay=0.02)) as server:
        await with_llm(server)
        agent = sync_agent if kind == "sync" else async_agent
        results = await bench.run(agent, [{"n": number} for number in range(32)], n_runners=32)
    await client.close()
    sync_client.close()
    for number, result in enumerate(results):
        assert (result.reward, error(result)) == (float(number), None)
        calls = [span for span in result.spans if span.kind == "llm"]
        assert [call.role for call in calls] == [f"role-{number}"] * 2
        assert all(call.attributes["agl.call"]["request"]["messages"][0]["content"] == str(number) for call in calls)
        assert {reward.value for reward in result.rewards} == {float(number)}
        assert {reward.span_id for reward in result.rewards if reward.name == "own"} <= {call.span_id for call in calls}


async def test_no_more_attempts_run_at_once_than_there_are_runners(bench):
    running, most = 0, 0

    @agl.rollout
    async def agent(task):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 1.0

    results = await bench.run(agent, [{"n": n} for n in range(12)], n_runners=3)
    assert ([result.reward for result in results], most) == ([1.0] * 12, 3)


# Agents that fail.


def _raise(error_):
    raise error_


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, TimeoutError])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_an_agent_raises_is_its_own_failure_with_its_traceback(bench, raised, kind):
    def broken_tool():
        raise raised("mine")

    @agl.rollout
    def sync_agent(task):
        broken_tool()

    @agl.rollout
    async def async_agent(task):
        broken_tool()

    if kind == "sync" and raised is asyncio.CancelledError:
        return  # a thread has no such thing
    result = await bench.one(sync_agent if kind == "sync" else async_agent)
    assert (result.failure, result.rollout.attempt.status, result.reward) == (Failure.AGENT, AttemptStatus.FAILED, 0.0)
    lines = error(result).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'test_runner.py", line' in lines[1]
    assert any("in broken_tool" in line for line in lines)
    assert raised.__name__ in lines[-1]
    assert not any("/agl/" in line for line in lines)


async def test_a_cause_is_kept_in_the_traceback(bench):
    @agl.rollout
    def agent(task):
        try:
            {}["x"]
        except KeyError as missing:
            raise ValueError("bad plan") from missing

    message = error(await bench.one(agent))
    assert "KeyError: 'x'" in message
    assert message.rstrip().endswith("ValueError: bad plan")


async def test_an_agent_that_raises_stop_iteration_does_not_hang(bench):
    @agl.rollout
    def agent(task):
        return next(iter(()))

    result = await asyncio.wait_for(bench.one(agent), 20)
    assert (result.failure, "StopIteration" in error(result)) == (Failure.AGENT, True)


async def test_a_failed_attempt_keeps_its_spans_and_an_emitted_reward(bench):
    @agl.rollout
    def agent(task):
        with agl.operation("think"):
            agl.emit_reward(0.3)
            raise ValueError("later")

    result = await bench.one(agent)
    assert (result.reward, result.failure) == (0.3, Failure.AGENT)
    assert [span.name for span in result.spans] == ["agent", "think"]
    assert (result.spans[0].status, result.spans[0].error) == ("error", "ValueError: later")


async def test_a_failed_attempt_has_no_reward_where_that_is_asked_for(bench):
    result = await bench.one(agl.rollout(lambda task: _raise(ValueError())), failure_reward=None)
    assert result.rewards == ()


@pytest.mark.parametrize(("given", "says"), [(float("nan"), "nan"), ("good", "'good' (str)"), ([1.0], "[1.0] (list)")])
async def test_what_is_no_reward_is_a_failure_that_says_so(bench, given, says):
    result = await bench.one(agl.rollout(lambda task: given))
    assert (result.failure, result.reward, result.rewards) == (Failure.REWARD, None, ())
    assert error(result) == f"reward `reward` from returned must be a finite number, given was {says}; return a float"


async def test_a_reward_function_that_gives_none_is_a_failure_that_says_so(bench):
    agent = agl.agent(lambda text: text, input=lambda task: task["q"], reward=lambda task, output: None)
    result = await bench.one(agent)
    assert (result.failure, result.reward) == (Failure.REWARD, None)
    assert "from returned must be a finite number, given was None" in error(result)


async def test_an_agent_that_gives_no_reward_at_all_is_a_failure_that_says_how_to_give_one(bench):
    @agl.rollout
    def silent(task):
        agl.emit_reward(1.0, name="parsed")

    result = await bench.one(silent)
    assert (result.failure, result.reward) == (Failure.REWARD, None)
    assert error(result).startswith(
        "no reward: `silent` returned None and emitted none; return a float, give `reward=`, or call `agl.emit_reward`"
    )


async def test_a_function_whose_return_value_is_its_output_is_told_that_it_is_no_reward(bench):
    result = await bench.one(agl.agent(lambda text: 1.0, input=lambda task: task["q"]))
    assert (result.failure, result.reward) == (Failure.REWARD, None)
    assert "emitted none, and what it returned is its output, for `reward=` or a judge" in error(result)


async def test_an_emitted_final_reward_is_enough_and_the_last_one_counts(bench):
    @agl.rollout
    def agent(task):
        agl.emit_reward(0.3)
        agl.emit_reward(1.0)

    result = await bench.one(agent)
    assert (result.reward, result.failure) == (1.0, None)


async def test_a_plugin_may_judge_in_the_agents_stead(bench):
    class Judge:
        @agl.hookimpl
        async def agl_reward(self, result):
            return Reward(value=len(result.spans) / 4)

    result = await bench.one(agl.rollout(lambda task: None), plugins=[Judge()])
    assert (result.reward, result.rewards[0].source, result.failure) == (0.25, "plugin:Judge", None)


async def test_a_plugin_that_breaks_stops_the_run_with_its_name(bench):
    class Judge:
        @agl.hookimpl
        def agl_reward(self, result):
            raise KeyError("gold")

    with pytest.raises(PluginError, match="plugin `Judge` failed in `agl_reward`: KeyError: 'gold'"):
        await bench.one(agl.rollout(lambda task: 1.0), plugins=[Judge()])


# Time.


async def test_an_async_agent_that_is_too_slow_is_stopped_and_says_where_it_was(bench):
    stopped = []

    @agl.rollout
    async def agent(task):
        try:
            await asyncio.sleep(30)
        finally:
            stopped.append(True)

    result = await bench.one(agent, timeout=0.1)
    assert (result.failure, result.rollout.attempt.status, result.reward, stopped) == (Failure.TIMEOUT, AttemptStatus.TIMEOUT, 0.0, [True])
    assert error(result).splitlines()[-1] == "the agent did not end within 0.1 s"
    assert "await asyncio.sleep(30)" in error(result)
    assert "/agl/" not in error(result)


async def test_a_sync_agent_that_never_ends_is_abandoned_and_its_late_reward_is_not_taken(bench):
    over, said = threading.Event(), threading.Event()

    @agl.rollout
    def agent(task):
        over.wait(30)
        agl.emit_reward(1.0)
        said.set()
        return 1.0

    result = await bench.one(agent, timeout=0.1)
    over.set()
    await asyncio.to_thread(said.wait, 10)
    assert (result.failure, error(result)) == (Failure.TIMEOUT, "the agent did not end within 0.1 s")
    (again,) = await bench.store.results([result.rollout.rollout_id])
    assert again == result
    assert again.reward == 0.0


async def test_hung_agents_do_not_keep_others_waiting(bench):
    over = threading.Event()

    @agl.rollout
    def agent(task):
        if task["hang"]:
            over.wait(60)
        return 1.0

    started = time.monotonic()
    results = await bench.run(agent, [{"hang": number < 20} for number in range(24)], n_runners=24, timeout=1.5)
    over.set()
    assert [result.failure for result in results] == [Failure.TIMEOUT] * 20 + [None] * 4
    assert time.monotonic() - started < 15


async def test_an_agents_own_timeout_error_is_not_the_deadline(bench):
    @agl.rollout
    async def agent(task):
        await asyncio.wait_for(asyncio.sleep(5), 0.01)

    result = await bench.one(agent, timeout=30.0)
    assert (result.failure, result.rollout.attempt.status) == (Failure.AGENT, AttemptStatus.FAILED)


HANG = """
import time, agl
@agl.rollout
def agent(task):
    time.sleep(3600)
trainer = agl.Trainer(initial_resources={"p": agl.PromptTemplate(template="x")}, timeout=0.2, quiet=True)
result = trainer.dev(agent, [{"q": 1}])[0]
print(result.failure, flush=True)
"""


def test_a_process_can_exit_while_an_agent_hangs_in_a_thread():
    run = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout.strip(), run.returncode) == ("timeout", 0), run.stderr


# The infrastructure.


async def test_a_failure_of_the_endpoint_is_tried_again(bench, with_llm):
    @agl.rollout
    async def agent(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        return 1.0

    async with ScriptedServer("ok", fail_first=2) as server:
        await with_llm(server)
        result = await bench.one(agent, max_attempts=3)
    assert (result.reward, result.rollout.attempt.number, result.failure) == (1.0, 3, None)


@pytest.mark.parametrize("hides", [False, True])
async def test_a_failure_of_the_endpoint_is_excluded_at_last_also_when_the_agent_hides_it(bench, with_llm, hides):
    @agl.rollout
    async def agent(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
            try:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            except openai.APIError:
                if not hides:
                    raise
        return 0.0

    async with ScriptedServer(lambda body: Reply("overloaded", status=503)) as server:
        await with_llm(server)
        result = await bench.one(agent, max_attempts=2)
    assert (result.failure, result.reward, result.rewards, result.rollout.attempt.number) == (Failure.INFRASTRUCTURE, None, (), 2)
    assert "503" in error(result)


async def test_a_refusal_that_is_the_agents_fault_is_its_failure(bench, with_llm):
    @agl.rollout
    async def agent(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 100}])

    async with ScriptedServer(lambda body: Reply("context too long", status=400)) as server:
        await with_llm(server)
        result = await bench.one(agent, max_attempts=2)
    assert (result.failure, result.reward, result.rollout.attempt.number) == (Failure.AGENT, 0.0, 1)


async def test_the_attempts_own_url_and_key_end_with_it(bench, with_llm):
    kept = []

    @agl.rollout
    async def agent(task, llm):
        kept.append(llm)
        return 1.0

    async with ScriptedServer("ok") as server:
        await with_llm(server, api_key="sk-upstream")
        await bench.one(agent)
        assert "sk-upstream" not in kept[0].api_key
        with pytest.raises(openai.NotFoundError):
            async with openai.AsyncOpenAI(base_url=kept[0].base_url, api_key=kept[0].api_key) as client:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


# Stopping.


async def test_a_rollout_that_is_cancelled_from_elsewhere_stops_and_the_others_go_on(bench, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    running, stopped = asyncio.Event(), asyncio.Event()

    @agl.rollout
    async def agent(task):
        if task["long"]:
            running.set()
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()
        return 1.0

    long = bench.make_rollout({"long": True})
    await bench.store.enqueue([long])
    async with bench.working(agent) as work:
        await asyncio.wait_for(running.wait(), 20)
        await bench.store.cancel(RUN, [long.rollout_id])
        await asyncio.wait_for(stopped.wait(), 20)
        await bench.store.enqueue([short := bench.make_rollout({"long": False})])
        assert await bench.store.wait_ended([short.rollout_id], timeout=20) == 0
        assert not work.done()
    first, second = await bench.store.results([long.rollout_id, short.rollout_id])
    assert (first.failure, first.reward, second.reward) == (Failure.CANCELLED, None, 1.0)


async def test_attempts_that_run_when_the_runners_stop_are_cancelled(bench):
    running = asyncio.Event()

    @agl.rollout
    async def agent(task):
        running.set()
        await asyncio.sleep(60)

    await bench.store.enqueue([rollout := bench.make_rollout()])
    async with bench.working(agent):
        await asyncio.wait_for(running.wait(), 20)
    (result,) = await bench.store.results([rollout.rollout_id])
    assert (result.failure, result.rollout.status, result.reward) == (Failure.CANCELLED, RolloutStatus.CANCELLED, None)


async def test_an_agent_that_blocks_the_event_loop_is_no_lost_worker(bench, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)

    @agl.rollout
    async def agent(task):
        time.sleep(1.2)
        assert await bench.store.expire(RUN, 1.0) == 0
        return 1.0

    assert (await bench.one(agent)).reward == 1.0


async def test_observers_hear_of_the_start_and_the_end_of_each_attempt(bench):
    heard = []

    class Ear:
        @agl.hookimpl
        def agl_rollout_started(self, rollout):
            heard.append(("started", rollout.attempt.number))

        @agl.hookimpl
        async def agl_rollout_ended(self, result):
            heard.append(("ended", result.reward, result.succeeded))

    await bench.one(agl.rollout(lambda task: 0.5), plugins=[Ear()])
    assert heard == [("started", 1), ("ended", 0.5, True)]
