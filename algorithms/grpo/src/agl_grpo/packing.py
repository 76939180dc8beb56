"""Packing: rows to padded micro-batches, with the places where a sampled token is predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agl.errors import DataError
from agl.transition import Row


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
class MicroBatch:
    """Rows side by side, padded on the right; N trained tokens, row by row."""

    input_ids: Tensor
    """(B, T)"""
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


def micro_batches(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """Groups rows of like length so that rows · longest row stays within `budget` tokens; a longer row stands alone."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda item: item.length, reverse=True):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].length <= budget:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def pack(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    """Puts rows side by side. Padding needs no mask: under causal attention what stands on the right is never seen."""
    width = max(example.length for example in examples)
    ids, rows, positions, targets, old, advantages, weights, temperatures = [], [], [], [], [], [], [], []
    for index, example in enumerate(examples):
        row, given = example.row, example.advantages
        ids.append(list(row.token_ids[: example.length]) + [0] * (width - example.length))
        at = [place for place, on in enumerate(row.mask) if on]
        rows += [index] * len(at)
        positions += [place - 1 for place in at]
        targets += [row.token_ids[place] for place in at]
        old += [row.logprobs[place] for place in at]
        advantages += [given] * len(at) if isinstance(given, int | float) else [given[place] for place in at]
        weights += [example.weight] * len(at)
        temperatures += [row.temperature or 1.0] * len(at)
    whole = [torch.tensor(values, dtype=torch.int64, device=device) for values in (ids, rows, positions, targets)]
    real = [torch.tensor(values, dtype=torch.float64, device=device) for values in (old, advantages, weights, temperatures)]
    return MicroBatch(*whole, *real)
