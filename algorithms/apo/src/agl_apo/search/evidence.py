"""Evidence: every draw that was paid for, by candidate and task."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from agl_apo.moves import Draw

TaskKey = tuple[str, str]
"""(split, id of the task): the same id in `train` and in `val` is two tasks."""


class Cell(msgspec.Struct):
    """What the draws of one candidate on one task add up to."""

    n: int = 0
    """Number of rewards."""
    total: float = 0.0
    """Sum of the rewards."""
    squares: float = 0.0
    """Sum of the squared rewards."""

    @property
    def mean(self) -> float:
        """Mean reward."""
        return self.total / self.n

    @property
    def within(self) -> float:
        """Sum of the squared distances from the mean."""
        return max(self.squares - self.total * self.total / self.n, 0.0)

    def add(self, reward: float) -> None:
        """Count one more reward."""
        self.n += 1
        self.total += reward
        self.squares += reward * reward


class Evidence:
    """Table of all draws.

    A draw with no finite reward is kept, paid for and counted, but says nothing about its candidate. A failure of the agent
    arrives with the reward that the user gave to failures and counts like any other.
    """

    def __init__(self) -> None:
        self.cells: dict[str, dict[TaskKey, Cell]] = {}
        """Rewards by candidate and task; only where there is one."""
        self.draws: dict[str, list[tuple[TaskKey, Draw]]] = {}
        """Every draw by candidate, in order of arrival."""
        self.spent = 0
        """Rollouts, those without a reward included."""
        self.cost = 0.0
        """Sum of what the draws cost."""
        self.missing = 0
        """Draws without a finite reward."""
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, candidate_id: str, split: str, draws: Iterable[Draw]) -> None:
        """Take the answer to one `Evaluate`."""
        kept = self.draws.setdefault(candidate_id, [])
        cells = self.cells.setdefault(candidate_id, {})
        for draw in draws:
            key = (split, draw.task_id)
            kept.append((key, draw))
            self.spent += 1
            self.cost += draw.cost
            if usable(draw):
                cells.setdefault(key, Cell()).add(float(draw.reward or 0.0))
                for of in (split, ""):
                    self._counts[candidate_id, of] = self._counts.get((candidate_id, of), 0) + 1
            else:
                self.missing += 1

    def count(self, candidate_id: str, split: str | None = None) -> int:
        """Number of rewards that a candidate has, on one split or on all."""
        return self._counts.get((candidate_id, split or ""), 0)

    def mean(self, candidate_id: str, split: str | None = None) -> float | None:
        """Mean over tasks of the mean rewards, as they are; None without any."""
        cells = self.cells.get(candidate_id, {})
        means = [cell.mean for (of, _), cell in cells.items() if split in (None, of)]
        return math.fsum(means) / len(means) if means else None

    def rewarded(self, candidate_id: str) -> list[tuple[TaskKey, Draw]]:
        """Draws of a candidate that have a reward, in order of arrival."""
        return [(key, draw) for key, draw in self.draws.get(candidate_id, ()) if usable(draw)]

    def differences(self, one: str, other: str, split: str | None = None) -> list[float]:
        """Mean reward of `one` minus that of `other`, for each task that both have a reward on."""
        mine, theirs = self.cells.get(one, {}), self.cells.get(other, {})
        return [mine[key].mean - theirs[key].mean for key in mine if key in theirs and split in (None, key[0])]


def usable(draw: Draw) -> bool:
    """Whether a draw has a finite reward."""
    return draw.reward is not None and math.isfinite(draw.reward)
