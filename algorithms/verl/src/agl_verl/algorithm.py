"""VERL: GRPO and its relatives on GPUs and Ray clusters, from any agent's rollouts.

VERL owns the loop: it asks for rollouts, learns from them and serves the weights. AGL owns the agents, the gateway and the data. Here the
two meet: VERL's messages become calls of the `Run`, and finished groups become VERL's batch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agl.algorithms import Algorithm, DryRun
from agl.errors import ConfigError, DataError
from agl.resources import LLM, Resource
from agl.results import Group, failures_of
from agl.runs import Run
from agl.untrained import call_counts, lacking
from agl_verl.advantages import estimator
from agl_verl.batch import Batch, Limits, make_batch, validation_samples
from agl_verl.configuration import MODEL, compose_config, run_config
from agl_verl.keys import at
from agl_verl.messages import GO, Answer, Ask, Finished, Message, Ready, StepEnded
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
        from agl_verl.checks import check_devices, check_model, check_ray, check_versions

        for one in (check_versions, check_ray, check_devices, check_model):
            one(_plain(self._run_config(1, 1, 0, Path("."), None)))
        return f"VERL on {at(self.verl, 'trainer.nnodes')} x {at(self.verl, 'trainer.n_gpus_per_node')} {at(self.verl, 'trainer.device')}"

    def dry_run(self, *, train: int, val: int) -> DryRun:
        """Checks, batch arithmetic and memory of a run; what differs from VERL's defaults."""
        from agl_verl.checks import problems
        from agl_verl.plan import facts

        config = self._run_config(train, val, 0, Path("checkpoints"), None)
        found, misfits = facts(_plain(config), self.given, train)
        return DryRun(facts=found, problems=(*problems(config, train=train, val=val), *misfits))

    def _run_config(self, train: int, val: int, seed: int, folder: Path, resume: str | None) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.create(run_config(self.verl, train=train, val=val, seed=seed, folder=folder, resume=resume))

    async def start(self, run: Run) -> Mapping[str, Resource]:
        """Check what can be checked, then bring VERL up: workers, servers, and the checkpoint's state where the run goes on."""
        from agl_verl.checks import check_all
        from agl_verl.launch import Launched

        config = self._run_config(len(run.train), len(run.val), run.seed, run.directory / "verl", _pointer(run))
        check_all(config, train=len(run.train), val=len(run.val))
        self._config = config
        self._weigh = weigher(
            at(self.verl, "actor_rollout_ref.actor.loss_agg_mode"), at(self.verl, "actor_rollout_ref.actor.loss_scale_factor")
        )
        self._launched = Launched(config)
        await self._launched.start()
        ready = await self._launched.take()
        assert isinstance(ready, Ready)
        self._ready = ready
        await self._launched.answer()
        return {"main_llm": self._llm(ready.version)}

    async def fit(self, run: Run) -> None:
        assert self._ready is not None
        steps = run.steps(self._ready.total_steps)
        next(steps, None)
        await self._launched.say(GO)
        while not isinstance(message := await self._launched.take(), Finished):
            await self._launched.answer(await self._handle(run, message, steps))
        await self._launched.answer()
        self._finished = True

    async def _handle(self, run: Run, message: Message, steps: Iterator[int]) -> Answer | None:
        if isinstance(message, StepEnded):
            await run.publish(metrics={**self._metrics, **message.metrics}, main_llm=self._llm(message.version))
            if message.checkpoint is not None:
                place = json.dumps({"path": message.checkpoint, "version": message.version})
                await run.checkpoint(lambda folder: _write(folder / POINTER, place))
            next(steps, None)
            return None
        assert isinstance(message, Ask)
        if message.validate:
            return await self._validate(run, message)
        tasks = [run.train.tasks[index] for index in message.tasks]
        groups = await run.rollout(tasks, n=message.n)
        return self._learn_from(run, groups)

    async def _validate(self, run: Run, message: Ask) -> Answer:
        """VERL's validation: its order of tasks, AGL's record of it."""
        evaluation = await run.evaluate([run.val.tasks[index] for index in message.tasks])
        return Answer(samples=validation_samples(evaluation.results))

    def _learn_from(self, run: Run, groups: Sequence[Group]) -> Answer:
        estimate = estimator(self._config.algorithm.adv_estimator, self._config.algorithm)
        batch = make_batch(groups, estimate, self._weigh, self._limits(), run.resources)
        if not batch.samples:
            raise DataError(
                f"no row of {len(batch.rows)} fits VERL's batch: {batch.dropped}; see `data.max_prompt_length` and `max_response_length`"
            )
        if run.step == run.started:  # said once: it is the same in every step
            for one in lacking(groups, run.resources):
                run.console.say(f"  {one}")
        if batch.dropped:
            run.console.say(f"  {sum(batch.dropped.values())} of {len(batch.rows)} rows are left out: {batch.dropped}")
        run.learned(batch.rows, batch.advantages, batch.weights)
        self._metrics = step_metrics(groups, batch)
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


_DEFAULT_MODEL = "~/models/deepseek-llm-7b-chat"


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
