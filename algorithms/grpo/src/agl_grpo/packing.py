"""Packing: rows to padded micro-batches, with common beginnings computed once, and the places where a sampled token is predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agl.errors import DataError
from agl.transitions import Row

_WORTH_SHARING = 16
"""Tokens; the mask that sharing needs costs about as much as computing fewer."""


@dataclass(frozen=True)
class Example:
    """One row with what the loss needs of each of its tokens."""

    row: Row
    advantages: float | Sequence[float]
    """One for the row, or (S,) one per token."""
    weight: float
    """Of each trained token of the row in the step's loss."""

    @property
    def length(self) -> int:
        """Tokens that the model must read: those before the last trained one."""
        return len(self.row.mask) - 1 - self.row.mask[::-1].index(True)

    @property
    def idle(self) -> bool:
        """Whether the policy loss has no gradient in it."""
        if isinstance(self.advantages, int | float):
            return self.advantages == 0.0
        return not any(value for value, on in zip(self.advantages, self.row.mask, strict=True) if on)


@dataclass(frozen=True)
class Bundle:
    """Rows with a common beginning, laid out as one sequence: the beginning once, then what follows it in each row."""

    examples: tuple[Example, ...]
    shared: int
    """Tokens of the common beginning; all of the only row's, when there is one."""

    @property
    def length(self) -> int:
        """Tokens that the model must read."""
        return self.shared + sum(example.length - self.shared for example in self.examples)

    def least_shared(self) -> int:
        """How much another row must have in common: a stranger would shrink the beginning that siblings share."""
        return max(_WORTH_SHARING, self.shared * 4 // 5 if len(self.examples) > 1 else 0)

    def with_row(self, example: Example) -> Bundle:
        """The bundle with one more row."""
        most = min(self.shared, example.length)
        mine, new = (np.asarray(item.row.token_ids[:most]) for item in (self.examples[0], example))
        differs = np.nonzero(mine != new)[0]
        return Bundle((*self.examples, example), int(differs[0]) if len(differs) else most)

    def placed(self) -> list[tuple[Example, int]]:
        """Each row with how far right of its own position its part after the beginning lies."""
        found, shift = [], 0
        for example in self.examples:
            found.append((example, shift))
            shift += example.length - self.shared
        return found

    def lay_out(self, ids: npt.NDArray[np.int64], order: npt.NDArray[np.int64], parts: npt.NDArray[np.int64]) -> None:
        """Writes (T,) token ids, positions, and which part a token belongs to: 0 for the beginning, then one for each row."""
        ids[: self.shared], parts[: self.shared] = self.examples[0].row.token_ids[: self.shared], 0
        for number, (example, shift) in enumerate(self.placed(), start=1):
            span = slice(self.shared + shift, example.length + shift)
            ids[span], parts[span] = example.row.token_ids[self.shared : example.length], number
            order[span] = np.arange(self.shared, example.length)


@dataclass(frozen=True)
class MicroBatch:
    """Bundles side by side, padded on the right; N trained tokens, row by row."""

    input_ids: Tensor
    """(B, T)"""
    layout: tuple[Tensor, Tensor] | None
    """(B, T) positions and (B, T) parts (`Bundle.lay_out`, -1 for padding); None when every bundle is a single row."""
    rows: Tensor
    """(N,) batch index of each trained token."""
    positions: Tensor
    """(N,) position of the token before it, where it is predicted."""
    targets: Tensor
    """(N,) its id."""
    old: Tensor
    """(N,) log-probability as sampled."""
    advantages: Tensor
    """(N,)"""
    weights: Tensor
    """(N,)"""
    temperatures: Tensor
    """(N,) that `old` belongs to; 1 where sampling was greedy, since those are recorded untempered."""

    def visible(self) -> Tensor:
        """(B, 1, T, T) bool: a token sees what lies before it in the common beginning and in its own part."""
        assert self.layout is not None
        parts = self.layout[1]
        before = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool, device=parts.device).tril()
        same = parts[:, None, :] == parts[:, :, None]
        return (before & (same | (parts[:, None, :] == 0)))[:, None]


