"""World: what a search's moves act on: rollouts of an agent under candidate prompts, each version published once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.errors import AglError, ConfigError, NotFoundError
from agl.prompting import prompts_of, unused
from agl.resources import PromptTemplate, Resources
from agl.results import RolloutResult
from agl.runs import Run
from agl.tasks import Mode, Task
from agl.transitions import call_of
from agl_apo.moves import Draw
from agl_apo.records import record, training_text

SPLITS = {"train": Mode.TRAIN, "val": Mode.VAL}
SILENT = 8
"""Rollouts in a row without a reward after which a run stops: the infrastructure is down, or the agent is not judged."""
DIVIDED = 8
"""Training tasks from which on half of them are kept for validation where there is no dataset for it."""
LOOKED_AT = 8
"""Rollouts that have succeeded after which prompts that none of them used are refused."""

Texts = Mapping[str, str]


class World:
    """Runs an agent under texts of its prompts.

    Args:
        run: that the rollouts belong to.
        tasks: by split (`train`, `val`) and id.
        agent_price: of a million input tokens and of a million output tokens of the agent's recorded calls.
    """

    def __init__(self, run: Run, tasks: Mapping[str, Mapping[str, Task]], agent_price: tuple[float, float] = (0.0, 0.0)) -> None:
        self.run, self.tasks = run, tasks
        self._price = agent_price
        self._versions: dict[tuple[tuple[str, str], ...], asyncio.Future[Resources]] = {}
        self._task_of: dict[str, Task] = {}
        self._silent = 0
        self._seen: list[RolloutResult] | None = []

    async def draw(self, texts: Texts, split: str, task_id: str, key: str) -> Draw:
        """One rollout.

        Args:
            key: names it among all of the run, so that each has a seed of its own.

        Raises:
            AglError: the last rollouts all brought no reward.
            ConfigError: the prompts are used by none of the agent's calls.
        """
        task = self.tasks[split][task_id]
        version = await self.version(texts)
        groups = await self.run.rollout([task], mode=SPLITS[split], strict=False, resources=version, key=key)
        result = groups[0].results[0]
        draw = self._draw(result)
        self.known(split, draw)
        self._watch(result, draw, version)
        return draw

    def known(self, split: str, draw: Draw) -> None:
        """Remember a draw, also one of an earlier process."""
        if draw.rollout_id:
            self._task_of[draw.rollout_id] = self.tasks[split][draw.task_id]

    async def version(self, texts: Texts) -> Resources:
        """The published version with these texts; all other resources are as they are."""
        key = tuple(sorted(texts.items()))
        if key not in self._versions:
            self._versions[key] = asyncio.ensure_future(self.run.publish(**templates(texts)))
        return await asyncio.shield(self._versions[key])

    async def records(self, rollout_ids: Sequence[str], name: str, template: str, limit: int) -> list[str]:
        """What a critic reads of rollouts for one prompt."""
        results = await self.run.store.results(list(rollout_ids))
        return [record(result, name, template, limit) for result in results]

    def training_texts(self, rollout_ids: Sequence[str]) -> list[str]:
        """The texts of the rollouts' tasks: what a prompt must not copy."""
        return [training_text(self._task_of[each].data) for each in rollout_ids if each in self._task_of]

    def _draw(self, result: RolloutResult) -> Draw:
        reward = result.reward
        if reward is not None and not math.isfinite(reward):
            reward = None
        why = None if result.failure is None else str(result.failure)
        return Draw(
            task_id=result.task.task_id,
            reward=reward,
            rollout_id=result.rollout.rollout_id,
            cost=self._cost(result),
            failure=why or ("no reward" if reward is None else None),
        )

    def _cost(self, result: RolloutResult) -> float:
        """Of the agent's recorded calls, and what the judges say that judging cost."""
        cost = sum(float(reward.details.get("cost") or 0.0) for reward in result.rewards)
        for span in result.spans:
            call = call_of(span)
            usage: Mapping[str, Any] = ((call.response or {}) if call else {}).get("usage") or {}
            tokens = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
            cost += sum(price * number / 1e6 for price, number in zip(self._price, tokens, strict=True))
        return cost

    def _watch(self, result: RolloutResult, draw: Draw, version: Resources) -> None:
        """Stop early where going on would spend the budget on nothing."""
        self._silent = 0 if draw.reward is not None else self._silent + 1
        if self._silent >= SILENT:
            attempt = result.rollout.attempt
            said = ((attempt.error if attempt else None) or "the agent gave no reward").strip().splitlines()[-1]
            raise AglError(
                f"the last {SILENT} rollouts brought no reward ({draw.failure}); the last one says: {said}. "
                "What was spent is kept: mend it and go on with `resume`, or try the agent with `Trainer.dev`"
            )
        if self._seen is not None and result.succeeded:
            self._seen.append(result)
            if len(self._seen) >= LOOKED_AT:
                seen, self._seen = self._seen, None
                _check_used(self._names(), version, seen)

    def _names(self) -> set[str]:
        return {name for key in self._versions for name, _ in key}


