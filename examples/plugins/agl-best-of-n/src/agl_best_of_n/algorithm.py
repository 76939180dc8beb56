"""Best-of-n distillation (rejection-sampling fine-tuning, as RAFT, arXiv 2304.06767): options, selection, loop."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec
from agl import LLM, Algorithm, RolloutResult, Run
from agl.engines import Policy
from agl.errors import ConfigError, DataError
from agl.registry import load

from agl_best_of_n.learner import Learner

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `BestOfN(model, …)` takes."""

    model: str  # folder of a Hugging Face causal LM, or a hub id
    steps: Count = 30
    batch_size: Count = 16  # tasks per step
    group_size: Annotated[int, msgspec.Meta(ge=2)] = 8  # rollouts per task: the n
    min_reward: float | None = None  # what a kept rollout must reach, besides being above its group's mean
    shuffle_rewards: bool = False  # permute them over a step's rollouts: a control run, in which nothing can be learned
    lr: Positive = 1e-5
    temperature: Positive = 1.0  # of sampling in training; evaluation is greedy
    max_tokens: Count = 256  # of one answer
    checkpoint_every: Count = 10  # steps between checkpoints, and validations where there is a `val_dataset`


class BestOfN(Algorithm):
    """Samples n rollouts of each task, keeps those above their group's mean, and teaches the model to do the same again."""

    name = "best_of_n"
    serves = ("main_llm",)

    def __init__(self, model: str | Path | None = None, **options: Any) -> None:
        given = options if model is None else {"model": str(model), **options}
        try:
            self.options = msgspec.convert(given, Options)
        except msgspec.ValidationError as error:
            raise ConfigError(f"an option of BestOfN is wrong: {error}; it takes {Options.__struct_fields__}") from None

    def config(self) -> dict[str, Any]:
        return msgspec.to_builtins(self.options)

    async def start(self, run: Run) -> Mapping[str, LLM]:
        folder = run.restored or self.options.model
        self.learner = await asyncio.to_thread(Learner, folder, self.options.lr)
        self.engine = load("agl.engines", "native")(max_tokens=self.options.max_tokens)
        policy = Policy(module=self.learner.model, tokenizer=self.learner.tokenizer, path=str(folder), version=str(run.finished))
        await self.engine.start(policy)
        return {"main_llm": self._llm()}

    async def fit(self, run: Run) -> None:
        o = self.options
        for step in run.steps(o.steps):
            groups = await run.rollout(run.train.sample(o.batch_size), n=o.group_size)
            results = [result for group in groups for result in group.results]
            judged = random.Random(f"{run.seed}:{step}").sample(results, len(results)) if o.shuffle_rewards else results
            marks = [mark for at in range(0, len(judged), o.group_size) for mark in better(judged[at : at + o.group_size], o.min_reward)]
            kept = [result for result, mark in zip(results, marks, strict=True) if mark]
            rows = [row for result in kept for row in result.rows()]
            if kept and not rows:
                raise DataError(f"{len(kept)} rollouts were kept and no call of theirs can be trained; `agl report` says why")
            async with run.paused(self.engine):
                learned = await asyncio.to_thread(self.learner.update, rows) if rows else {}
                await self.engine.update(str(step + 1))
            rewards = [result.reward for result in results if result.reward is not None]
            used = sum(group.has_spread() for group in groups)  # the names are those that AGL's console and report know
            metrics = {"reward": fmean(rewards), "rollouts": len(rewards), "groups": len(groups), "groups_used": used, "kept": len(kept)}
            await run.publish(metrics={**metrics, **learned}, main_llm=self._llm())
            if (step + 1) % o.checkpoint_every == 0 or step + 1 == o.steps:
                if len(run.val):
                    await run.evaluate()
                await run.checkpoint(self.learner.save)

    async def stop(self) -> None:
        if hasattr(self, "engine"):
            await self.engine.stop()

    def _llm(self) -> LLM:
        sampling = {"temperature": self.options.temperature, "top_p": 1.0, "max_tokens": self.options.max_tokens}
        return self.engine.llm(sampling_parameters=sampling, eval_parameters={"temperature": 0.0})


def better(group: Sequence[RolloutResult], min_reward: float | None = None) -> list[bool]:
    """(n,) which are above the group's mean reward and reach `min_reward`; failed ones only count in the mean."""
    rewards = [result.reward for result in group if result.reward is not None]
    bar = fmean(rewards) if len(set(rewards)) > 1 else float("inf")
    given = [result.reward if result.succeeded and result.reward is not None else float("-inf") for result in group]
    return [reward > bar and (min_reward is None or reward >= min_reward) for reward in given]