def check(example: Example) -> None:
    """Refuses a row that cannot be learned from.

    Raises:
        DataError: nothing trained, a trained token without anything before it, lengths that differ, or numbers that are not finite.
    """
    row, where = example.row, f"a row of rollout `{example.row.rollout_id}`"
    if not any(row.mask):
        raise DataError(f"{where} has no trained token")
    if row.mask[0]:
        raise DataError(f"{where} begins with a trained token, which nothing predicts")
    if not len(row.token_ids) == len(row.mask) == len(row.logprobs):
        raise DataError(f"{where} has {len(row.token_ids)} tokens, {len(row.mask)} mask values and {len(row.logprobs)} log-probabilities")
    if not isinstance(example.advantages, int | float) and len(example.advantages) != len(row.token_ids):
        raise DataError(f"{where} has {len(row.token_ids)} tokens and {len(example.advantages)} advantages")
    given = (example.advantages,) if isinstance(example.advantages, int | float) else example.advantages
    if not all(map(math.isfinite, row.logprobs)) or not all(map(math.isfinite, given)):
        raise DataError(f"{where} has a log-probability or an advantage that is not a finite number")
    if row.temperature < 0:
        raise DataError(f"{where} has temperature {row.temperature}")


def bundles(examples: Sequence[Example], longest: int) -> list[Bundle]:
    """Puts rows that begin alike together, while a bundle has at most `longest` tokens; each row is in one bundle.

    Siblings share their prompt, which is most of their tokens; computed once, its gradient is the sum of what all of them ask for.

    Args:
        examples: in any order.
        longest: beyond this, attending over a bundle costs more than sharing saves; 0 shares nothing.
    """
    found: list[Bundle] = []
    for example in sorted(examples, key=lambda item: item.row.token_ids):
        grown = found[-1].with_row(example) if found and longest else None
        if grown is not None and grown.length <= longest and grown.shared >= found[-1].least_shared():
            found[-1] = grown
        else:
            found.append(Bundle((example,), example.length))
    return found


def micro_batches(items: Sequence[Bundle], budget: int) -> list[list[Bundle]]:
    """Groups bundles of like length so that bundles · longest bundle stays within `budget` tokens; a longer one stands alone."""
    groups: list[list[Bundle]] = []
    for item in sorted(items, key=lambda item: item.length, reverse=True):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].length <= budget:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def pack(items: Sequence[Bundle], device: torch.device) -> MicroBatch:
    """Puts bundles side by side. Padding needs no mask: under causal attention what stands on the right is never seen."""
    width = max(item.length for item in items)
    ids = np.zeros((len(items), width), dtype=np.int64)
    order = np.tile(np.arange(width), (len(items), 1))
    parts = np.full((len(items), width), -1, dtype=np.int64)
    columns: list[list[Any]] = [[] for _ in range(7)]
    for index, item in enumerate(items):
        item.lay_out(ids[index], order[index], parts[index])
        for example, shift in item.placed():
            places = [place for place, on in enumerate(example.row.mask) if on]
            given, row = example.advantages, example.row
            values = (
                [index] * len(places),
                [place - 1 + (shift if place > item.shared else 0) for place in places],
                [row.token_ids[place] for place in places],
                [row.logprobs[place] for place in places],
                [given] * len(places) if isinstance(given, int | float) else [given[place] for place in places],
                [example.weight] * len(places),
                [row.temperature or 1.0] * len(places),
            )
            for column, more in zip(columns, values, strict=True):
                column += more
    whole = [torch.tensor(column, dtype=torch.int64, device=device) for column in columns[:3]]
    real = [torch.tensor(column, dtype=torch.float64, device=device) for column in columns[3:]]
    layout = None
    if any(len(item.examples) > 1 for item in items):
        layout = torch.from_numpy(order).to(device), torch.from_numpy(parts).to(device)
    return MicroBatch(torch.from_numpy(ids).to(device), layout, *whole, *real)
