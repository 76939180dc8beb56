"""Logits only where they are needed: a vocabulary is the widest tensor of a language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def logits_at(model: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Inside, `model` computes logits only at the given places: (1, N, V) instead of (B, T, V).

    The hidden states are picked just before the output embedding, so whatever a model does to its logits afterwards
    (scaling, capping) still happens, and gradients flow as usual.

    Args:
        model: a causal LM of `transformers`.
        rows: (N,) batch indices.
        positions: (N,) time indices.
    """

    def pick(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][rows, positions].unsqueeze(0), *inputs[1:])

    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def plain(model: nn.Module) -> nn.Module:
    """The causal LM itself, with adapters in place but without the wrapper that a `peft` model puts around each call."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
