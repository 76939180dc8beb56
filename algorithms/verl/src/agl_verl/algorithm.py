"""VERL: GRPO and its relatives on GPUs and Ray clusters, from any agent's rollouts.

VERL owns the loop: it asks for rollouts, learns from them and serves the weights. AGL owns the agents, the gateway and the data. Here the
two meet: VERL's messages become calls of the `Run`, and finished groups become VERL's batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agl.algorithms import Algorithm, DryRun
from agl.errors import ConfigError
from agl.resources import LLM, Resource
from agl.results import Group, failures_of
from agl.runs import Run
from agl.untrained import call_counts, lacking
from agl_verl.advantages import estimator
from agl_verl.batch import Batch, Limits, Sample, validation_samples
from agl_verl.collection import Collection, Servers, staleness
from agl_verl.configuration import MODEL, compose_config, run_config
from agl_verl.keys import at
from agl_verl.messages import GO, Answer, Ask, Choose, Finished, Message, Pause, Ready, StepEnded
from agl_verl.weights import weigher

POINTER = "verl.json"
"""In a checkpoint of AGL: where VERL's own checkpoint of that step is."""


class VERL(Algorithm):
    """Trains the weights behind an agent's LLM calls through VERL.

    Args:
        config: VERL's configuration as a nested dict, merged over its defaults.

    Raises:
        ConfigError: VERL is not installed, an unknown key, or a value that cannot work.
    """

    name = "verl"
    serves = ("main_llm",)

    def __init__(self, config: Mapping[str, Any] | None = None, **sections: Any) -> None:
        self.given = {**(config or {}), **sections}
        self.verl = compose_config(self.given)
        if at(self.verl, "actor_rollout_ref.model.path") in (None, _DEFAULT_MODEL):
            raise ConfigError(
                'VERL needs `{"actor_rollout_ref": {"model": {"path": …}}}`: the folder of a Hugging Face causal LM, or a hub id'
            )
        self._launched: Any = None
        self._ready: Ready | None = None
        self._finished = False
        self._metrics: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        return self.given

    def check(self) -> str:
        from agl_verl.checks import check_attention, check_devices, check_model, check_ray, check_versions

        for one in (check_versions, check_ray, check_devices, check_attention, check_model):
            one(_plain(self._run_config(1, 1, 0, Path("."), None)))
        return f"VERL on {at(self.verl, 'trainer.nnodes')} x {at(self.verl, 'trainer.n_gpus_per_node')} {at(self.verl, 'trainer.device')}"

    def dry_run(self, *, train: int, val: int) -> DryRun:
        """Checks, batch arithmetic and memory of a run; what differs from VERL's defaults."""
        from agl_verl.checks import problems
        from agl_verl.plan import facts

        config = self._run_config(train, val, 0, Path("checkpoints"), None)
        found, misfits = facts(_plain(config), self.given, train)
        return DryRun(facts=found, problems=(*problems(config, self.given, train=train, val=val), *misfits))

    def _run_config(self, train: int, val: int, seed: int, folder: Path, resume: str | None) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.create(run_config(self.verl, train=train, val=val, seed=seed, folder=folder, resume=resume))

    async def start(self, run: Run) -> Mapping[str, Resource]:
        """Check what can be checked, then bring VERL up: workers, servers, and the checkpoint's state where the run goes on."""
        from agl_verl.checks import check_all
        from agl_verl.launch import Launched

        config = self._run_config(len(run.train), len(run.val), run.seed, run.directory / "verl", _pointer(run))
        check_all(config, self.given, train=len(run.train), val=len(run.val))
        self._config = config
        self._weigh = weigher(
            at(self.verl, "actor_rollout_ref.actor.loss_agg_mode"), at(self.verl, "actor_rollout_ref.actor.loss_scale_factor")
        )
        self._launched = Launched(config)
        await self._launched.start()
        number, ready = await self._launched.take()
        assert isinstance(ready, Ready)
        self._ready = ready
        await self._launched.answer(number)
        return {"main_llm": self._llm(ready.version)}

    async def fit(self, run: Run) -> None:
        assert self._ready is not None
        steps = run.steps(self._ready.total_steps)
        next(steps, None)
        self._collection = self._collect_for(run)
        self._collection.served.publish(run.resources.version, str(self._ready.version))
        await self._launched.say(GO)
        async with contextlib.AsyncExitStack() as self._pause, _Rollouts() as rollouts:
            while True:
                number, message = await rollouts.beside(self._launched.take())
                if isinstance(message, Finished):
                    break
                if isinstance(message, Ask):
                    rollouts.start(self._answer(number, run, message))
                else:
                    await self._launched.answer(number, await self._handle(run, message, steps))
        await self._launched.answer(number)
        self._finished = True

    async def _handle(self, run: Run, message: Message, steps: Iterator[int]) -> Answer | None:
        if isinstance(message, Choose):
            return self._learn_from(run, message)
        if isinstance(message, Pause):
            await self._pause.enter_async_context(run.paused(Servers(MODEL)))  # pyright: ignore[reportArgumentType]
            return None
        assert isinstance(message, StepEnded)
        resources = await run.publish(metrics={**self._metrics, **message.metrics}, main_llm=self._llm(message.version))
        self._collection.served.publish(resources.version, str(message.version))
        if message.checkpoint is not None:
            place = json.dumps({"path": message.checkpoint, "version": message.version})
            await run.checkpoint(lambda folder: _write(folder / POINTER, place))
        next(steps, None)
        await self._pause.aclose()
        return None

    async def _answer(self, number: int, run: Run, ask: Ask) -> None:
        """Run the agents that VERL asks for, while other messages are handled."""
        samples = await self._validate(run, ask) if ask.validate else await self._collection.collect(ask)
        await self._launched.answer(number, Answer(samples=samples))

    async def _validate(self, run: Run, ask: Ask) -> tuple[Sample, ...]:
        """VERL's validation: its order of tasks, AGL's record of it."""
        evaluation = await run.evaluate([run.val.tasks[index] for index in ask.tasks for _ in range(ask.n)])
        return validation_samples(evaluation.results, ask.n)

    def _collect_for(self, run: Run) -> Collection:
        algorithm = self._config.algorithm
        return Collection(
            run,
            limits=self._limits(),
            estimate=estimator(algorithm.adv_estimator, algorithm),
            weigh=self._weigh,
            patience=2 * self._config.data.train_batch_size,
        )

    def _learn_from(self, run: Run, chosen: Choose) -> Answer:
        assert self._ready is not None
        groups, batch, gone = self._collection.choose(chosen)
        if run.step == run.started:  # said once: it is the same in every step
            for one in lacking(groups, run.resources):
                run.console.say(f"  {one}")
        if batch.dropped:
            run.console.say(f"  of {len(batch.rows)} rows are left out: {self._collection.told(groups, batch.dropped)}")
        run.learned(batch.rows, batch.advantages, batch.weights)
        version = int(run.resources["main_llm"].version)
        self._metrics = {**step_metrics(groups, batch), **staleness(batch.samples, version), "groups_left_out": gone}
        return Answer(samples=batch.samples)

    def _limits(self) -> Limits:
        data, rollout = self._config.data, self._config.actor_rollout_ref.rollout
        return Limits(prompt=data.max_prompt_length, response=data.max_response_length, temperature=rollout.temperature)

    def _llm(self, version: int) -> LLM:
        """The policy as VERL's servers have it, for agents."""
        assert self._ready is not None
        rollout = self._config.actor_rollout_ref.rollout
        first, *others = [f"http://{address}/v1" for address in self._ready.addresses]
        greedy = not rollout.val_kwargs.do_sample
        return LLM(
            endpoint=first,
            endpoints=tuple(others),
            model=MODEL,
            version=str(version),
            # top_p is set, too: the recorded log-probabilities are those of the whole distribution.
            sampling_parameters={
                "temperature": rollout.temperature,
                "top_p": rollout.top_p,
                "max_tokens": self._config.data.max_response_length,
            },
            eval_parameters={"temperature": 0.0 if greedy else rollout.val_kwargs.temperature, "top_p": rollout.val_kwargs.top_p},
        )

    async def stop(self) -> None:
        if self._launched is not None:
            launched, self._launched = self._launched, None
            await launched.stop(finished=self._finished)


