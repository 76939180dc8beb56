"""GRPO (DeepSeekMath, arXiv 2402.03300) on plain torch, from any agent's rollouts: the training loop.

Left out on purpose: a value model (siblings are the baseline), a third policy and its importance weight (the engine
samples from the very weights that are trained, so its log-probabilities are the old policy's), and a reference model
unless `kl_coef` asks for it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from agl.algorithms import Algorithm
from agl.engines import Engine, Policy
from agl.errors import ConfigError
from agl.registry import load
from agl.resources import LLM, Resource
from agl.runs import Run
from agl.untrained import lacking
from agl_grpo import checkpoint
from agl_grpo.collect import group_metrics, learning_rows, shuffled
from agl_grpo.learner import Learner
from agl_grpo.losses import AGGREGATIONS
from agl_grpo.models import check_model, load_policy
from agl_grpo.options import Options, read_options
from agl_grpo.schedules import Schedule

POLICY = "policy"
"""Name of the policy's folder in a checkpoint."""
ENGINE_OPTIONS = frozenset({"max_batch", "port"})


class GRPO(Algorithm):
    """Trains the weights behind an agent's LLM calls.

    Args:
        model: folder of a Hugging Face causal LM, or a hub id.
        engine: what serves the policy: the name of a driver of `agl.engines`, with its first argument where wanted
            (`vllm=http://127.0.0.1:8000/v1`), or an `agl.engines.Engine`.
        options: see `Options`.

    Raises:
        ConfigError: an unknown option, or a value that cannot work.
    """

    name = "grpo"
    serves = ("main_llm",)

    def __init__(self, model: str | Path | None = None, *, engine: str | Engine = "native", **options: Any) -> None:
        if model is None:
            raise ConfigError(
                "GRPO needs `model=`: the folder of a Hugging Face causal LM, or a hub id such as `Qwen/Qwen2.5-0.5B-Instruct`"
            )
        self.model = str(model)
        self.options: Options = read_options(options)
        self.engine = _engine(engine, self.options, set(options))

    def config(self) -> dict[str, Any]:
        return {"model": self.model, "engine": self.engine.name, **msgspec.to_builtins(self.options)}

    def check(self) -> str:
        return check_model(self.model, self.options.device)

    async def start(self, run: Run) -> Mapping[str, Resource]:
        """Load the policy, serve it, and put the run's checkpoint back if it has one."""
        o = self.options
        if o.val_every and not len(run.val):
            raise ConfigError(f"`val_every={o.val_every}` has no effect without `val_dataset`; give one, or leave the option out")
        if o.threads:
            torch.set_num_threads(o.threads)
        torch.manual_seed(run.seed)
        # One thread for all of the learning: torch's large blocks are kept per thread, so that each new one pays for them again.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agl-learner")
        load = functools.partial(load_policy, self.model, dtype=getattr(torch, o.dtype), device=o.device, lora=o.adapter())
        model, self.tokenizer = await self._in_thread(load)
        self.learner = Learner(
            model,
            lr=o.lr,
            weight_decay=o.weight_decay,
            max_grad_norm=o.max_grad_norm,
            clip_low=o.clip_low,
            clip_high=o.clip_high,
            kl_coef=o.kl_coef,
            minibatches=o.minibatches,
            micro_batch_tokens=o.micro_batch_tokens,
            aggregation=o.aggregation,
            schedule=Schedule(o.schedule, o.warmup, o.steps * o.minibatches, o.lr_floor),
            seed=run.seed,
        )
        if run.restored is not None:
            await self._in_thread(checkpoint.load, run.restored / POLICY, self.learner)
        await self.engine.start(Policy(module=model, tokenizer=self.tokenizer, path=self.model, version=str(run.finished)))
        return {"main_llm": self._llm()}

    async def stop(self) -> None:
        await self.engine.stop()
        if hasattr(self, "_thread"):
            self._thread.shutdown(wait=False)

    async def fit(self, run: Run) -> None:
        o = self.options
        val_every = (10 if len(run.val) else 0) if o.val_every is None else o.val_every
        if val_every and run.finished == 0:
            await run.evaluate()
        try:
            for step in run.steps(o.steps):
                groups = await run.rollout(run.train.sample(o.batch_size), n=o.group_size)
                if o.shuffle_rewards:
                    groups = shuffled(groups, f"{run.seed}:{step}")
                rows, advantages = learning_rows(groups, o.estimator, o.baseline, run.resources)
                if step == run.started:  # said once: it is the same in every step
                    for one in lacking(groups, run.resources):
                        run.console.say(f"  {one}")
                run.learned(rows, advantages, AGGREGATIONS[o.aggregation](rows) if rows else [])
                async with run.paused(self.engine):
                    learned = await self._in_thread(self.learner.update, rows, advantages)
                    await self.engine.update(str(step + 1))
                await run.publish(metrics={**group_metrics(groups), **prefixed(learned)}, main_llm=self._llm())
                if val_every and (step + 1) % val_every == 0:
                    await run.evaluate()
                if (step + 1) % o.checkpoint_every == 0 or step + 1 == o.steps:
                    await run.checkpoint(self._save)
        except asyncio.CancelledError:
            if 0 < run.finished == self.learner.updates:  # not in the middle of an update
                await run.checkpoint(self._save)
            raise

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, functools.partial(function, *arguments))

    def _llm(self) -> LLM:
        """The policy as it is now, for agents."""
        o = self.options
        return self.engine.llm(
            # top_p is set, too: the recorded log-probabilities are those of the whole distribution.
            sampling_parameters={"temperature": o.temperature, "top_p": 1.0, "max_tokens": o.max_tokens},
            eval_parameters={"temperature": o.eval_temperature},
        )

    def _save(self, folder: Path) -> None:
        checkpoint.save(folder / POLICY, self.learner, self.tokenizer)


def _engine(given: str | Engine, options: Options, named: set[str]) -> Engine:
    if isinstance(given, Engine):
        if taken := sorted(named & ENGINE_OPTIONS):
            raise ConfigError(f"{taken} are options of the engine, which was given as an object; give them to {type(given).__name__}")
        return given
    name, separator, value = given.partition("=")
    driver = load("agl.engines", name)
    if not (isinstance(driver, type) and issubclass(driver, Engine)):
        raise ConfigError(f"the engine `{name}` must be a class derived from `agl.engines.Engine`, it is {driver!r}")
    asked = {option: getattr(options, option) for option in ENGINE_OPTIONS if option in named}
    arguments = [value] if separator else []
    try:
        inspect.signature(driver).bind(*arguments, max_tokens=options.max_tokens, **asked)
    except TypeError as error:
        raise ConfigError(f"the engine `{name}` cannot be made as `engine={given!r}` with {sorted(asked)}: {error}") from None
    return driver(*arguments, max_tokens=options.max_tokens, **asked)


def prefixed(learned: Mapping[str, float]) -> dict[str, float]:
    """The learner's metrics, its seconds under a name of their own."""
    return {"update_seconds" if name == "seconds" else name: value for name, value in learned.items()}
