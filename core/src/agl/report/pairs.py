"""Before and after: two evaluations of the same tasks, side by side."""

from __future__ import annotations

from collections import Counter

import msgspec

from agl.report.intervals import Estimate, change, estimate
from agl.results import Evaluation, RolloutResult


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One task before and after."""

    before: RolloutResult
    after: RolloutResult

    @property
    def gain(self) -> float | None:
        """How much the reward changed; None when one of them has none."""
        if self.before.reward is None or self.after.reward is None:
            return None
        return self.after.reward - self.before.reward


class KindRow(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of one kind before and after."""

    kind: str
    before: Estimate | None
    after: Estimate | None
    change: Estimate | None
    """Over the tasks that have a reward in both."""

    @property
    def n(self) -> str:
        """How many rewards each mean is of: one number, or two where they differ."""
        counts = [side.n if side else 0 for side in (self.before, self.after)]
        return str(counts[1]) if counts[0] == counts[1] else f"{counts[0]} → {counts[1]}"


def pairs_of(before: Evaluation, after: Evaluation) -> list[Pair]:
    """The tasks that both evaluations ran; of tasks with one id, the first goes with the first."""
    found: dict[tuple[str, int], RolloutResult] = dict(_numbered(before))
    return [Pair(before=found[key], after=result) for key, result in _numbered(after) if key in found]


def _numbered(evaluation: Evaluation) -> list[tuple[tuple[str, int], RolloutResult]]:
    seen: Counter[str] = Counter()
    numbered: list[tuple[tuple[str, int], RolloutResult]] = []
    for result in evaluation.results:
        numbered.append(((result.task.task_id, seen[result.task.task_id]), result))
        seen[result.task.task_id] += 1
    return numbered


def total(before: Evaluation, after: Evaluation) -> KindRow:
    """All tasks together."""
    return _row("all", before, after)


def by_kind(before: Evaluation, after: Evaluation, by: str) -> list[KindRow]:
    """One row per value of a task's field, in order of the value; none when no task has the field."""
    tasks = [result.task.data for result in (*before.results, *after.results)]
    if not any(by in data for data in tasks):
        return []
    kinds = sorted({kind_of(data, by) for data in tasks})
    return [_row(kind, _only(before, by, kind), _only(after, by, kind)) for kind in kinds]


def kind_of(data: dict[str, object], by: str) -> str:
    """The value of a task's field as text."""
    return str(data[by]) if by in data else "none"


def choose(pairs: list[Pair], by: str, n: int = 3) -> list[Pair]:
    """The tasks whose reward rose most, of different kinds as far as there are kinds that got better."""
    ranked = sorted(pairs, key=lambda pair: (pair.gain is not None, pair.gain or 0.0), reverse=True)
    kinds: set[str] = set()
    firsts: list[Pair] = []
    rest: list[Pair] = []
    for pair in ranked:
        kind = kind_of(pair.after.task.data, by)
        (firsts if kind not in kinds and (pair.gain or 0.0) > 0 else rest).append(pair)
        kinds.add(kind)
    return [*firsts, *rest][:n]


def _only(evaluation: Evaluation, by: str, kind: str) -> Evaluation:
    results = tuple(result for result in evaluation.results if kind_of(result.task.data, by) == kind)
    return msgspec.structs.replace(evaluation, results=results)


def _row(kind: str, before: Evaluation, after: Evaluation) -> KindRow:
    rewarded = [pair for pair in pairs_of(before, after) if pair.gain is not None]
    return KindRow(
        kind=kind,
        before=estimate(rewards_of(before)),
        after=estimate(rewards_of(after)),
        change=change([pair.before.reward or 0.0 for pair in rewarded], [pair.after.reward or 0.0 for pair in rewarded]),
    )


def rewards_of(evaluation: Evaluation) -> list[float]:
    """The rewards that there are."""
    return [result.reward for result in evaluation.results if result.reward is not None]
