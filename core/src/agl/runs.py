"""Run: what one `fit` is, and all that an algorithm sees of the world."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agl.console import Console
from agl.credit import Credit
from agl.engines import Engine
from agl.errors import AglError, GatewayError, RewardError
from agl.feedback import late_rewards
from agl.gateway.server import Gateway
from agl.learned import drop_learned, write_learned
from agl.plugins import Plugins
from agl.prompting import prompts_of, unused
from agl.resources import PromptTemplate, Resource, Resources
from agl.results import Evaluation, Group, RolloutResult
from agl.roles import Roles
from agl.rollouts import RETRY, Failure, Rollout, new_id
from agl.store.base import Store
from agl.tasks import Mode, Task
from agl.trackers import Trackers
from agl.transitions import Row, transitions_of
from agl.verdicts import Verdicts
from agl.weights import Weights

StepMetrics = dict[str, Any]
EXPIRE_SECONDS = 60.0
"""Silence after which a worker counts as lost: six heartbeats."""
KEEP_CHECKPOINTS = 2


class TaskSet:
    """The tasks of one dataset; `sample` goes through them in shuffled epochs."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.tasks = tuple(tasks)
        self._seed = seed
        self.cursor = 0
        """How many tasks have been drawn; part of a checkpoint."""

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def sample(self, n: int) -> list[Task]:
        """The next `n` tasks: every task once per epoch, in an order that the run's seed and the epoch decide."""
        places = range(self.cursor, self.cursor + n)
        orders = {epoch: self._order(epoch) for epoch in {place // len(self.tasks) for place in places}}
        self.cursor += n
        return [self.tasks[orders[place // len(self.tasks)][place % len(self.tasks)]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.tasks)))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return order


class Run:
    """One `fit`: its id, datasets, store, metrics and checkpoints.

    An algorithm asks for rollouts, publishes resources and evaluates through it; who runs the agents, and where, it does
    not see.
    """

    def __init__(
        self,
        *,
        run_id: str,
        directory: Path,
        seed: int,
        store: Store,
        plugins: Plugins,
        console: Console,
        datasets: dict[str, Sequence[Task]],
        roles: Roles,
        timeout: float | None,
        max_attempts: int,
        weights: Weights | None = None,
        trackers: Trackers | None = None,
        failures: Mapping[str, str | float] | None = None,
        reward_timeout: float | None = None,
        credit: Credit | None = None,
        gateway: Gateway | None = None,
    ) -> None:
        self.id = run_id
        self.directory = directory
        self.seed = seed
        self.store = store
        self.console = console
        self.train = TaskSet(datasets.get("train", ()), seed)
        self.val = TaskSet(datasets.get("val", ()), seed)
        self.test = TaskSet(datasets.get("test", ()), seed)
        self.step = 0
        """The step that runs now, from 0."""
        self.finished = 0
        """Steps whose resources are published."""
        self.started = 0
        """The first step of this `fit`: what a resumed run goes on with."""
        self.resources = Resources(version=0, values={})
        """The newest published version."""
        self.restored: Path | None = None
        """Folder of the checkpoint that this run goes on from."""
        self.prompts: Mapping[str, PromptTemplate] = {}
        """The agent's own prompts, by the names under which resources replace them; empty where they are not known before it runs."""
        self._plugins, self._roles, self._timeout, self._max_attempts = plugins, roles, timeout, max_attempts
        self._verdicts = Verdicts(store, plugins, weights or Weights(active=plugins.compares()))
        self._trackers = Trackers() if trackers is None else trackers
        self._failures, self._reward_timeout, self._credit = dict(failures or {}), reward_timeout, credit
        self._gateway = gateway
        self._seen_prompts: set[str] = set()  # of which it is known whether the agent has a place for them
        self._cursor = 0  # of the training tasks, after the finished steps
        self._step_started = time.monotonic()

    def steps(self, total: int) -> Iterator[int]:
        """Step numbers that are left of `total`; the console shows them."""
        self.console.total_steps, self.started = total, self.finished
        for self.step in range(self.finished, total):  # noqa: B020
            self._step_started = time.monotonic()
            yield self.step

    async def rollout(
        self,
        tasks: Sequence[Task],
        *,
        n: int = 1,
        mode: Mode = Mode.TRAIN,
        strict: bool = True,
        resources: Resources | None = None,
        key: str | None = None,
    ) -> list[Group]:
        """Run the agent `n` times on each task; returns when all have ended. Calls may run at the same time.

        Args:
            strict: raise when a batch went wrong as a whole, rather than return it.
            resources: the published version to run under; None for the newest.
            key: at most 24 characters after which groups and seeds are named, in place of the step. Calls of one step that must not have the
                same seeds need different ones.

        Returns:
            One group per task, in the order given, with every rollout in it: failed ones are classed.

        Raises:
            GatewayError: the endpoint failed every rollout.
            RewardError: most rollouts have no usable reward.
            AglError: every rollout failed.
        """
        used = self.resources if resources is None else resources
        make = functools.partial(self._rollout, mode=mode, key=key, version=used.version, weights=self._verdicts.weights.for_group(n))
        rollouts = [make(task, index, sample) for index, task in enumerate(tasks) for sample in range(n)]
        await self.store.enqueue(rollouts)
        ids = [rollout.rollout_id for rollout in rollouts]
        try:
            await self._wait(ids, str(mode))
        except asyncio.CancelledError:  # nobody wants them any more
            await self.store.cancel(self.id, ids)
            raise
        found, late = await self._awaited(await self.store.results(ids))
        judged, missing = await self._verdicts.reach(_grouped(tasks, found, n))
        groups = await asyncio.to_thread(lambda: self._with_credit(_grouped(tasks, list(map(self._with_transitions, judged)), n)))
        results = [result for group in groups for result in group.results]
        if names := self._verdicts.uncounted(results):
            self.console.say(f"  the rewards {names} are recorded only: `reward_weights` gives them no weight")
        self._say_unused_prompts(results, used)
        if strict:
            self._check(results, {**late, **missing})
        return groups

    @contextlib.asynccontextmanager
    async def paused(self, engine: Engine) -> AsyncGenerator[None]:
        """For a change of weights: nothing is sampled by the engine in the block. New calls wait for its end: in the engine, or in the
        gateway where that one cannot hold them up. What they wait does not count towards their rollouts' `timeout`.

        Raises:
            EngineError, GatewayError: on entering, when running answers did not end in time; then they go on.
        """
        async with contextlib.AsyncExitStack() as stack:
            gateway, models = self._gateway, [engine.model]
            if gateway is not None and not engine.holds_calls:
                await stack.enter_async_context(gateway.paused(models))
            pause = engine.paused()
            await stack.enter_async_context(gateway.stalled(models, pause) if gateway and engine.holds_calls else pause)
            yield

    def _rollout(
        self, task: Task, index: int, sample: int, *, mode: Mode, key: str | None, version: int, weights: dict[str, float] | None
    ) -> Rollout:
        task = msgspec.structs.replace(task, mode=mode)
        step = self.step if mode == Mode.TRAIN else self.finished
        name = step if key is None else key
        digest = hashlib.blake2b(f"{self.seed}:{name}:{mode}:{index}:{task.task_id}:{sample}".encode(), digest_size=6).digest()
        return Rollout(
            rollout_id=new_id("ro"),
            run_id=self.id,
            task=task,
            group_id=f"{name}-{mode}-{index}",
            sample=sample,
            step=step,
            resources_version=version,
            seed=int.from_bytes(digest, "big"),
            timeout=self._timeout,
            max_attempts=self._max_attempts,
            created_at=time.time(),
            reward_weights=weights,
            policies=self._failures or None,
            reward_timeout=self._reward_timeout,
        )

    async def _wait(self, ids: Sequence[str], label: str) -> None:
        with self.console.rollouts(label, len(ids)) as show:
            left, checked = len(ids), time.monotonic()
            while left:
                left = await self.store.wait_ended(ids, timeout=1.0)
                show(len(ids) - left)
                if time.monotonic() - checked > EXPIRE_SECONDS / 4:
                    checked = time.monotonic()
                    again = self._failures.get(Failure.INFRASTRUCTURE, RETRY) == RETRY
                    await self.store.expire(self.id, EXPIRE_SECONDS, **({} if again else {"retry": False}))

    async def _awaited(self, results: list[RolloutResult]) -> tuple[list[RolloutResult], dict[str, str]]:
        """The results with the rewards that came while they were waited for; and by rollout id why one still lacks its own."""
        if self._reward_timeout is None:
            return results, {}
        lacks = self._verdicts.weights.awaits
        results = await late_rewards(self.store, results, lacks, self.console.say)
        why = f"no reward came within {self._reward_timeout:g} s after its end; `agl reward {{}} VALUE` gives one"
        return results, {id_: why.format(id_) for result in results if lacks(result) for id_ in [result.rollout.rollout_id]}

    def _with_transitions(self, result: RolloutResult) -> RolloutResult:
        transitions = transitions_of(result.spans, self._roles.why_not)
        assigned = transitions if self._credit else self._plugins.assign_credit(result, transitions)
        return msgspec.structs.replace(result, transitions=tuple(assigned))

    def _with_credit(self, groups: list[Group]) -> list[Group]:
        return self._credit.assign(groups) if self._credit else groups

    def learned(self, rows: Sequence[Row], advantages: Sequence[float | Sequence[float]], weights: Sequence[float]) -> None:
        """Keep what a policy loss makes of each call in this step, for `agl explain`.

        Args:
            rows: (K,) as `RolloutResult.rows` gives them.
            advantages: (K,) one per row, or (S,) per token of it.
            weights: (K,) of each trained token in the step's loss.
        """
        write_learned(self.directory, self.step, rows, advantages, weights)

    def _say_unused_prompts(self, results: Sequence[RolloutResult], used: Resources) -> None:
        """Once for each name: a prompt that no call has a place for changes nothing, and can only be seen afterwards."""
        ended = [result for result in results if result.succeeded]
        new = {name: value for name, value in used.values.items() if name not in self._seen_prompts}
        if not ended or not new:
            return
        self._seen_prompts |= new.keys()
        if names := unused(new, ended):
            there_are = sorted(prompts_of(span for result in ended for span in result.spans))
            self.console.say(f"  the prompts {names} found no place in any call; the calls had {there_are} (`agl.prompts(result)`)")

    def _check(self, results: Sequence[RolloutResult], missing: Mapping[str, str]) -> None:
        """Say loudly what no run should go on with. `missing`: why a rollout has no final reward, by its id."""

        def kind(result: RolloutResult) -> Failure | None:
            return Failure.REWARD if result.rollout.rollout_id in missing else result.failure

        failed = [result for result in results if kind(result) is not None]
        kinds = Counter(map(kind, failed))
        if not failed:
            return
        first = next((r for r in failed if kind(r) == kinds.most_common(1)[0][0]), failed[0])
        error = (first.rollout.attempt.error if first.rollout.attempt else None) or "no attempt was made"
        error = missing.get(first.rollout.rollout_id, error)
        last_line = error.strip().splitlines()[-1]
        if kinds[Failure.REWARD] * 2 > len(results):
            raise RewardError(f"{kinds[Failure.REWARD]} of {len(results)} rollouts have no usable reward; the first says: {last_line}")
        if len(failed) == len(results):
            if kinds[Failure.INFRASTRUCTURE] == len(failed):
                raise GatewayError(f"all {len(results)} rollouts failed at the endpoint; the first says: {last_line}")
            raise AglError(
                f"all {len(results)} rollouts failed ({_counts(kinds)}); the first ({first.rollout.rollout_id}) says:\n{error.strip()}\n"
                "Try the agent on a few tasks with `Trainer.dev` or `agl dev`."
            )
        self.console.failures(_counts(kinds), last_line)

    async def publish(self, *, metrics: StepMetrics | None = None, **resources: Resource) -> Resources:
        """A new version of the resources, with all other names kept; with `metrics` it ends the step."""
        self.resources = await self.store.publish(self.id, resources)
        await self._plugins.observe("agl_resources_published", run=self, resources=self.resources)
        if metrics is not None:
            self.finished, self._cursor = self.step + 1, self.train.cursor
            metrics = {
                "step": self.finished,
                "version": self.resources.version,
                **metrics,
                "seconds": round(time.monotonic() - self._step_started, 3),
            }
            self._append("metrics.jsonl", metrics)
            self.console.step(metrics)
            await self._trackers.tell("step_ended", metrics)
            await self._plugins.observe("agl_step_ended", run=self, metrics=metrics)
        return self.resources

    async def evaluate(self, tasks: TaskSet | Sequence[Task] | None = None, *, mode: Mode = Mode.VAL) -> Evaluation:
        """Run the agent once on each task (the validation dataset when none are given), with the resources' eval parameters."""
        chosen = list(self.val if tasks is None else tasks)
        groups = await self.rollout(chosen, mode=mode)
        evaluation = Evaluation(
            results=tuple(group.results[0] for group in groups),
            mode=str(mode),
            step=self.finished,
            resources_version=self.resources.version,
        )
        self._append(
            "evaluations.jsonl",
            {
                "step": self.finished,
                "mode": str(mode),
                "version": self.resources.version,
                "reward": evaluation.mean,
                "n": len(chosen),
                "excluded": dict(evaluation.excluded),
                "rollouts": [result.rollout.rollout_id for result in evaluation.results],
            },
        )
        self.console.evaluation(evaluation)
        await self._trackers.tell("evaluated", evaluation)
        return evaluation

    async def checkpoint(self, save: Callable[[Path], None]) -> Path:
        """Keep the state after the finished steps: `save` writes into the folder it is given; the folder appears whole or not at all."""
        folder = self.directory / "checkpoints" / f"step-{self.finished:06d}"
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        await asyncio.to_thread(save, partial)
        (partial / "position.json").write_text(json.dumps({"finished": self.finished, "cursor": self._cursor}))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        for old in sorted(folder.parent.glob("step-??????"))[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
        await self.store.update_run(self.id, step=self.finished)
        return folder

    def restore(self) -> bool:
        """Go on from the newest checkpoint; false when there is none, in which case the run starts anew."""
        found = sorted((self.directory / "checkpoints").glob("step-??????"))
        if found:
            self.restored = found[-1]
            position = json.loads((self.restored / "position.json").read_text())
            self.finished, self._cursor = position["finished"], position["cursor"]
            self.train.cursor = self._cursor
        self.step = self.finished
        drop_learned(self.directory, self.finished if found else 0)
        for name in ("metrics.jsonl", "evaluations.jsonl"):  # what is done again is not counted twice
            kept = [line for line in self.read(name) if found and line["step"] <= self.finished]
            (self.directory / name).write_text("".join(json.dumps(line) + "\n" for line in kept))
        return bool(found)

    def read(self, name: str) -> list[dict[str, Any]]:
        """Lines of one of the run's JSON-lines files (`metrics.jsonl`, `evaluations.jsonl`)."""
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self.directory / name).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _grouped(tasks: Sequence[Task], results: Sequence[RolloutResult], n: int) -> list[Group]:
    return [Group(task=task, results=tuple(results[i * n : (i + 1) * n])) for i, task in enumerate(tasks)]


def _counts(kinds: Counter[Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
