"""ExecutorConformance: what every executor promises, as checks.

    class TestMyExecutor(ExecutorConformance):
        executor = MyExecutor

The agents of the checks are functions of this module, so that an executor may send them to other processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

import agl
from agl.errors import PluginError
from agl.executors import Executor
from agl.gateway.server import Gateway
from agl.hookspecs import hookimpl
from agl.plugins import Plugins
from agl.resources import PromptTemplate
from agl.results import RolloutResult
from agl.rollouts import AttemptStatus, Failure, Rollout
from agl.runner import BoundAgent
from agl.store.base import Store
from agl.testing.expected import Conformance, require
from agl.testing.memory import MemoryStore
from agl.testing.running import RUN, make_record, make_rollout, run_check

STEP = 0.05
"""Seconds that one piece of an agent's work takes."""
PATIENCE = 30.0
"""Seconds until work that should be done counts as never done."""


class ExecutorConformance(Conformance):
    """Checks of a driver of `agl.executors`."""

    executor: ClassVar[type[Executor]]
    """The class to check."""

    def make_store(self) -> Store:
        """The store that rollouts are claimed from, for an executor that needs another than one in memory."""
        return MemoryStore()

    def test_every_rollout_is_run(self) -> None:
        """If this fails, a step waits for rollouts that nobody runs, or takes the output of one for another's."""
        for agent in (_async_agent, _sync_agent):
            results = run_all(self, agent, [{"input": n} for n in range(20)], n_runners=6)
            outputs = [result.output and result.output["input"] for result in results]
            require(outputs == list(range(20)), f"the outputs of rollouts 0 to 19 of {agent.__name__} are {outputs}")
            require(all(result.reward == result.output["input"] for result in results), "rewards do not belong to their rollouts")

    def test_at_most_n_runners_work_at_the_same_time(self) -> None:
        """If this fails, `n_runners` does not protect the machine and the endpoint from the agents."""
        for agent in (_async_agent, _sync_agent):
            results = run_all(self, agent, [{"input": n} for n in range(12)], n_runners=3)
            most = _most_at_once(results)
            require(most <= 3, f"{most} attempts of {agent.__name__} were at work at the same time, with `n_runners=3`")
            require(most > 1, f"attempts of {agent.__name__} run one after the other, with `n_runners=3`")

    def test_a_failing_agent_ends_its_own_attempt_alone(self) -> None:
        """If this fails, one bad rollout ends the run, or is hidden."""
        kinds = ["ok", "raise", "exit", "ok", "unprintable", "cancelled", "ok"]
        results = run_all(self, _failing_agent, [{"input": kind} for kind in kinds], n_runners=2)
        failures = [result.failure for result in results]
        wanted = [None if kind == "ok" else Failure.AGENT for kind in kinds]
        require(failures == wanted, f"agents that did {kinds} are kept as {failures}")
        error = (results[1].rollout.attempt and results[1].rollout.attempt.error) or ""
        require("no such column" in error, f"what the agent raised is not kept; its attempt's error is {error!r}")

    def test_an_agent_is_ended_at_its_deadline(self) -> None:
        """If this fails, one hanging agent holds up every step."""
        asked = [make_rollout({"input": 12.0}, timeout=0.3), make_rollout({"input": 0.0}, timeout=0.3), make_rollout({"input": 0.0})]
        results = run_all(self, _sleeping_agent, asked, n_runners=1)
        first, *others = [result.rollout.attempt.started_at for result in results if result.rollout.attempt is not None]
        took = min(others) - first  # from claim to claim: what it takes to start workers is no part of it
        require(took < 10.0, f"an agent with a deadline of 0.3 s held its runner for {took:.1f} s")
        failures = [result.failure for result in results]
        require(failures == [Failure.TIMEOUT, None, None], f"the failures are {failures}, not a timeout and two that worked")

    def test_attempts_are_never_mixed(self) -> None:
        """If this fails, one rollout is learned from with the rewards and the work of another."""
        asked = [make_rollout({"input": n}) for n in range(24)]
        for agent in (_emitting_agent, _emitting_sync_agent):
            again = [make_rollout(one.task.data) for one in asked]
            results = run_all(self, agent, again, n_runners=8)
            for n, result in enumerate(results):
                want = [f"{n}-0", f"{n}-1", f"{n}-2"]
                names = [span.name for span in result.spans if span.name.startswith(f"{n}-")]
                others = [span.name for span in result.spans if "-" in span.name and span.name not in want]
                require(names == want and not others, f"rollout {n} of {agent.__name__} holds the spans {names + others}, not {want}")
                values = [reward.value for reward in result.rewards if reward.name == "piece"]
                require(values == [float(n)] * 3, f"rollout {n} of {agent.__name__} holds the rewards {values}, not three of {n}")
                known = result.output and (result.output["rollout"], result.output["input"])
                require(known == (result.rollout.rollout_id, n), f"rollout {n}'s agent ran as {known}")

    def test_an_attempt_gets_the_resources_of_its_rollouts_version(self) -> None:
        """If this fails, the agent runs on prompts or weights that its rollout does not name."""
        asked = [make_rollout({"input": n}, resources_version=n % 2) for n in range(8)]
        results = run_all(self, _prompted_agent, asked, n_runners=4)
        seen = [result.reward for result in results]
        require(seen == [0.0, 1.0] * 4, f"rollouts of versions 0 and 1 in turn ran under versions {seen}")

    def test_work_that_comes_later_is_taken_up(self) -> None:
        """If this fails, the second step of a run never begins."""
        run_check(_in_two_steps(self))

    def test_an_infrastructure_failure_is_tried_again(self) -> None:
        """If this fails, an endpoint that was down for a moment costs rollouts, or is learned from."""
        asked = [make_rollout({"input": n}, max_attempts=2) for n in range(4)]
        results = run_all(self, _unlucky_agent, asked, n_runners=2)
        found = [(result.failure, result.rollout.attempt and result.rollout.attempt.number) for result in results]
        require(found == [(None, 2)] * 4, f"rollouts whose first attempt lost its endpoint ended as (failure, attempt) {found}")

    def test_what_is_cancelled_leaves_nothing_behind(self) -> None:
        """If this fails, agents go on after Ctrl-C, and the store says for ever that they run."""
        run_check(_cancelled(self))

    def test_a_broken_plugin_stops_it_and_is_named(self) -> None:
        """If this fails, a run goes on without a plugin that it needs, or nobody learns which one is broken."""
        run_check(_with_a_broken_plugin(self))


