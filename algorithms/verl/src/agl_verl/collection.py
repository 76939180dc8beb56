"""Collection: the groups that VERL asked for, from their rollouts to the step that learns from them.

VERL decides which finished groups a step takes: all that it asked for, or, where it collects ahead or leaves groups without spread out, some
of them. What needs the whole step (advantages over a batch, loss weights) is therefore computed when a step has been chosen.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.errors import DataError
from agl.results import Group, RolloutResult, failures_of
from agl.runs import Run
from agl.untrained import why_untrained
from agl_verl.advantages import Estimate
from agl_verl.batch import Batch, Limits, Sample, make_batch, unweighted
from agl_verl.messages import Ask, Choose
from agl_verl.weights import Weigh


class Servers:
    """VERL's rollout servers, as `Run.paused` wants an engine: the gateway holds the calls up for them."""

    holds_calls = False

    def __init__(self, model: str) -> None:
        self.model = model

    def paused(self) -> Any:
        return contextlib.nullcontext()


class Served:
    """Which version of the weights was served when."""

    def __init__(self) -> None:
        self._since: list[tuple[float, str]] = []
        self._of_resources: dict[int, str] = {}

    def publish(self, resources_version: int, version: str) -> None:
        """From now on calls are sampled with that version."""
        self._since.append((time.time(), version))
        self._of_resources[resources_version] = version

    def told(self, result: RolloutResult) -> RolloutResult:
        """The rollout with the version of each call.

        A server that does not tell its version leaves its rollout's, which is the one at the rollout's start. No call is on its way while
        weights change, so the call's end says which weights sampled it.
        """
        first = self._of_resources.get(result.rollout.resources_version)
        ended = {span.span_id: span.ended_at for span in result.spans}
        calls = [
            msgspec.structs.replace(call, version=self._at(ended[call.span_id]))
            if call.version == first and call.span_id in ended
            else call
            for call in result.transitions
        ]
        return msgspec.structs.replace(result, transitions=tuple(calls))

    def _at(self, moment: float) -> str:
        before = [version for since, version in self._since if since <= moment]
        return before[-1] if before else self._since[0][1]


class Collection:
    """The finished groups of a run that no step has taken yet.

    Args:
        limits: what fits VERL's batch.
        estimate: advantages of groups.
        weigh: loss weights of rollouts.
        patience: groups in a row without a row to learn from, after which the run is over.
    """

    def __init__(self, run: Run, *, limits: Limits, estimate: Estimate, weigh: Weigh, patience: int) -> None:
        self._run, self._limits, self._estimate, self._weigh, self._patience = run, limits, estimate, weigh, patience
        self._groups: dict[str, Group] = {}
        self._asked: Counter[int] = Counter()
        self._empty: dict[str, Group] = {}
        self.served = Served()

    async def collect(self, ask: Ask) -> tuple[Sample, ...]:
        """Run the agents; the rows of the groups, without what only the step that takes them knows.

        Raises:
            DataError: nothing can be learned from any group for as long as `patience`.
        """
        run = self._run
        tasks = [run.train.tasks[index] for index in ask.tasks]
        self._asked[run.step] += 1
        # Groups of one step are named and seeded by the step; those of its second request and later ones need names of their own.
        key = f"{run.step}.{self._asked[run.step]}" if self._asked[run.step] > 1 else None
        groups = await run.rollout(tasks, n=ask.n, key=key, strict=not ask.streamed)
        if ask.streamed:
            groups = [Group(task=group.task, results=tuple(map(self.served.told, group.results))) for group in groups]
        samples = unweighted(groups, self._limits)
        filled = {sample.group for sample in samples}
        for place, (uid, group) in enumerate(zip(ask.groups, groups, strict=True)):
            self._groups[uid] = group
            if place not in filled:
                self._empty[uid] = group
        if not filled and (not ask.streamed or len(self._empty) > self._patience):
            self._give_up()
        return samples

    def _give_up(self) -> None:
        groups = list(self._empty.values())
        failures = dict(failures_of([result for group in groups for result in group.results]))
        dropped = make_batch(groups, self._estimate, self._weigh, self._limits, self._run.resources).dropped
        raise DataError(
            f"no row of {len(groups)} groups can be learned from: {self.told(groups, dropped)}; failed rollouts: {failures or 'none'}; "
            "try the agent with `Trainer.dev`"
        )

    def told(self, groups: Sequence[Group], dropped: Mapping[str, int]) -> str:
        """Rows that were left out, by why, and what would let them in."""
        rows = [row for group in groups for result in group.results for row in result.rows()]
        prompts = [row.mask.index(True) for row in rows]
        responses = [len(row.token_ids) - prompt for row, prompt in zip(rows, prompts, strict=True)]
        remedies = {
            "prompt_too_long": f"`data.max_prompt_length` is {self._limits.prompt}, the longest prompt has {max(prompts, default=0)} tokens",
            "response_too_long": f"`data.max_response_length` is {self._limits.response}, the longest response has {max(responses, default=0)} tokens",
            "other_temperature": f"the agent must not set a temperature other than `rollout.temperature` ({self._limits.temperature})",
            "other_version": "they were sampled by another model than VERL's",
        }
        return ", ".join(f"{count} rows {why} ({remedies[why]})" for why, count in dropped.items()) or why_untrained(groups)

    def choose(self, chosen: Choose) -> tuple[list[Group], Batch, int]:
        """The step's groups, its batch in that order, and how many groups VERL has left out since the last step.

        Groups without a row are in the step after which they ended: their rollouts keep their place in the loss weights.
        """
        uids = [*chosen.groups, *(uid for uid in self._empty if uid not in chosen.groups)]
        groups = [self._groups.pop(uid) for uid in uids]
        self._empty.clear()
        gone = [uid for uid in self._groups if uid not in chosen.kept]
        for uid in gone:
            del self._groups[uid]
        return groups, make_batch(groups, self._estimate, self._weigh, self._limits, self._run.resources), len(gone)


def staleness(samples: Sequence[Sample], version: int) -> Mapping[str, float]:
    """How many versions the rows' oldest calls lag behind the weights that learn from them."""
    lags = [version - sample.versions[0] for sample in samples]
    return {"staleness_mean": sum(lags) / len(lags), "staleness_max": float(max(lags))} if lags else {}
