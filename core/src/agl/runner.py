"""Runner: takes queued rollouts, runs the agent on each, and ends every attempt with what it recorded.

Many attempts share one event loop: async agents run on it, sync ones in threads. Context variables keep them apart. An
agent's exception is data; only a broken plugin stops the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.agents import AgentAdapter, AgentSpec, call
from agl.context import ActiveAttempt, entered
from agl.endings import as_json, place_of, stopped_from_outside, traceback_of
from agl.errors import ConfigError, PluginError, RewardError, StoreError, WorkerError
from agl.executors import Executor
from agl.plugins import Plugins
from agl.prompting import USED_PROMPTS
from agl.resources import Resources
from agl.results import RolloutResult, missing_span
from agl.rewards import FAILURE, FINAL, Judgement, Reward, make_reward
from agl.roles import Roles
from agl.rollouts import RETRY, REWARD, AttemptStatus, Failure, Rollout
from agl.spans import Span, SpanKind, SpanStatus
from agl.transitions import was_cut

log = logging.getLogger("agl")

HEARTBEAT_SECONDS = 10.0
SECRET_LENGTH = 8
"""Characters from which on a key is taken for one: servers that want none are given words such as `EMPTY`."""
Run = Callable[[], Awaitable[tuple[Any, list[Reward]]]]
"""Runs the agent on one attempt: the output, and the rewards that the agent or its reward function gives."""


class BoundAgent:
    """An agent with its adapter: task in, output and own reward out.

    Args:
        agent: what a Trainer takes.
        plugins: one of them recognises it.
        roles: what is done with the calls of its roles.
        takes_rewards: whether rewards from the agent's side count.
        judges_itself: whether the agent gives its own reward, where that is known from elsewhere.
    """

    def __init__(
        self,
        agent: Any,
        plugins: Plugins,
        roles: Roles | None = None,
        *,
        takes_rewards: bool = True,
        judges_itself: bool | None = None,
    ) -> None:
        self.roles, self.takes_rewards = roles or Roles(), takes_rewards
        self.spec = agent if isinstance(agent, AgentSpec) else AgentSpec(agent)
        self.adapter: AgentAdapter = plugins.adapt_agent(self.spec.agent)
        if self.adapter.returns_reward and self.spec.reward is not None:
            raise ConfigError(f"`{self.adapter.name}` returns its reward itself; give `reward=` only for agents that do not")
        if self.adapter.returns_reward and self.spec.output is not None:
            raise ConfigError(f"`{self.adapter.name}` returns its reward, so that `output=` has nothing to change; leave it out")
        alone = self.adapter.judges_itself and self.spec.reward is None and not (plugins.judges() or plugins.compares())
        self.judges_itself = alone if judges_itself is None else judges_itself
        if self.judges_itself and not takes_rewards:
            raise ConfigError(
                f'`{self.adapter.name}` would have no reward: this run takes none from the agent\'s side (`agent_rewards="refuse"`); '
                "give `reward=` with the agent, or judges (`rewards=[…]`)"
            )

    def input(self, task: dict[str, Any]) -> Any:
        """What the agent may see of a task.

        Raises:
            ConfigError: the task lacks what is needed.
        """
        if self.spec.input is None:
            if self.adapter.returns_reward or self.judges_itself:  # the user's own code, which decides itself what to pass on
                return task
            if "input" not in task:
                raise ConfigError(
                    f"say which part of a task the agent may see: `agl.agent({self.spec.name}, input=lambda task: …)`; "
                    f"the task has the fields {sorted(task)}"
                )
            return task["input"]
        try:
            return self.spec.input(task)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
            raise ConfigError(f"the `input` function failed with {raised}; the task has the fields {sorted(task)}") from error

    async def run(self, rollout: Rollout, resources: Resources) -> tuple[Any, list[Reward]]:
        """Run on a rollout's task; returns the output and the rewards that the agent or its reward function gives."""
        given = await self.adapter.run(self.input(rollout.task.data), resources, rollout)
        if self.adapter.returns_reward:
            return given, _returned(given)
        output = given if self.spec.output is None else self.spec.output(given)
        if self.spec.reward is None:
            own = self.adapter.own_reward(given) if self.judges_itself else None
            return output, [] if own is None else [own]
        judged = await call(self.spec.reward, rollout.task.data, output)
        return output, _returned(judged) if isinstance(judged, Mapping) else [make_reward(judged, source="returned")]


