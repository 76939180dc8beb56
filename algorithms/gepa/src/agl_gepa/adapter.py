"""Adapter: what gepa asks for, answered from a cache, by rollouts, and by AGL's critic and editor.

gepa knows tasks by their place in a list, so that it takes one of the training set for one of the validation set (gepa 0.1.4 with
`cache_evaluation`). The cache here is by split and task, and gepa's own stays off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gepa.core.adapter import EvaluationBatch

from agl_apo.moves import Draw


class Instance(NamedTuple):
    """gepa's data point: a task of a split."""

    split: str
    task_id: str


class Trajectory(NamedTuple):
    """What a rollout leaves for the critic."""

    rollout_id: str
    reward: float


class World(Protocol):
    """What answers: `agl_gepa.search.Gepa`, from within gepa's thread."""

    def rollouts(self, texts: Mapping[str, str], split: str, tasks: Sequence[str], stage: str) -> list[Draw]:
        """Draws of these tasks, in their order."""
        ...

    def rewrite(self, texts: Mapping[str, str], component: str, records: Sequence[Trajectory]) -> str:
        """A new text for one prompt; the old one when there is none."""
        ...


class Adapter:
    """gepa's `GEPAAdapter`.

    Args:
        world: runs rollouts and writes texts.
        failure_score: of a rollout without a reward: gepa needs a number for each.
    """

    def __init__(self, world: World, failure_score: float = 0.0) -> None:
        self._world, self._failure = world, failure_score
        self.cache: dict[tuple[tuple[tuple[str, str], ...], Instance], Draw] = {}
        """Draws by texts, split and task. One without a reward is not kept: it says nothing."""

    def evaluate(self, batch: list[Instance], candidate: dict[str, str], capture_traces: bool = False) -> EvaluationBatch[Trajectory, Any]:
        """Scores of a candidate; what was measured before is not run again."""
        key = tuple(sorted(candidate.items()))
        missing = list(dict.fromkeys(each for each in batch if (key, each) not in self.cache))
        fresh: dict[Instance, Draw] = {}
        for split in dict.fromkeys(each.split for each in missing):
            asked = [each for each in missing if each.split == split]
            stage = "select" if split == "val" else "gradient"
            draws = self._world.rollouts(candidate, split, [each.task_id for each in asked], stage)
            fresh.update(zip(asked, draws, strict=True))
        self.cache.update({(key, each): draw for each, draw in fresh.items() if draw.reward is not None})
        draws = [self.cache.get((key, each)) or fresh[each] for each in batch]
        trajectories = [Trajectory(draw.rollout_id, self._score(draw)) for draw in draws]
        return EvaluationBatch(
            outputs=[None] * len(draws),
            scores=[self._score(draw) for draw in draws],
            trajectories=trajectories if capture_traces else None,
            num_metric_calls=len(missing),
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Trajectory, Any], components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Ids and rewards of the rollouts: the critic reads their records in the store, for each prompt those of its own calls."""
        records = [{"rollout_id": each.rollout_id, "reward": each.reward} for each in eval_batch.trajectories or ()]
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self, candidate: dict[str, str], reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]], components_to_update: list[str]
    ) -> dict[str, str]:
        """New texts by AGL's critic and editor."""
        return {
            name: self._world.rewrite(candidate, name, [Trajectory(**record) for record in reflective_dataset[name]])
            for name in components_to_update
        }

    def _score(self, draw: Draw) -> float:
        return self._failure if draw.reward is None else draw.reward
