"""Updates: which rows go into which optimiser step of VERL, and to which worker.

VERL cuts a batch into steps of a fixed number of rows. Rollouts have as many rows as their calls need, so the cut here is by rollouts:
the number of steps is what the configuration says, and all rows of a rollout are in one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

OVER_ROWS = ("sapo",)
"""Losses that VERL adds up as the mean over rows of the mean over their tokens, whatever `loss_agg_mode` says."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where each row goes."""

    order: tuple[int, ...]
    """Indices of rows, worker by worker and within each step by step; indices from the number of rows on are padding."""
    step_rows: int
    """Rows of one optimiser step over all workers, padding among them."""
    part: dict[int, int]
    """Optimiser step of each real row."""


def plan_updates(sizes: Mapping[str, Sequence[tuple[int, int]]], parts: int, ranks: int) -> Plan:
    """Deal rollouts to optimiser steps and rows to workers, so that both have about as many tokens each.

    Args:
        sizes: for each rollout (index, tokens) of its rows; the indices count up from 0 over all rollouts.
        parts: optimiser steps.
        ranks: data-parallel workers.
    """
    total = sum(len(rows) for rows in sizes.values())
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(parts)]
    for rows in sorted(sizes.values(), key=_tokens, reverse=True):
        # The largest rollout goes where there is least; no step stays empty.
        min(dealt, key=lambda part: (bool(part), _tokens(part))).extend(rows)
    per_rank = max(1, -(-max(len(part) for part in dealt) // ranks))
    cells = [_spread(part, ranks, per_rank) for part in dealt]
    padding = iter(range(total, parts * ranks * per_rank))
    order = [
        index
        for rank in range(ranks)
        for cell in cells
        for index in (*cell[rank], *(next(padding) for _ in range(per_rank - len(cell[rank]))))
    ]
    return Plan(order=tuple(order), step_rows=ranks * per_rank, part={index: p for p, part in enumerate(dealt) for index, _ in part})


def step_factors(tokens: Mapping[str, int], part_of: Mapping[str, int], *, by_row: int | None = None) -> dict[str, float]:
    """By row, the factor between a token's weight in the whole step's loss and what VERL is given.

    VERL averages over the trained tokens of an optimiser step. Times those tokens, that is a sum; times the number of optimiser steps, each
    of them is as large as one over the whole step's rows.

    Args:
        tokens: trained tokens of each row.
        part_of: the optimiser step of each row.
        by_row: rows of an optimiser step, where VERL averages over a row's tokens first and then over rows.
    """
    if by_row is not None:
        return {name: float(len({*part_of.values()}) * by_row * tokens[name]) for name in part_of}
    sums: Counter[int] = Counter()
    for name, part in part_of.items():
        sums[part] += tokens[name]
    return {name: float(len(sums) * sums[part]) for name, part in part_of.items()}


def _tokens(rows: Sequence[tuple[int, int]]) -> int:
    return sum(size for _, size in rows)


def _spread(rows: Sequence[tuple[int, int]], ranks: int, limit: int) -> list[list[int]]:
    """The rows of one step over the workers: at most `limit` each, with about as many tokens."""
    cells: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for row in sorted(rows, key=lambda row: row[1], reverse=True):
        min((cell for cell in cells if len(cell) < limit), key=_tokens).append(row)
    return [[index for index, _ in cell] for cell in cells]