def _check_used(names: set[str], version: Resources, seen: Sequence[RolloutResult]) -> None:
    without = set(unused({name: version[name] for name in names}, seen))
    if without == names:
        there_are = sorted(prompts_of(span for result in seen for span in result.spans))
        raise ConfigError(
            f"the prompts {sorted(names)} found no place in any call of {len(seen)} rollouts, so that changing them changes nothing; "
            f"the calls had {there_are}: name one of these in `prompts=[…]`, or give it in `initial_resources`"
        )


def templates(texts: Texts) -> dict[str, PromptTemplate]:
    """Resources of texts."""
    return {name: PromptTemplate(template=text) for name, text in texts.items()}


def task_sets(run: Run) -> dict[str, dict[str, Task]]:
    """Tasks by split and id. Without a validation dataset every second training task is kept for validation.

    With less than eight training tasks there is nothing to divide: then both splits have all of them.
    """
    train = {task.task_id: task for task in run.train}
    if len(run.val):
        return {"train": train, "val": {task.task_id: task for task in run.val}}
    if len(train) < DIVIDED:
        run.console.say(
            f"  no `val_dataset`, and only {len(train)} tasks: what is found is also measured on them, and looks better than it is"
        )
        return {"train": train, "val": train}
    shuffled = run.train.sample(len(run.train))
    run.train.cursor = 0
    kept = {task.task_id for task in list({task.task_id: task for task in shuffled}.values())[1::2]}
    run.console.say(f"  no `val_dataset`: {len(kept)} of the {len(train)} training tasks are kept for validation")
    return {
        "train": {task_id: task for task_id, task in train.items() if task_id not in kept},
        "val": {task_id: task for task_id, task in train.items() if task_id in kept},
    }


async def discover(run: Run, tasks: Sequence[Task], asked: Sequence[str] | None, given: Texts) -> dict[str, str]:
    """The prompts to optimise of an agent that cannot be asked for them: those in the calls that it makes on a few tasks.

    Raises:
        ConfigError: there is none that could be replaced.
        NotFoundError: one is asked for that is not there.
    """
    groups = await run.rollout(list(tasks), key="discover", mode=Mode.VAL)
    spans = [span for group in groups for result in group.results for span in result.spans]
    found = {name: template.template for name, template in prompts_of(spans).items()}
    if not found and not given:
        seen = any(call_of(span) is not None for span in spans)
        why = (
            "no call has a role and a system prompt"
            if seen
            else "none was seen; where it does not use the OpenAI SDK, name its model: "
            '`initial_resources={"main_llm": agl.LLM(endpoint=…, model=…)}`, `--endpoint` and `--model`'
        )
        raise ConfigError(
            f"no prompt of this agent is known, before it runs or by its calls ({why}); give one by name, such as "
            '`initial_resources={"prompt_template": agl.PromptTemplate(template="…")}`, or `--prompt prompt_template=FILE` of `agl train`: '
            "a function has it as the parameter `prompt_template`, a program in the file that `AGL_PROMPTS_FILE` names"
        )
    return chosen(asked, given, found)


def chosen(asked: Sequence[str] | None, given: Texts, listed: Texts) -> dict[str, str]:
    """The prompts to optimise: those asked for, else those that the user gave, else all that the agent tells.

    Raises:
        NotFoundError: one is asked for that is not there.
    """
    known = {**listed, **given}
    if asked is None:
        return dict(given or listed)
    if missing := [name for name in asked if name not in known]:
        raise NotFoundError(f"`prompts` names {missing}; there are {sorted(known)} (`agl.prompts(agent)`, `initial_resources`)")
    return {name: known[name] for name in asked}


class Totals(msgspec.Struct, kw_only=True):
    """What a search has spent."""

    rollouts: int = 0
    """That were run."""
    missing: int = 0
    """Without a reward."""
    agent_cost: float = 0.0
    """Of the rollouts."""
    proposals: int = 0
    """Answers of critic and editor together that were told to the search."""
    proposer_cost: float = 0.0

    @property
    def cost(self) -> float:
        """Of both."""
        return self.agent_cost + self.proposer_cost