# The agents.


async def _async_agent(task: Any) -> dict[str, Any]:
    started = time.time()
    await asyncio.sleep(STEP)
    return {"input": task, "started": started, "ended": time.time()}


def _sync_agent(task: Any) -> dict[str, Any]:
    started = time.time()
    time.sleep(STEP)
    return {"input": task, "started": started, "ended": time.time()}


async def _sleeping_agent(seconds: float) -> dict[str, Any]:
    await asyncio.sleep(seconds)
    return {"input": 0.0}


class _UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


async def _failing_agent(kind: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    raised: dict[str, BaseException] = {
        "raise": ValueError("no such column"),
        "exit": SystemExit(3),
        "unprintable": _UnprintableError(),
        "cancelled": asyncio.CancelledError(),
    }
    if kind in raised:
        raise raised[kind]
    return {"input": 1.0}


async def _emitting_agent(n: int) -> dict[str, Any]:
    for piece in range(3):
        with agl.operation(f"{n}-{piece}"):
            await asyncio.sleep(STEP / 10 * (n % 3))
            agl.emit_reward(float(n), name="piece")
    return {"input": n, "rollout": _rollout_id()}


def _emitting_sync_agent(n: int) -> dict[str, Any]:
    for piece in range(3):
        with agl.operation(f"{n}-{piece}"):
            time.sleep(STEP / 10 * (n % 3))
            agl.emit_reward(float(n), name="piece")
    return {"input": n, "rollout": _rollout_id()}


def _rollout_id() -> str:
    attempt = agl.current()
    return attempt.rollout.rollout_id if attempt is not None else ""


@agl.rollout
async def _prompted_agent(task: dict[str, Any], prompt: PromptTemplate) -> float:
    await asyncio.sleep(STEP / 10)
    return float(prompt.template)


async def _unlucky_agent(n: int) -> dict[str, Any]:
    attempt = agl.current()
    assert attempt is not None
    if attempt.rollout.attempt is not None and attempt.rollout.attempt.number == 1:
        attempt.infrastructure_error = "the endpoint was down"
    return {"input": float(n)}


def _judge(task: dict[str, Any], output: dict[str, Any]) -> float:
    return float(output["input"])


# Running them.


@contextlib.asynccontextmanager
async def _working(
    kit: ExecutorConformance, store: Store, agent: Any, n_runners: int, plugins: Sequence[Any] = ()
) -> AsyncGenerator[asyncio.Task[None]]:
    """An executor at work on a store with one run in it; cancelled at the end."""
    await store.create_run(make_record())
    await store.publish(RUN, {"prompt": PromptTemplate(template="0")})
    await store.publish(RUN, {"prompt": PromptTemplate(template="1")})
    chosen = Plugins([_builtin(), *plugins], discover=False)
    gateway = Gateway(store)
    await gateway.start()
    spec = agent if isinstance(agent, type(_prompted_agent)) else agl.agent(agent, reward=_judge)
    bound = BoundAgent(spec, chosen)
    kit.executor.check(bound, chosen)
    executor = kit.executor(run_id=RUN, agent=bound, store=store, gateway=gateway, plugins=chosen, n_runners=n_runners, failure_reward=0.0)
    try:
        await executor.start()
        work = asyncio.ensure_future(executor.run())
        try:
            yield work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    finally:
        await executor.stop()
        await gateway.stop()


def _builtin() -> Any:
    from agl.builtin import functions

    return functions


def run_all(kit: ExecutorConformance, agent: Any, given: Sequence[dict[str, Any] | Rollout], *, n_runners: int) -> list[RolloutResult]:
    """Run rollouts (or tasks) to their end: their results, in the order given."""
    rollouts = [one if isinstance(one, Rollout) else make_rollout(one) for one in given]
    found: list[RolloutResult] = []

    async def run() -> None:
        store = kit.make_store()
        try:
            async with _working(kit, store, agent, n_runners) as work:
                found.extend(await _ended(store, work, rollouts))
        finally:
            store.close()

    run_check(run())
    return found


async def _ended(store: Store, work: asyncio.Task[None], rollouts: Sequence[Rollout]) -> list[RolloutResult]:
    ids = [rollout.rollout_id for rollout in rollouts]
    await store.enqueue(rollouts)
    until = time.monotonic() + PATIENCE
    while left := await store.wait_ended(ids, 1.0):
        if work.done():
            work.result()
            require(False, f"the executor ended by itself, with {left} rollouts left")
        require(time.monotonic() < until, f"{left} of {len(ids)} rollouts have not ended after {PATIENCE:g} s")
    return await store.results(ids)


async def _in_two_steps(kit: ExecutorConformance) -> None:
    store = kit.make_store()
    try:
        async with _working(kit, store, _async_agent, 2) as work:
            for step in range(2):
                results = await _ended(store, work, [make_rollout({"input": n}, step=step) for n in range(3)])
                require(all(result.succeeded for result in results), f"rollouts of step {step} failed")
                await asyncio.sleep(4 * STEP)
    finally:
        store.close()


async def _cancelled(kit: ExecutorConformance) -> None:
    store, asked = kit.make_store(), [make_rollout({"input": 60.0}) for _ in range(6)]
    try:
        before = asyncio.all_tasks()
        async with _working(kit, store, _sleeping_agent, 4) as work:
            await store.enqueue(asked)
            ids = [rollout.rollout_id for rollout in asked]
            while sum(result.rollout.attempt is not None for result in await store.results(ids)) < 4:
                require(not work.done(), "the executor ended by itself")
                await asyncio.sleep(STEP / 10)
            await asyncio.sleep(STEP)
            started = time.monotonic()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            took = time.monotonic() - started
            require(took < 5.0, f"`run` ended {took:.1f} s after it was cancelled")
            attempts = [result.rollout.attempt for result in await store.results(ids) if result.rollout.attempt is not None]
        await asyncio.sleep(0)
        left = [str(task.get_coro()) for task in asyncio.all_tasks() - before]
        require(not left, f"tasks go on after the end: {left}")
        statuses = [str(attempt.status) for attempt in attempts]
        require(statuses == [AttemptStatus.CANCELLED] * 4, f"the attempts that were at work are kept as {statuses}")
    finally:
        store.close()


class _BrokenReward:
    name = "broken_reward"

    @hookimpl
    def agl_reward(self, result: RolloutResult) -> Any:
        raise KeyError("answer")


async def _with_a_broken_plugin(kit: ExecutorConformance) -> None:
    store = kit.make_store()
    try:
        async with _working(kit, store, _async_agent, 2, [_BrokenReward()]) as work:
            await store.enqueue([make_rollout({"input": n}) for n in range(4)])
            await asyncio.wait([work], timeout=3.0)
            error = work.exception() if work.done() and not work.cancelled() else None
            require(isinstance(error, PluginError) and "broken_reward" in str(error), f"with a broken plugin `run` gave {error!r}")
    finally:
        store.close()


def _most_at_once(results: Sequence[RolloutResult]) -> int:
    """Most attempts whose agents were at work at one moment, by the clock of the agents."""
    events = [(result.output["started"], 1) for result in results] + [(result.output["ended"], -1) for result in results]
    now = most = 0
    for _, change in sorted(events, key=lambda event: (event[0], event[1])):
        now += change
        most = max(most, now)
    return most