def _returned(given: Any) -> list[Reward]:
    """The reward that an agent or its reward function returned: one number, several by name, or None."""
    if not isinstance(given, Mapping):
        return [] if given is None else [make_reward(given, source="returned")]
    by_name = cast(Mapping[Any, Any], given)
    return [make_reward(value, name=str(name), source="returned") for name, value in by_name.items()]


class ThreadExecutor(Executor):
    """Runs a run's rollouts in this process: async agents on its event loop, others in threads. See `Executor`."""

    name = "thread"

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._worker_id = f"{socket.gethostname()}-{os.getpid()}"
        self._active: dict[str, asyncio.Task[None]] = {}
        self._attempts = AttemptRunner(self)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            PluginError: a plugin broke; nothing can go on without it.
            StoreError: what the attempts recorded cannot be kept.
        """
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(asyncio.get_running_loop(), over), name="agl-heartbeat", daemon=True)
        heart.start()
        try:
            while True:
                free, mark = self.n_runners - len(self._active), self.store.work_mark()
                claimed = await self.store.claim(self.run_id, self._worker_id, free) if free else []
                for rollout in claimed:
                    assert rollout.attempt is not None
                    self._active[rollout.attempt.attempt_id] = asyncio.ensure_future(self._attempts.run(rollout))
                await self._wait(mark if free > len(claimed) else None)
        finally:
            over.set()
            for task in self._active.values():
                task.cancel()
            await asyncio.gather(*self._active.values(), return_exceptions=True)

    async def _wait(self, mark: int | None) -> None:
        """Until an attempt ended or, with free runners, work may have come since `mark`; raises what stops the run."""
        waits: set[asyncio.Task[None]] = set(self._active.values())
        work = asyncio.ensure_future(self.store.wait_for_work(mark)) if mark is not None else None
        try:
            done, _ = await asyncio.wait(waits | ({work} if work else set()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if work is not None:
                work.cancel()
        self._active = {attempt_id: task for attempt_id, task in self._active.items() if task not in done}
        # An attempt that was cancelled has said so in the store.
        errors = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise errors[0]

    def _beat(self, loop: asyncio.AbstractEventLoop, over: threading.Event) -> None:
        """Tell the store that this process lives, from a thread: an agent that blocks the event loop is not a lost worker."""

        def alive(attempt_ids: Sequence[str], running: set[str]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._cancel, [attempt_id for attempt_id in attempt_ids if attempt_id not in running])

        while not over.wait(HEARTBEAT_SECONDS):
            attempt_ids = list(self._attempts.running)
            if attempt_ids:
                with contextlib.suppress(StoreError):  # closed: the run is over
                    self.store.post_heartbeat(attempt_ids, functools.partial(alive, attempt_ids))

    def _cancel(self, attempt_ids: Sequence[str]) -> None:
        """Stop attempts that were ended from elsewhere."""
        for attempt_id in attempt_ids:
            if attempt_id in self._attempts.running and attempt_id in self._active:
                self._active[attempt_id].cancel()


class AttemptRunner:
    """Runs claimed rollouts, one attempt each, and ends them in the store: what every executor does with what it claims.

    Args:
        executor: whose run, agent, store, gateway and plugins it uses.
    """

    def __init__(self, executor: Executor) -> None:
        self._run_id, self._agent, self._store = executor.run_id, executor.agent, executor.store
        self._gateway, self._plugins, self._failure_reward = executor.gateway, executor.plugins, executor.failure_reward
        self.running: set[str] = set()
        """Ids of attempts whose agent, or whose judges, have not ended: those to send heartbeats for, and those that may be cancelled."""
        self._resources: dict[int, Resources] = {}
        self._directory: Path | None = None

    async def run(self, rollout: Rollout) -> None:
        """Run the agent on a claimed rollout. The attempt has ended in the store when this returns, or when it is cancelled.

        Raises:
            PluginError: a plugin broke.
            StoreError: what the attempt recorded cannot be kept.
        """
        resources = await self._load(rollout.resources_version)
        upstreams = resources.llms()
        attempt = await self._activate(rollout, resources)
        keys = [llm.api_key for llm in upstreams.values() if llm.api_key and len(llm.api_key) >= SECRET_LENGTH]
        attempt.is_secret = lambda text: any(key in text for key in keys)
        started = time.time()
        self.running.add(attempt.attempt_id)
        try:
            attempt.resources = resources.replace(self._gateway.open(attempt, upstreams)) if upstreams else resources
            await self._plugins.observe("agl_rollout_started", rollout=rollout)
            outcome = await self._outcome(attempt)
        finally:
            self.running.discard(attempt.attempt_id)
            await self._gateway.close(attempt.attempt_id)
        await self._end(attempt, await self._cut(rollout, outcome), started)

    async def _activate(self, rollout: Rollout, resources: Resources) -> ActiveAttempt:
        assert rollout.attempt is not None
        if self._directory is None:
            told = (await self._store.run(self._run_id)).directory
            self._directory = Path(told) if told else self._store.folder.absolute() / "runs" / self._run_id
        directory = self._directory / "attempts" / rollout.attempt.attempt_id
        return ActiveAttempt(rollout, resources, self._agent.roles, directory=directory, takes_rewards=self._agent.takes_rewards)

    async def _load(self, version: int) -> Resources:
        if version not in self._resources:
            self._resources[version] = await self._store.resources(self._run_id, version)
        return self._resources[version]

    @contextlib.asynccontextmanager
    async def place(self, attempt: ActiveAttempt) -> AsyncGenerator[Run]:
        """Where the agent runs: this process, with the plugins open. What must be ready before the attempt's time begins is made ready here."""
        with entered(attempt), self._plugins.opened(attempt):
            yield lambda: self._agent.run(attempt.rollout, attempt.resources)

    async def _outcome(self, attempt: ActiveAttempt) -> _Outcome:
        rollout, rewards, output = attempt.rollout, [], None
        deadline = attempt.deadline
        try:
            async with self.place(attempt) as run, deadline:
                output, rewards = await run()
        except PluginError:
            raise
        except RewardError as error:
            return _Outcome(AttemptStatus.FAILED, Failure.REWARD, str(error))
        except BaseException as error:  # an agent may raise anything, SystemExit among it: its attempt fails, the run goes on
            if stopped_from_outside(error):
                return _STOPPED
            if deadline.expired:
                message = f"the agent did not end within {rollout.timeout:g} s"
                message += f", not counting {deadline.held_seconds:.1f} s in which its calls were held up" if deadline.held_seconds else ""
                return _Outcome(AttemptStatus.TIMEOUT, Failure.TIMEOUT, place_of(error) + message)
            failure = Failure.INFRASTRUCTURE if attempt.infrastructure_error or isinstance(error, WorkerError) else Failure.AGENT
            return _Outcome(AttemptStatus.FAILED, failure, traceback_of(error))
        if attempt.infrastructure_error:  # the agent hid it, yet what it returned says nothing of the agent
            return _Outcome(AttemptStatus.FAILED, Failure.INFRASTRUCTURE, attempt.infrastructure_error)
        return _Outcome(AttemptStatus.SUCCEEDED, None, None, output=as_json(output), rewards=rewards)

    async def _end(self, attempt: ActiveAttempt, outcome: _Outcome, started: float) -> None:
        assert attempt.rollout.attempt is not None
        spans, emitted = attempt.close()
        rewards = [*emitted, *outcome.rewards]
        told = {"status": outcome.status, "failure": outcome.failure, "error": outcome.error, "output": outcome.output}
        ended = msgspec.structs.replace(attempt.rollout.attempt, ended_at=time.time(), **told)
        spans.append(self._root(attempt, outcome, started))
        result = RolloutResult(rollout=msgspec.structs.replace(attempt.rollout, attempt=ended), spans=tuple(spans), rewards=tuple(rewards))
        missing: list[Span] = []
        if outcome.failure not in (Failure.INFRASTRUCTURE, Failure.CANCELLED) and self._plugins.judges():
            try:
                result, judged_by = await self._judged(result)
                rewards += [item for item in judged_by if isinstance(item, Reward)]
                missing = [missing_span(result, item) for item in judged_by if not isinstance(item, Reward)]
            except asyncio.CancelledError as error:
                if not stopped_from_outside(error):
                    raise
                outcome = _STOPPED
        outcome, rewards = self._settled(attempt.rollout, outcome, rewards)
        again = outcome.failure is not None and attempt.rollout.policy(outcome.failure) == RETRY
        await self._store.finish(
            attempt.attempt_id,
            outcome.status,
            failure=outcome.failure,
            error=outcome.error,
            output=outcome.output,
            spans=[*spans, *missing],
            rewards=rewards,
            # Only what differs from every store's own rule is said.
            **({} if again == (outcome.failure == Failure.INFRASTRUCTURE) else {"retry": again}),
        )
        result = msgspec.structs.replace(result, spans=(*result.spans, *missing), rewards=tuple(rewards))
        await self._plugins.observe("agl_rollout_ended", result=result)
        if outcome.cancelled:
            raise asyncio.CancelledError

    def _settled(self, rollout: Rollout, outcome: _Outcome, rewards: list[Reward]) -> tuple[_Outcome, list[Reward]]:
        """The outcome and the rewards with what the policies say of a failure, and of a reward that is missing."""
        # Where rewards are combined, the final one is made when the siblings have ended, too.
        combining = rollout.reward_weights is not None
        whole = (reward for reward in rewards if reward.role is None and reward.span_id is None)
        judged = not combining and any(reward.name == FINAL for reward in whole)
        if outcome.failure is not None:
            policy = rollout.policy(outcome.failure)
            given = (None if judged else self._failure_reward) if policy == REWARD else policy
            return outcome, rewards if given is None or isinstance(given, str) else [*rewards, make_reward(given, source=FAILURE)]
        if not judged and not combining and rollout.reward_timeout is None:
            outcome = outcome.failed(Failure.REWARD, _no_reward(self._agent.spec.name, outcome.output))
        return outcome, rewards

    async def _cut(self, rollout: Rollout, outcome: _Outcome) -> _Outcome:
        """The outcome, as a failure where an answer was cut at its token limit and the Trainer asked for more than its reward."""
        if outcome.failure is not None or rollout.policy(Failure.TRUNCATED) == REWARD:
            return outcome
        assert rollout.attempt is not None
        (stored,) = await self._store.results([rollout.rollout_id])
        cut = sum(self._agent.roles.why_not(span.role) is None and was_cut(span) for span in stored.spans)
        return outcome if not cut else outcome.failed(Failure.TRUNCATED, f"{cut} answers were cut at their token limit (`max_tokens`)")

    async def _judged(self, result: RolloutResult) -> tuple[RolloutResult, list[Judgement]]:
        """What the plugins judge, and the attempt as they saw it: with its LLM calls, which are in the store already, in order."""
        assert result.rollout.attempt is not None
        attempt_id = result.rollout.attempt.attempt_id
        self.running.add(attempt_id)  # a judge may take longer than a worker may be silent
        try:
            (stored,) = await self._store.results([result.rollout.rollout_id])
            calls = (span for span in stored.spans if span.attempt_id == attempt_id)
            spans = {span.span_id: span for span in (*calls, *result.spans)}
            result = msgspec.structs.replace(result, spans=tuple(sorted(spans.values(), key=lambda span: span.started_at)))
            return result, await self._plugins.rewards(result)
        finally:
            self.running.discard(attempt_id)

    def _root(self, attempt: ActiveAttempt, outcome: _Outcome, started: float) -> Span:
        return attempt.make_span(
            span_id=attempt.root_id,
            name=self._agent.spec.name,
            kind=SpanKind.AGENT,
            started_at=started,
            status=SpanStatus.ERROR if outcome.failure else SpanStatus.OK,
            error=outcome.error.strip().splitlines()[-1] if outcome.error else None,
            attributes={"output": outcome.output} | ({USED_PROMPTS: sorted(attempt.used_prompts)} if attempt.used_prompts else {}),
        )


def _no_reward(name: str, output: Any) -> str:
    later = "where one comes later, give `Trainer(reward_timeout=…)`"
    if output is None:
        return f"no reward: `{name}` returned None and emitted none; return a float, give `reward=`, or call `agl.emit_reward`; {later}"
    return (
        f"no reward: `{name}` emitted none, and what it returned is its output, for `reward=` or a judge (`Trainer(rewards=[…])`) to judge; give one "
        f"of them, call `agl.emit_reward`, or mark a function that returns its reward with `@agl.rollout`; {later}"
    )


class _Outcome(msgspec.Struct, kw_only=False):
    """How an attempt ended."""

    status: AttemptStatus
    failure: Failure | None
    error: str | None
    output: Any = None
    rewards: list[Reward] = []
    cancelled: bool = False

    def failed(self, failure: Failure, error: str) -> _Outcome:
        return msgspec.structs.replace(self, status=AttemptStatus.FAILED, failure=failure, error=error)


_STOPPED = _Outcome(AttemptStatus.CANCELLED, Failure.CANCELLED, "stopped from outside", cancelled=True)
