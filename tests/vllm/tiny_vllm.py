"""A tiny random policy that vLLM's CPU build can serve: its heads have 32 places, the fewest that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_policy import TinyPolicy, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from agl.engines import Policy


def make_model() -> Any:
    """The same random weights each time, with an output head of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    context = {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.15}
    return LlamaForCausalLM(LlamaConfig(**sizes, **context, eos_token_id=2, pad_token_id=0, bos_token_id=None)).eval()


def save(folder: Path) -> Path:
    """Write the policy as a folder that GRPO and vLLM load."""
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


class TinyVLLMPolicy(TinyPolicy):
    """Mixed into `EngineConformance`."""

    def make_policy(self) -> Policy:
        return Policy(module=make_model(), tokenizer=make_tokenizer())
