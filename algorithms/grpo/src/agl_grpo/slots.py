"""Slots: a key/value cache in which every row has its own length, and the one forward pass that prefills and decodes.

Slot `i` holds the keys and values of row `i`, position by position. A row that joins writes into the next free slot; a
row that leaves is overwritten by the last one. No row is ever padded on the left, so positions are plain indices and a
sliding window is a plain comparison. What padding on the right writes lies beyond a row's length: it is masked until the
row's own tokens overwrite it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from agl.errors import EngineError
from agl_grpo.heads import logits_at, plain
from agl_grpo.masks import Masks

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer that has its own."""

_BLOCK = 16


class _Place:
    """Where the forward pass in progress reads and writes."""

    rows: Tensor  # (R, 1) slots
    positions: Tensor  # (R, T)
    first: int
    last: int
    length: int
    capacity: tuple[int, int]


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, heads, length, width): what one head reads lies together in memory."""

    is_sliding = False

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._grown(None, key_states)
        self.values = self._grown(None, value_states)
        self.is_initialized = True

    def _grown(self, old: Tensor | None, like: Tensor) -> Tensor:
        slots, length = self.place.capacity
        # Zeros, not empty: what is masked is multiplied by 0, and 0 times a NaN left in memory is NaN.
        new = like.new_zeros(slots, like.shape[1], length, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes (R, heads, T, width) at the rows' own positions and returns all that the rows may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.place
        assert self.keys is not None
        assert self.values is not None
        self.keys[place.rows, :, place.positions] = key_states.transpose(1, 2)
        self.values[place.rows, :, place.positions] = value_states.transpose(1, 2)
        span = slice(place.first, place.last), slice(None), slice(0, place.length)
        return self.keys[span], self.values[span]

    def grow(self) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._grown(self.keys, self.keys), self._grown(self.values, self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, by its name in transformers before 5.11."""
        return -1


class Slots:
    """The batch of rows that a model is decoding, as keys and values.

    Args:
        model: a causal LM of `transformers`, with or without `peft`.
        prefix_bytes: how much memory to spend on remembering prompts, so that a prompt that begins like an earlier one
            is not computed again.

    Raises:
        EngineError: the model has layers that are not attention (recurrent, chunked), or an attention implementation
            that takes no 4D mask.
    """

    def __init__(self, model: nn.Module, prefix_bytes: int) -> None:
        self.model = plain(model)
        self.config: Any = self.model.config.get_text_config()  # type: ignore[union-attr, operator]
        self.device = next(model.parameters()).device
        self.masks = Masks(model)
        if why := self.masks.unsupported():
            raise EngineError(
                f"the engine cannot serve this `{self.config.model_type}` model: {why}. Or serve it with another engine, such as vLLM"
            )
        self._place = _Place()
        self._place.capacity = (0, 0)
        self._layers = [_SlotLayer(self._place) for _ in range(self.config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self.prefixes = _Prefixes(prefix_bytes)

    def extend(self, first: int, tokens: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Tensor:
        """Runs new tokens of the rows in slots `first`, `first + 1`, … through the model.

        Args:
            first: slot of the first row.
            tokens: (R, T) new tokens, padded on the right.
            starts: (R,) position of each row's first new token.
            counts: (R,) number of new tokens of each row, at least 1.

        Returns:
            (R, V) logits after each row's last new token.
        """
        rows, width = tokens.shape
        self._reserve(first + rows, int(starts.max()) + width)
        place = self._place
        positions = torch.from_numpy(starts[:, None] + np.arange(width)).to(self.device)  # (R, T)
        place.rows = torch.arange(first, first + rows, device=self.device)[:, None]
        place.positions = positions
        place.first, place.last, place.length = first, first + rows, int(starts.max()) + width
        keys = torch.arange(place.length, device=self.device)[None]  # (1, L)
        inputs = {
            "input_ids": torch.from_numpy(tokens).to(self.device),
            "attention_mask": self.masks.make(keys <= positions[:, None, :, None], positions, keys),
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if width == 1:
            return self.model(**inputs).logits[:, 0]
        index = torch.arange(rows, device=self.device)
        with logits_at(self.model, index, torch.from_numpy(counts - 1).to(self.device)):
            return self.model(**inputs).logits[0]

    def _reserve(self, rows: int, length: int) -> None:
        had = self._place.capacity
        if rows <= had[0] and length <= had[1]:
            return
        grow = (max(had[0], 8), max(had[1], 128))
        while grow[0] < rows:
            grow = (grow[0] * 2, grow[1])
        while grow[1] < length:
            grow = (grow[0], grow[1] * 2)
        self._place.capacity = grow
        for layer in self._layers:
            layer.grow()

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Copies the first `length` positions of a slot to other slots."""
        self._reserve(max(targets) + 1, length)
        for pair in self._stores():
            for store in pair:
                store[targets, :, :length] = store[source, :, :length]

    def remember(self, slot: int, prompt: npt.NDArray[np.int64]) -> None:
        """Keeps a prompt's keys and values for prompts that begin like it."""
        if len(prompt) > _BLOCK and self.prefixes.limit:
            length = len(prompt)
            self.prefixes.put(
                prompt, [(keys[slot, :, :length].clone(), values[slot, :, :length].clone()) for keys, values in self._stores()]
            )

    def fill(self, slot: int, length: int, known: Pairs) -> None:
        """Puts the first `length` positions of a remembered prompt (`prefixes.longest`) into a slot."""
        self._reserve(slot + 1, length)
        for (keys, values), (known_keys, known_values) in zip(self._stores(), known, strict=True):
            keys[slot, :, :length], values[slot, :, :length] = known_keys[:, :length], known_values[:, :length]

    def _stores(self) -> Pairs:
        return [(layer.keys, layer.values) for layer in self._layers if layer.keys is not None and layer.values is not None]


class _Prefixes:
    """Recently computed prompts, found by their beginnings in steps of `_BLOCK` tokens; the oldest go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[bytes, Pairs] = OrderedDict()
        self._by_start: dict[bytes, bytes] = {}

    def clear(self) -> None:
        self._kept.clear()
        self._by_start.clear()
        self.size = 0

    def put(self, prompt: npt.NDArray[np.int64], pairs: Pairs) -> None:
        name = prompt.tobytes()
        if name in self._kept:
            return
        self._kept[name] = pairs
        self.size += _bytes(pairs)
        for start in _starts(name):
            self._by_start[start] = name
        while self.size > self.limit and self._kept:
            old, dropped = self._kept.popitem(last=False)
            self.size -= _bytes(dropped)
            for start in _starts(old):
                if self._by_start.get(start) == old:
                    del self._by_start[start]

    def longest(self, prompt: npt.NDArray[np.int64]) -> tuple[int, Pairs]:
        for start in _starts(prompt[:-1].tobytes()):
            name = self._by_start.get(start)
            if name is not None:
                self._kept.move_to_end(name)
                return len(start) // 8, self._kept[name]
        return 0, []


def _starts(name: bytes) -> list[bytes]:
    step = 8 * _BLOCK
    return [name[:stop] for stop in range(len(name) // step * step, 0, -step)]


def _bytes(pairs: Pairs) -> int:
    return sum(tensor.numel() * tensor.element_size() for pair in pairs for tensor in pair)
