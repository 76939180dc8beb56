"""A tiny random policy with a byte-level tokenizer, made without a download, and what `EngineConformance` asks of it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agl.engines import Policy

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def make_tokenizer() -> Any:
    """Every byte is one token; ids 0, 1, 2 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(["<|pad|>", "<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "additional_special_tokens": ["<|im_start|>"]}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    made.chat_template = TEMPLATE
    return made


def make_model() -> Any:
    """The same random weights each time, wide enough that a wrong token or position shows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, eos_token_id=2, pad_token_id=0, bos_token_id=None)).eval()


def save(folder: Any) -> Any:
    """Write the policy as a folder that `agl.GRPO` loads."""
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


class TinyPolicy:
    """Mixed into `EngineConformance`."""

    def make_policy(self):
        return Policy(module=make_model(), tokenizer=make_tokenizer())

    def logprobs(self, policy, prompt_ids, token_ids):
        with torch.no_grad():
            scores = policy.module(torch.tensor([[*prompt_ids, *token_ids]])).logits[0].log_softmax(-1)
        return [float(scores[len(prompt_ids) - 1 + place, token]) for place, token in enumerate(token_ids)]

    def learn(self, policy):
        with torch.no_grad():
            policy.module.lm_head.weight.mul_(1.5)
            policy.module.model.embed_tokens.weight.add_(0.1)
