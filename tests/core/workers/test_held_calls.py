"""An agent whose calls wait for a change of weights is not over its time, wherever it runs and whoever holds the calls up."""

import asyncio
import contextlib
import time

import pytest
import worker_agents

import agl
from agl.engines import Engine
from agl.rollouts import Failure
from agl.testing.scripted import Reply, ScriptedServer

TIMEOUT, HOLD = 1.0, 1.4


class Elsewhere(Engine):
    """In another process; whether it holds calls up by itself is said from outside."""

    name, model, version = "elsewhere", "policy", "1"
    start = update = stop = None

    def paused(self, timeout=600.0):
        return contextlib.nullcontext()


class Updates(agl.Algorithm):
    """Changes weights for longer than an agent has time, from before its first call on."""

    name = "updates"
    serves = ("main_llm",)

    def __init__(self, url, *, engine_holds=False):
        self.url, self.engine = url, Elsewhere()
        self.engine.holds_calls = engine_holds

    async def start(self, run):
        return {"main_llm": agl.LLM(endpoint=self.url, model="policy", version="1")}

    async def fit(self, run):
        async with run.paused(self.engine):
            rolling = asyncio.ensure_future(run.rollout(list(run.train), strict=False))
            while not any(opened.attempt.deadline._holds for opened in run._gateway._open.values()):
                await asyncio.sleep(0.01)
            await asyncio.sleep(HOLD)
        ((self.result,),) = [group.results for group in await rolling]


def updated(agent, server, tmp_path, *, executor="thread", **options):
    algorithm = Updates(server.base_url(), **options)
    trainer = agl.Trainer(
        algorithm=algorithm,
        executor=executor,
        timeout=TIMEOUT,
        max_attempts=1,
        n_runners=1,
        store=tmp_path / "store.sqlite",
        quiet=True,
    )
    trainer.fit(agent, [{"n": 1}])
    return algorithm.result


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_what_the_gateway_holds_up_is_not_the_agents_time(tmp_path, executor):
    with ScriptedServer("hi") as server:
        result = updated(worker_agents.by_plain_http, server, tmp_path, executor=executor)
    assert (result.failure, result.reward) == (None, 1.0)
    assert result.rollout.attempt.ended_at - result.rollout.attempt.started_at > HOLD


def test_what_an_engine_holds_up_by_itself_is_not_the_agents_time(tmp_path):
    with ScriptedServer(lambda body: Reply("hi", delay=HOLD if len(server.requests) == 1 else 0.0)) as server:
        result = updated(worker_agents.by_plain_http, server, tmp_path, engine_holds=True)
    assert (result.failure, result.reward) == (None, 1.0)


def test_calls_that_are_held_up_at_once_count_once_and_the_rest_counts_as_ever(tmp_path):
    @agl.rollout
    async def asks_twice_and_dawdles(task, llm):
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
            ask = [client.chat.completions.create(model="policy", messages=[{"role": "user", "content": text}]) for text in "ab"]
            await asyncio.gather(*ask)
        await asyncio.sleep(TIMEOUT + 0.5 * HOLD)  # within its time, were the two added
        return 1.0

    with ScriptedServer("hi") as server:
        started = time.monotonic()
        result = updated(asks_twice_and_dawdles, server, tmp_path)
        assert time.monotonic() - started > TIMEOUT + HOLD
    assert result.failure == Failure.TIMEOUT
    assert "did not end within 1 s, not counting 1." in result.rollout.attempt.error
    assert "s in which its calls were held up" in result.rollout.attempt.error
