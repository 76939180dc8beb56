"""Trainer: composes agent, algorithm, store, gateway and runners; holds no learning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, overload

import msgspec

from agl.algorithms import Algorithm, DryRun
from agl.compat.options import OldOptions, translate
from agl.compat.tracing import AdapterSpec, as_adapter
from agl.console import Console
from agl.credit import split_credit
from agl.discovery import CORE
from agl.errors import ConfigError
from agl.executors import Executor
from agl.failures import ATTEMPTS, FAILURE_REWARD, check_effect, read_policies
from agl.fitted import FitResult
from agl.gateway.endpoints import read_patience
from agl.gateway.server import Gateway
from agl.gateway.wire import PLACEHOLDER_KEY
from agl.given import (
    at_least,
    check_learned,
    check_reachable,
    check_served,
    first_tasks,
    make_datasets,
    read_algorithm,
    read_executor,
    read_resources,
    read_seconds,
    takes_rewards,
)
from agl.judges import given_rewards
from agl.loop import frozen_garbage, raises_here, run_in_loop
from agl.plugins import Plugins
from agl.prompting import check as check_prompts
from agl.registry import check_sections
from agl.resources import Resource, Resources
from agl.results import Evaluation, RolloutResult
from agl.resuming import run_to_resume
from agl.roles import Roles
from agl.rollouts import new_id
from agl.runner import BoundAgent
from agl.runs import Run
from agl.settings import DEFAULT_STORE, read_settings
from agl.store.base import RunRecord, Store
from agl.store.opening import StoreSpec, opened, path_of, without_passwords
from agl.store.urls import StoreURL, without_password
from agl.tasks import Mode
from agl.trackers import TrackedRun, Tracker, Trackers, make_trackers
from agl.weights import Weights

T = TypeVar("T")

RESUME_VARIABLE = "AGL_RESUME"
"""Id of the run that `fit` goes on with, or `latest`; `agl train --resume` sets it."""


class Trainer:
    """Trains, tries and evaluates an agent.

    Args:
        algorithm: an `Algorithm`, or the name of an installed one, made with the options of `[algorithms.NAME]` in agl.toml.
        n_runners: most rollouts at the same time (`n_workers` is its old name).
        adapter: `{"agent_match": regex}`: only calls of matching roles are learned from. `{"credit": name}`: how a rollout's rewards become
            those of its calls: `lightning` (the default), `discounted` with `discount`, or `gigpo` with `discount`, `step_weight` and
            `step_std`; see `agl.credit`.
        roles: `{"writer": "train", "checker": "freeze"}`: what is done with the calls of a role, by its path or a part of it;
            the longest name wins. `train` is the default, `freeze` learns nothing from them, `original` leaves them to the
            agent's own endpoint, key, model and parameters, and the name of an `LLM` resource sends them to that one, where
            nothing is learned from them. If one role is named `train`, only named ones are.
        initial_resources: LLMs and prompt templates by name, beside the algorithm's own; an LLM under a name that the algorithm serves
            itself is refused. Calls go to the algorithm's first LLM, else to the first of these, unless `roles` or the model's
            name in a call names another. A template named as `agl.prompts` lists it (`writer.system_prompt`) is put into the calls of
            that role.
        store: path of the SQLite file, a URL such as `postgresql://user:password@host/database`, a `Store` (which stays open), the
            name of a driver of `agl.stores`, or `{"driver": name, option: value}`. The default is `.agl/store.sqlite`; see docs/stores.md.
        executor: what runs the attempts: the name of a driver of `agl.executors`, or a class derived from `Executor`.
            `thread` (the default) runs agents in this process, `process` in `n_runners` others, `ray` on a Ray cluster; see docs/executors.md.
        trackers: told how the run goes: `Tracker` objects, or names of drivers of `agl.trackers`, with their first argument
            where wanted (`jsonl=runs.jsonl`).
        plugins: plugin objects for this Trainer alone.
        rewards: judges for this Trainer alone: functions `(result) -> float | Reward | list | None`, objects with `agl_reward`
            or `agl_group_reward`, or names of installed ones.
        reward_weights: numbers by reward name; the weighted sum is the final reward. `reward`, the agent's own, and each of
            `rewards` weigh 1.0 unless told; 0 records only. A weighted reward that is missing leaves a rollout without one.
        seed: of everything that is drawn.
        timeout: seconds that one attempt may take; None for no limit. What its calls wait for a change of weights does not count.
        max_attempts: tries at a rollout whose endpoint or worker failed.
        failure_reward: reward of a rollout in which the agent itself failed; None excludes it from its group.
        failures: what is done with failed attempts, by class, where it differs from the defaults: `{"infrastructure": "retry",
            "agent": "reward", "timeout": "reward", "truncated": "reward"}`. `retry` is again while attempts are left, then excluded;
            `exclude` is out of its group; `reward` is learned from with its own reward or else `failure_reward`; a number is its
            reward whatever the agent gave itself.
        reward_timeout: seconds after a rollout's end for which its missing reward is waited for (`agl.add_reward`, `agl reward`); None
            when it must be there at the end.
        agent_rewards: `accept` (the default), or `refuse`: rewards from the agent's side (emitted by its code, posted to its reward URL, a
            program's last line) do not count. What a function agent returns, `reward=` functions and judges always do.
        patience: with the endpoints of models, where it differs from `{"tries": 4, "backoff": 0.1, "longest_wait": 2.0, "check_every": 2.0}`,
            times in seconds; see docs/endpoints.md.
        host: address of the gateway; the loopback unless told. With agents on other machines (`ray`): this machine's, as they know it.
        gateway_port: 0 for any free one.
        quiet: print nothing.
        old: options of Agent Lightning; see docs/migrate.md.

    Raises:
        ConfigError: an option that cannot work, or two that contradict.
    """

    def __init__(
        self,
        *,
        algorithm: Algorithm | str | None = None,
        n_runners: int | None = None,
        n_workers: int | None = None,
        adapter: AdapterSpec | None = None,
        roles: Mapping[str, str] | None = None,
        initial_resources: Mapping[str, Resource] | None = None,
        store: StoreSpec | None = None,
        executor: str | type[Executor] | None = None,
        trackers: Iterable[Tracker | str] | None = None,
        plugins: Iterable[Any] = (),
        rewards: Iterable[Any] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        timeout: float | None = 600.0,
        max_attempts: int = ATTEMPTS,
        failure_reward: float | None = FAILURE_REWARD,
        failures: Mapping[str, str | float] | None = None,
        reward_timeout: float | None = None,
        agent_rewards: str | None = None,
        patience: Mapping[str, float] | None = None,
        host: str = "127.0.0.1",
        gateway_port: int = 0,
        quiet: bool = False,
        **old: Unpack[OldOptions],
    ) -> None:
        hooks, n_runners = translate(old, n_runners)
        if n_runners is not None and n_workers is not None:
            raise ConfigError("`n_workers` is the old name of `n_runners`; give one of them")
        all_settings = read_settings()
        check_sections(all_settings)
        settings = all_settings.trainer
        asked = [count for count in (n_runners, n_workers, settings.n_runners) if count is not None]
        self.n_runners = at_least(1, asked[0] if asked else 8, "n_runners")
        self.credit, adapter = split_credit(adapter)
        self.adapter = as_adapter(adapter)
        self.roles = Roles(self.adapter.agent_match, roles)
        self.algorithm = read_algorithm(algorithm if algorithm is not None else settings.algorithm, all_settings)
        self.initial_resources = read_resources(initial_resources or {})
        if self.algorithm is None:  # else its own models are known when it has started
            self.roles.check(Resources(version=0, values=self.initial_resources).llms())
        store = store if store is not None else settings.store or DEFAULT_STORE
        self.store: StoreSpec = path_of(store) or (StoreURL(store) if isinstance(store, str) else store)
        self.executor = read_executor(executor or settings.executor or f"{CORE}:thread")
        self.trackers = make_trackers(trackers if trackers is not None else settings.trackers or ())
        self.seed = seed
        self.timeout, self.max_attempts = read_seconds(timeout, "timeout"), at_least(1, max_attempts, "max_attempts")
        self.failure_reward = failure_reward
        self.failures = read_policies(failures if failures is not None else settings.failures, max_attempts)
        check_effect(self.failures, max_attempts, failure_reward)
        self.reward_timeout = read_seconds(reward_timeout if reward_timeout is not None else settings.reward_timeout, "reward_timeout")
        self.takes_rewards = takes_rewards(agent_rewards or settings.agent_rewards or "accept")
        self.patience = read_patience(patience if patience is not None else settings.patience)
        self.host, self.gateway_port = host, gateway_port
        self.console = Console(quiet=quiet)
        self.rewards = given_rewards(rewards if rewards is not None else settings.rewards or (), all_settings.rewards)
        self.reward_weights = reward_weights if reward_weights is not None else settings.reward_weights
        self.plugins = Plugins([*plugins, *hooks, *(given.plugin() for given in self.rewards)])
        self._weights()  # refuses what cannot work
        self.plugins.check()
        self._check_credit()
        self.plugins.configure(self._config())

    @overload
    def fit(
        self,
        agent: Any,
        train_dataset: Any,
        val_dataset: Any = None,
        *,
        test_dataset: Any = None,
        resume: bool | str | None = None,
        dry_run: Literal[False] = False,
    ) -> FitResult: ...

    @overload
    def fit(
        self,
        agent: Any,
        train_dataset: Any,
        val_dataset: Any = None,
        *,
        test_dataset: Any = None,
        resume: bool | str | None = None,
        dry_run: Literal[True],
    ) -> DryRun: ...

    def fit(
        self,
        agent: Any,
        train_dataset: Any,
        val_dataset: Any = None,
        *,
        test_dataset: Any = None,
        resume: bool | str | None = None,
        dry_run: bool = False,
    ) -> FitResult | DryRun:
        """Let the algorithm learn from the agent's rollouts.

        Args:
            agent: `agl.agent(…)`, an `@agl.rollout` function, a `LitAgent`, or anything an installed plugin recognises.
            train_dataset: sequence of dicts.
            val_dataset: measured during learning.
            test_dataset: measured once before and once after learning; nothing is chosen by it.
            resume: True for the store's latest unfinished run, or a run's id: goes on after its last checkpoint.
            dry_run: check and count all that can be known before anything starts, say it, and start nothing; for algorithms that have it.

        Raises:
            ConfigError: before anything starts; of a dry run: with everything that would not work.
            KeyboardInterrupt: after a clean end by Ctrl-C; `agl train --resume` goes on.
        """
        if self.algorithm is None:
            raise ConfigError("`fit` needs `algorithm=`, such as `agl.GRPO(model=…)`; to try the agent without learning use `dev`")
        if dry_run and resume:
            raise ConfigError("a dry run starts nothing, so that `resume` has no effect; give one of the two")
        if resume is None:
            resume = os.environ.get(RESUME_VARIABLE) or None
        datasets = make_datasets(train=train_dataset, val=val_dataset, test=test_dataset)
        check_served(self.algorithm, self.initial_resources)
        check_learned(self.algorithm, self.roles, self.credit)
        if dry_run:
            return self._dry_run(agent, datasets)
        return run_in_loop(lambda: self._fit(agent, datasets, resume), self.console.say)

    def _dry_run(self, agent: Any, datasets: dict[str, Any]) -> DryRun:
        assert self.algorithm is not None
        self._bind(agent, datasets)
        found = self.algorithm.dry_run(train=len(datasets["train"]), val=len(datasets.get("val", ())))
        for name, text in found.facts.items():
            self.console.say(f"{name}: {text}")
        if found.problems:
            raise ConfigError("this run would not work: " + "; ".join(found.problems))
        return found

    async def _fit(self, agent: Any, datasets: dict[str, Any], resume: bool | str | None) -> FitResult:
        assert self.algorithm is not None
        async with self._session(agent, datasets, self.store, resume=resume) as run:
            status = "failed"
            try:
                first = run.resources
                before = await self._test(run, first=True)
                started = time.monotonic()
                await self.algorithm.fit(run)
                seconds = time.monotonic() - started
                after = await self._test(run, first=False)
                first = await _with_first_prompts(run, first)
                status = "done"
            except asyncio.CancelledError:
                status = "stopped"
                self.console.say(f"stopped after {run.finished} steps; go on with: {self._how_to_resume(run.id)}")
                raise
            finally:
                await run.store.update_run(run.id, status=status)
            return FitResult(
                run_id=run.id,
                directory=run.directory,
                store=self.store,
                resources=run.resources,
                seconds=seconds,
                before=before,
                after=after,
                first=first,
                said=self.algorithm.summary(),
            )

    def _how_to_resume(self, run_id: str) -> str:
        if not isinstance(self.store, Path | str):  # what the command line cannot name
            return f"fit(…, resume={run_id!r})"
        default = self.store == Path(DEFAULT_STORE)
        return f"agl train --resume {run_id}" + ("" if default else f" --store {shlex.quote(without_password(str(self.store)))}")

    async def _test(self, run: Run, *, first: bool) -> Evaluation | None:
        if not len(run.test):
            return None
        for line in run.read("evaluations.jsonl"):
            if line["mode"] == Mode.TEST and await self._holds(run, line, first):
                results = await run.store.results(line["rollouts"])
                return Evaluation(results=tuple(results), mode="test", step=line["step"], resources_version=line["version"])
        return await run.evaluate(run.test, mode=Mode.TEST)

    async def _holds(self, run: Run, line: dict[str, Any], first: bool) -> bool:
        """Whether a test need not be made again: the first one of a run that was stopped, or one of the same prompts."""
        if first:
            return line["step"] == 0
        only_prompts = self.algorithm is not None and self.algorithm.only_prompts
        return only_prompts and (await run.store.resources(run.id, line["version"])).values == run.resources.values

    def dev(self, agent: Any, dev_dataset: Any = None, *, train_dataset: Any = None, val_dataset: Any = None) -> list[RolloutResult]:
        """A dry run of at most ten tasks against `initial_resources`: prints every span as a tree with the reward, changes nothing.

        Args:
            agent: as `fit` takes it.
            dev_dataset: a dataset, whatever it is for; the agent runs as in validation.
            train_dataset: another name of `dev_dataset`.
            val_dataset: a second dataset, of which as many are run.

        Raises:
            ConfigError: before anything starts.
        """
        if (dev_dataset is None) == (train_dataset is None):
            raise ConfigError("`dev` needs one dataset, `dev_dataset`; `train_dataset` is another name of it")
        datasets = make_datasets(train=first_tasks(train_dataset if dev_dataset is None else dev_dataset), val=first_tasks(val_dataset))
        return run_in_loop(lambda: self._dev(agent, datasets), self.console.say)

    async def _dev(self, agent: Any, datasets: dict[str, Any]) -> list[RolloutResult]:
        with tempfile.TemporaryDirectory() as folder:
            async with self._session(agent, datasets, Path(folder) / "store.sqlite", dry=True) as run:
                groups = await run.rollout([*run.train, *run.val], mode=Mode.VAL, strict=False)
        results = [group.results[0] for group in groups]
        for result in results:
            self.console.rollout(result)
        return results

    def evaluate(self, agent: Any, dataset: Any) -> Evaluation:
        """Mean reward of the agent on a dataset, with the resources that the algorithm starts with, or `initial_resources`.

        Raises:
            ConfigError: before anything starts.
        """
        datasets = make_datasets(test=dataset)
        if self.algorithm is not None:
            check_served(self.algorithm, self.initial_resources)
        return run_in_loop(lambda: self._evaluate(agent, datasets), self.console.say)

    async def _evaluate(self, agent: Any, datasets: dict[str, Any]) -> Evaluation:
        async with self._session(agent, datasets, self.store) as run:
            evaluation = await run.evaluate(run.test, mode=Mode.TEST)
            await run.store.update_run(run.id, status="done")
            return evaluation

    def _bind(self, agent: Any, datasets: dict[str, Any]) -> tuple[BoundAgent, Any]:
        """The agent with its adapter, and its prompts; checked on the first task of each dataset."""
        bound = BoundAgent(agent, self.plugins, self.roles, takes_rewards=self.takes_rewards)
        self.executor.check(bound, self.plugins)
        prompts = self.plugins.prompts(bound.spec.agent)
        check_prompts(self.initial_resources, self.roles, prompts)
        for name, tasks in datasets.items():
            try:
                bound.input(tasks[0].data)
            except ConfigError as error:
                raise ConfigError(f"`{name}_dataset[0]`: {error}") from error.__cause__
        return bound, prompts

    @contextlib.asynccontextmanager
    async def _session(
        self, agent: Any, datasets: dict[str, Any], place: StoreSpec, *, dry: bool = False, resume: bool | str | None = None
    ) -> AsyncGenerator[Run]:
        """Store, gateway, algorithm and runners, up for one run; taken down whatever happens. A dry run has no algorithm and no trackers."""
        bound, prompts = self._bind(agent, datasets)
        learner = None if dry else self.algorithm
        if learner is None:
            check_reachable(self.initial_resources)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_placeholder_key())
            store = stack.enter_context(opened(place))
            stack.callback(self._say_what_judging_cost)
            stack.callback(self._say_what_was_isolated)
            trackers = Trackers(() if dry else self.trackers)
            gateway = Gateway(store, host=self.host, port=self.gateway_port, patience=self.patience)
            run = await self._open_run(store, datasets, resume, trackers, store.folder if dry else None, gateway)
            run.prompts = prompts or {}
            stack.push_async_callback(_closed, run, trackers)
            if not dry:
                self._say_what_came_late(await store.late_rewards())
            tracked = TrackedRun(run_id=run.id, config=self._config(), seed=self.seed, directory=run.directory, step=run.finished)
            await trackers.tell("run_started", tracked)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            executor = self.executor(
                run_id=run.id,
                agent=bound,
                store=store,
                gateway=gateway,
                plugins=self.plugins,
                n_runners=self.n_runners,
                failure_reward=self.failure_reward,
            )
            if not executor.after_algorithm:
                await _started(executor, stack)
            values = dict(self.initial_resources)
            run.resources = run.resources.replace(values)
            if learner is not None:
                stack.push_async_callback(learner.stop)
                started = await learner.start(run)
                values = {**started, **{name: value for name, value in values.items() if name not in started}}
            check_prompts(values, self.roles, prompts)
            self.roles.check(Resources(version=0, values=values).llms())
            await run.publish(metrics=None, **values)
            if executor.after_algorithm:
                await _started(executor, stack)
            work = asyncio.ensure_future(executor.run())
            stack.push_async_callback(_end, work)
            stack.push_async_callback(store.cancel, run.id)
            stack.enter_context(frozen_garbage())
            with raises_here(work):
                yield run

    async def _open_run(
        self,
        store: Store,
        datasets: dict[str, Any],
        resume: bool | str | None,
        trackers: Trackers,
        directory: Path | None,
        gateway: Gateway,
    ) -> Run:
        old = await self._to_resume(store, resume) if resume else None
        run_id = old.run_id if old else new_id("run")[:12]
        if directory is None:
            directory = Path(old.directory) if old else store.folder.absolute() / "runs" / run_id
        directory.mkdir(parents=True, exist_ok=True)
        run = Run(
            run_id=run_id,
            directory=directory,
            seed=self.seed,
            store=store,
            plugins=self.plugins,
            console=self.console,
            trackers=trackers,
            datasets=datasets,
            roles=self.roles,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
            failures=self.failures,
            reward_timeout=self.reward_timeout,
            credit=self.credit,
            weights=self._weights(),
            gateway=gateway,
        )
        if old is not None:
            await store.cancel(run_id)
            found = run.restore()
            await store.update_run(run_id, status="running")
            self.console.say(
                f"run {run_id} goes on after step {run.finished}" if found else f"run {run_id} had no checkpoint and starts anew"
            )
            return run
        record = RunRecord(
            run_id=run_id,
            created_at=time.time(),
            status="running",
            step=0,
            seed=self.seed,
            config=self._config(),
            command=[sys.executable, *map(without_passwords, sys.orig_argv[1:])],
            folder=os.getcwd(),
            directory=str(directory),
        )
        await store.create_run(record)
        return run

    async def _to_resume(self, store: Store, resume: bool | str) -> RunRecord:
        record = await run_to_resume(store, "latest" if resume is True else str(resume))
        now = self._config()
        differs = sorted(name for name in {*now, *record.config} if now.get(name) != record.config.get(name))
        if differs:
            values = ", ".join(f"{name} was {record.config.get(name)!r} and is {now.get(name)!r}" for name in differs)
            raise ConfigError(f"run `{record.run_id}` can only go on with its own configuration: {values}")
        return record

    def _weights(self) -> Weights:
        return Weights(self.rewards, self.reward_weights, active=self.plugins.compares())

    def _say_what_was_isolated(self) -> None:
        """Failures of observers never stop a run; here they are counted."""
        for where, count in self.plugins.observer_failures.items():
            self.console.say(f"plugin hook {where} failed {count} time{'s' if count > 1 else ''}")

    def _say_what_came_late(self, rollouts: Mapping[str, int]) -> None:
        """Rewards that no step waited for: other weights have sampled those answers, so that no policy loss takes them."""
        if rollouts:
            run, count = list(rollouts.items())[-1]
            before = sum(rollouts.values()) - count
            self.console.say(
                f"{count} rollouts of run {run}"
                + (f" (and {before} of runs before it)" if before else "")
                + " have rewards that came after "
                f"their step; this run does not learn from them: `agl export {run} --late --to trl-kto --label-at 0.5` makes a dataset of them"
            )

    def _say_what_judging_cost(self) -> None:
        for given in self.rewards:
            if summary := given.summary():
                self.console.say(f"reward {given.name}: {summary}")

    def _check_credit(self) -> None:
        if self.credit is not None and (brought := self.plugins.brings_credit()):
            raise ConfigError(
                f"credit is assigned by the plugin `{brought}`, and `adapter` names `{self.credit.name}`; take one of them away"
            )

    def _config(self) -> dict[str, Any]:
        """What a resumed run must share with its beginning, as JSON."""
        pattern = self.roles.pattern.pattern if self.roles.pattern else None
        options = {f"algorithm.{name}": value for name, value in (self.algorithm.config() if self.algorithm else {}).items()}
        given: dict[str, Any] = {
            "algorithm": self.algorithm.name if self.algorithm else None,
            "agent_match": pattern,
            "roles": self.roles.roles,
            "seed": self.seed,
            "failure_reward": self.failure_reward,
            "rewards": {reward.name: reward.config() for reward in self.rewards},
            "reward_weights": self._weights().asked,
        }
        if not self.takes_rewards:
            given["agent_rewards"] = "refuse"
        if self.failures:
            given["failures"] = self.failures
        if self.credit is not None:
            given["credit"] = msgspec.to_builtins(self.credit)
        return msgspec.to_builtins({**given, **options}, enc_hook=str)


@contextlib.contextmanager
def _placeholder_key() -> Any:
    """Clients refuse to be built without a key, long before the attempt's own is put in."""
    if "OPENAI_API_KEY" in os.environ:
        yield
        return
    os.environ["OPENAI_API_KEY"] = PLACEHOLDER_KEY
    try:
        yield
    finally:
        os.environ.pop("OPENAI_API_KEY", None)


async def _closed(run: Run, trackers: Trackers) -> None:
    """A run that nobody ended otherwise has failed: no record says `running` for ever."""
    status = (await run.store.run(run.id)).status
    if status == "running":
        status = "failed"
        await run.store.update_run(run.id, status=status)
    await trackers.tell("run_ended", status)


async def _with_first_prompts(run: Run, first: Resources) -> Resources:
    """The resources that a run began with, and prompts that only its calls told as they were published first."""
    missing = run.resources.prompts().keys() - first.prompts().keys()
    for version in range(first.version + 1, run.resources.version):
        if not missing:
            break
        found = (await run.store.resources(run.id, version)).prompts()
        first = first.replace({name: found[name] for name in missing & found.keys()})
        missing = missing - found.keys()
    return first


async def _started(executor: Executor, stack: contextlib.AsyncExitStack) -> None:
    stack.push_async_callback(executor.stop)
    await executor.start()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
