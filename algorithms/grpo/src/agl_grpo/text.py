"""Text of token ids: stop strings, and the part of an answer that may be shown while it is still being sampled."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from agl_grpo.tools import MARKS

_PARTIAL = "\ufffd"


def decode(tokenizer: Any, ids: Sequence[int], stops: Sequence[str] = ()) -> tuple[str, str | None]:
    """Text of an answer without special tokens, cut before the first stop string; and that stop string."""
    text = visible_text(tokenizer, ids)
    found = first_stop(text, stops)
    return (text, None) if found is None else (text[: found[0]], found[1])


def visible_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text without special tokens, save those around a tool call: some tokenizers count them as special."""
    hidden = _hidden(tokenizer)
    if hidden is None:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    return str(tokenizer.decode([token for token in ids if token not in hidden], skip_special_tokens=False))


@functools.lru_cache(maxsize=8)
def _hidden(tokenizer: Any) -> frozenset[int] | None:
    """Ids of the tokens to leave out; None for all special ones, where no mark of a tool call is among them."""
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return frozenset(token for text, token in special.items() if text not in MARKS) if special.keys() & set(MARKS) else None


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where in a text the first stop string is, and which; None when there is none."""
    return min(((at, stop) for stop in stops if (at := text.find(stop)) >= 0), default=None)


def stop_window(stops: Sequence[str]) -> int:
    """How many last tokens to decode to see every stop string that ends there: each adds at least one byte."""
    return max(len(stop.encode()) for stop in stops) + 4


class Detokenizer:
    """Turns the token ids of one answer into pieces of text that never have to be taken back.

    Held back are half a character, and an ending that may grow into a stop string.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self._ids: list[int] = []
        self._start = 0
        self._read = 0
        self._held = ""
        self.stop: str | None = None
        """The stop string that was met."""

    def push(self, ids: Sequence[int], final: bool = False) -> str:
        """The text that `ids` add; with `final`, all that was held back too."""
        self._ids.extend(ids)
        self._held += self._decoded(final)
        return self._release(final)

    def _decoded(self, final: bool) -> str:
        # Decoding from a little before keeps the spaces that tokenizers drop at a beginning.
        before = visible_text(self.tokenizer, self._ids[self._start : self._read])
        text = visible_text(self.tokenizer, self._ids[self._start :])
        if text.endswith(_PARTIAL) and not final:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _release(self, final: bool) -> str:
        if self.stop is not None:
            return ""
        found = first_stop(self._held, self.stops)
        if found is not None:
            self.stop = found[1]
            return self._held[: found[0]]
        keep = 0 if final else max((_overlap(self._held, stop) for stop in self.stops), default=0)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