class _Rollouts:
    """Requests for rollouts that are open at the same time; the first that fails ends the run, and those nobody waits for are cancelled."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def start(self, answering: Coroutine[Any, Any, None]) -> None:
        self._open.add(asyncio.ensure_future(answering))

    async def beside(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        """What `waiting` returns.

        Raises:
            Exception: that of a request that failed meanwhile.
        """
        awaited = asyncio.ensure_future(waiting)
        try:
            while not awaited.done():
                done, _ = await asyncio.wait({awaited, *self._open}, return_when=asyncio.FIRST_COMPLETED)
                for request in done & self._open:
                    self._open.discard(request)
                    request.result()
            return awaited.result()
        finally:
            awaited.cancel()

    async def __aenter__(self) -> _Rollouts:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for request in self._open:
            request.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


_DEFAULT_MODEL = "~/models/deepseek-llm-7b-chat"
"""What VERL has where nobody names a model."""


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as a dict, interpolations resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _pointer(run: Run) -> str | None:
    """VERL's checkpoint that belongs to the run's restored one.

    Raises:
        ConfigError: it is gone.
    """
    if run.restored is None:
        return None
    path = Path(json.loads((run.restored / POINTER).read_text())["path"])
    if not path.exists():
        raise ConfigError(f"VERL's checkpoint {path} of run `{run.id}` is gone; bring it back, or start anew without `resume`")
    return str(path)


def step_metrics(groups: Sequence[Group], batch: Batch) -> dict[str, Any]:
    """What the rollouts of a step were like, for its line of metrics."""
    results = [result for group in groups for result in group.results]
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    calls = [call for result in results for call in result.transitions]
    return {
        "reward": statistics.fmean(rewards) if rewards else None,
        "groups": len(groups),
        "groups_used": sum(group.has_spread() for group in groups),
        "rollouts": len(results),
        "excluded": sum(result.reward is None for result in results),
        "failures": dict(failures_of(results)),
        "rows": len(batch.rows),
        "rows_dropped": sum(batch.dropped.values()),
        **{f"dropped_{why}": count for why, count in batch.dropped.items()},
        **call_counts(calls),
        "calls": len(calls),
        "calls_trained": sum(call.trainable for call in calls),
        "sampled_tokens": sum(len(call.response_ids) for call in calls),
    }
