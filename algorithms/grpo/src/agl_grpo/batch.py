"""Batch: the rows that are being sampled, as arrays, so that a step costs the same Python whatever the number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agl_grpo.sampling import Draw, sample, stream_key
from agl_grpo.slots import Pairs, Slots
from agl_grpo.text import stop_window

_PREFILL_TOKENS = 8192


@dataclass(eq=False)
class Row:
    """One answer in the making."""

    request: Any
    """Who asked; only handed back."""
    choice: int
    prompt: npt.NDArray[np.int64]
    """(P,)"""
    limit: int
    """Longest answer in tokens."""
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...] = ()
    top_logprobs: int = 0
    streamed: bool = False
    cancelled: bool = False
    top: list[list[tuple[int, float]]] = field(default_factory=list)

    @property
    def watched(self) -> bool:
        """Whether something must be done for this row after every token."""
        return self.streamed or bool(self.stops) or self.top_logprobs > 0


@dataclass(frozen=True)
class Finished:
    """One complete answer."""

    row: Row
    token_ids: list[int]
    logprobs: list[float]
    reason: str


@dataclass(frozen=True)
class Sampled:
    """One token of a streamed row."""

    row: Row
    token_id: int
    logprob: float


class Batch:
    """Rows 0 … `size` - 1 live in the slots of the same number.

    Args:
        slots: the cache and the model.
        tokenizer: for stop strings.
        end_ids: tokens that end an answer.
        limit: most rows at once.
    """

    def __init__(self, slots: Slots, tokenizer: Any, end_ids: Sequence[int], limit: int) -> None:
        self.slots, self.tokenizer, self.limit = slots, tokenizer, limit
        self.rows: list[Row] = []
        self._ends = np.zeros(slots.config.vocab_size, dtype=bool)
        self._ends[[i for i in end_ids if i < slots.config.vocab_size]] = True
        self._lengths = np.zeros(limit, dtype=np.int64)  # positions in the cache
        self._counts = np.zeros(limit, dtype=np.int64)  # tokens sampled
        self._limits = np.zeros(limit, dtype=np.int64)
        self._temperatures = np.zeros(limit, dtype=np.float32)
        self._top_p = np.ones(limit, dtype=np.float32)
        self._keys = np.zeros(limit, dtype=np.uint64)
        self._tokens = np.zeros((limit, 64), dtype=np.int64)
        self._logprobs = np.zeros((limit, 64), dtype=np.float32)

    @property
    def size(self) -> int:
        """Rows being sampled."""
        return len(self.rows)

    def ends(self, token_id: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self._ends[token_id])

    def clear(self) -> None:
        """Forgets all rows and prompts."""
        self.rows.clear()
        self.slots.prefixes.clear()

    def admit(self, rows: Sequence[Row]) -> list[Finished | Sampled]:
        """Computes the prompts of new rows, each different prompt once, and samples their first tokens."""
        first = self.size
        followers: dict[bytes, list[Row]] = {}
        for row in rows:
            followers.setdefault(row.prompt.tobytes(), []).append(row)
        known = [(*self.slots.prefixes.longest(group[0].prompt), group) for group in followers.values()]
        # Like lengths side by side: what is padded is computed too.
        known.sort(key=lambda item: len(item[2][0].prompt) - item[0], reverse=True)
        logits = self._prefill(first, [(length, pairs, group[0].prompt) for length, pairs, group in known])
        order = list(range(len(known)))
        slot = first + len(known)
        for index, (_, _, group) in enumerate(known):
            self._enter(first + index, group[0])
            if len(group) > 1:
                self.slots.copy(first + index, list(range(slot, slot + len(group) - 1)), len(group[0].prompt))
                slot += len(group) - 1
                order += [index] * (len(group) - 1)
        for _, _, group in known:
            for row in group[1:]:
                self._enter(self.size, row)
        return self._advance(first, logits[order])

    def _prefill(self, first: int, prompts: list[tuple[int, Pairs, npt.NDArray[np.int64]]]) -> Tensor:
        """(R, V) logits after each prompt; `prompts` holds what is known of each, the longest rest first."""
        found, at = [], 0
        while at < len(prompts):
            width = len(prompts[at][2]) - prompts[at][0]
            stop = at + 1
            while stop < len(prompts) and 2 * (len(prompts[stop][2]) - prompts[stop][0]) > width and (stop - at) * width < _PREFILL_TOKENS:
                stop += 1
            found.append(self._prefill_alike(first + at, prompts[at:stop], width))
            at = stop
        return torch.cat(found)

    def _prefill_alike(self, first: int, prompts: list[tuple[int, Pairs, npt.NDArray[np.int64]]], width: int) -> Tensor:
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        starts = np.array([length for length, _, _ in prompts], dtype=np.int64)
        counts = np.array([len(prompt) - length for length, _, prompt in prompts], dtype=np.int64)
        for index, (length, pairs, prompt) in enumerate(prompts):
            tokens[index, : counts[index]] = prompt[length:]
            if length:
                self.slots.fill(first + index, length, pairs)
        logits = self.slots.extend(first, tokens, starts, counts)
        for index, (_, _, prompt) in enumerate(prompts):
            self.slots.remember(first + index, prompt)
        return logits

    def _enter(self, index: int, row: Row) -> None:
        self.rows.append(row)
        self._lengths[index], self._counts[index], self._limits[index] = len(row.prompt), 0, row.limit
        self._temperatures[index], self._top_p[index] = row.temperature, row.top_p
        self._keys[index] = stream_key(row.seed, row.choice)
        if row.limit > self._tokens.shape[1]:
            more = ((0, 0), (0, 2 * row.limit - self._tokens.shape[1]))
            self._tokens, self._logprobs = np.pad(self._tokens, more), np.pad(self._logprobs, more)

    def step(self) -> list[Finished | Sampled]:
        """Samples one more token for every row."""
        size = self.size
        rows = np.arange(size)
        last = self._tokens[rows, self._counts[:size] - 1]
        logits = self.slots.extend(0, last[:, None], self._lengths[:size], np.ones(size, dtype=np.int64))
        self._lengths[:size] += 1
        return self._advance(0, logits)

    def _advance(self, first: int, logits: Tensor) -> list[Finished | Sampled]:
        span = slice(first, self.size)
        counts = self._counts[span]
        draw = sample(logits, self._temperatures[span], self._top_p[span], self._keys[span], counts)
        tokens, logprobs = draw.tokens.cpu().numpy(), draw.logprobs.cpu().numpy()
        rows = np.arange(first, self.size)
        self._tokens[rows, counts], self._logprobs[rows, counts] = tokens, logprobs
        counts += 1
        ended = self._ends[tokens]
        over = ended | (counts >= self._limits[span])
        events: list[Finished | Sampled] = []
        for index, row in enumerate(self.rows[first:]):
            if row.watched:
                self._watch(row, index, first, draw, over, ended)
                if row.streamed:
                    events.append(Sampled(row, int(tokens[index]), float(logprobs[index])))
        for index in reversed(np.nonzero(over)[0].tolist()):
            events.append(self._finish(first + index, "stop" if ended[index] else "length"))
        return events

    def _watch(self, row: Row, index: int, first: int, draw: Draw, over: npt.NDArray[np.bool_], ended: npt.NDArray[np.bool_]) -> None:
        if row.top_logprobs:
            values, ids = draw.distribution[index].topk(min(row.top_logprobs, draw.distribution.shape[1]))
            row.top.append(list(zip(ids.tolist(), values.tolist(), strict=True)))
        if row.stops and not ended[index]:
            count = int(self._counts[first + index])
            tail = self._tokens[first + index, max(0, count - stop_window(row.stops)) : count].tolist()
            text = self.tokenizer.decode(tail, skip_special_tokens=True)
            if any(stop in text for stop in row.stops):
                over[index] = ended[index] = True

    def _finish(self, index: int, reason: str) -> Finished:
        count = int(self._counts[index])
        done = Finished(self.rows[index], self._tokens[index, :count].tolist(), self._logprobs[index, :count].tolist(), reason)
        self._leave(index)
        return done

    def _leave(self, index: int) -> None:
        """The last row moves into the place of the one that leaves."""
        last = self.size - 1
        if index != last:
            self.slots.copy(last, [index], int(self._lengths[last]))
            for array in (
                self._lengths,
                self._counts,
                self._limits,
                self._temperatures,
                self._top_p,
                self._keys,
                self._tokens,
                self._logprobs,
            ):
                array[index] = array[last]
            self.rows[index] = self.rows[last]
        self.rows.pop()

    def drop_cancelled(self) -> None:
        """Rows that nobody waits for leave."""
        for index in reversed(range(self.size)):
            if self.rows[index].cancelled:
                self._leave(index)
