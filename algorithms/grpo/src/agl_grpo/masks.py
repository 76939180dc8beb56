"""Masks: who may attend to whom, in the form that a model of `transformers` takes ready-made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agl_grpo.heads import plain

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Masks:
    """Makes a model's attention masks from what may be seen and where it stands.

    Args:
        model: a causal LM of `transformers`, with or without `peft`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.config: Any = plain(model).config.get_text_config()  # type: ignore[union-attr, operator]
        self.dtype = next(model.parameters()).dtype
        self.kinds = set(getattr(self.config, "layer_types", None) or ())
        self.window = getattr(self.config, "sliding_window", None)

    def unsupported(self) -> str | None:
        """Why the model takes no masks of our own; None when it does."""
        if self.kinds - _KNOWN_LAYERS:
            return f"it has layers of type {sorted(self.kinds - _KNOWN_LAYERS)}, known are {sorted(_KNOWN_LAYERS)}"
        attention = getattr(self.config, "_attn_implementation", "sdpa")
        if attention not in ("sdpa", "eager"):
            return f'it was loaded with `attn_implementation="{attention}"`, which takes no mask of our own; load it with "sdpa"'
        return None

    def make(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
        """The `attention_mask` of a forward pass.

        Args:
            visible: (B, 1, T, L) bool, without regard to a window.
            queries: (B, T) positions of the tokens that attend.
            keys: (B, L) or (1, L) positions of the tokens that are attended to.
        """
        if not self.window or self.kinds == {"full_attention"}:
            return self._shaped(visible)
        near = visible & (keys[:, None, None, :] > queries[:, None, :, None] - self.window)
        if len(self.kinds) > 1:
            return {"full_attention": self._shaped(visible), "sliding_attention": self._shaped(near)}
        return self._shaped(near)

    def _shaped(self, mask: Tensor) -> Tensor:
        if self.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(self.dtype).min)
