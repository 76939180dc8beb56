"""Imitation: makes a tiny Llama with its tokenizer, teaches it to write what a corpus holds, and saves it as an ordinary Hugging Face directory.

The embedded models of the examples are made with it, in minutes on one CPU core.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_WARMUP = 0.05


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, chat_template: str, *, longest: int = 512, added: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; digits stay apart, so that a number is copied digit by digit.

    Args:
        texts: What it is trained on.
        vocabulary: How many tokens, special and added ones included.
        chat_template: Of the model.
        longest: Tokens that the model can read.
        added: Texts that are one token each and yet part of an answer's text, such as `<tool_call>`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(added),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, padding_side="left", model_max_length=longest)
    tokenizer.chat_template = chat_template
    return tokenizer


def new_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """Makes an untrained Llama whose end token is the end of a turn."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=tokenizer.model_max_length,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Row:
    """One example as token ids."""

    group: str
    """What it begins with: examples of one group share their beginning."""
    ids: list[int]
    """(T,) token ids."""
    learned: list[bool]
    """(T,): whether a token is to be imitated; the others are read only."""


class Pack(NamedTuple):
    """Several rows of one group laid side by side behind the beginning that they share, which is then computed only once."""

    shared: list[int]
    rest: list[tuple[list[int], list[bool]]]
    """What follows `shared` in each row, and which of it is learned."""


def imitate(model: LlamaForCausalLM, rows: list[Row], *, batch_size: int, learning_rate: float, seed: int, pack_tokens: int = 384) -> float:
    """Trains on the learned tokens, one pass over the rows; returns the mean loss of the last tenth."""
    packs = _packs(rows, pack_tokens, random.Random(seed))
    optimizers = _optimizers(model, learning_rate)
    steps = math.ceil(len(packs) / batch_size)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps)) for optimizer in optimizers]
    model.train()
    losses: list[float] = []
    for step in range(steps):
        loss = _loss(model, packs[step * batch_size : (step + 1) * batch_size], pack_tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step:5d}/{steps}  loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _optimizers(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network: it learns to copy in about half of AdamW's steps; AdamW for the rest."""
    inner = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    outer = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=learning_rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def _packs(rows: list[Row], pack_tokens: int, rng: random.Random) -> list[Pack]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    packs: list[Pack] = []
    for group in groups.values():
        # The token before the first learned one predicts it and so belongs to the row.
        shared = commonprefix([row.ids[: row.learned.index(True) - 1] for row in group])  # noqa: RUF071 (of lists, not of paths)
        packs.append(Pack(shared, []))
        room = pack_tokens - len(shared)
        for row in rng.sample(group, len(group)):
            if room < len(row.ids) - len(shared):
                packs.append(Pack(shared, []))
                room = pack_tokens - len(shared)
            packs[-1].rest.append((row.ids[len(shared) :], row.learned[len(shared) :]))
            room -= len(row.ids) - len(shared)
    return rng.sample(packs, len(packs))


def _loss(model: LlamaForCausalLM, batch: list[Pack], pack_tokens: int) -> torch.Tensor:
    tokens = torch.zeros(len(batch), pack_tokens, dtype=torch.long)  # (B, T)
    positions = torch.zeros_like(tokens)  # (B, T)
    owner = torch.full_like(tokens, -1)  # (B, T): 0 the shared beginning, then the number of the row, -1 padding
    wanted = torch.zeros_like(tokens, dtype=torch.bool)  # (B, T)
    for place, (shared, rest) in enumerate(batch):
        start = 0
        for number, (ids, learned) in enumerate([(shared, [False] * len(shared)), *rest]):
            end = start + len(ids)
            tokens[place, start:end] = torch.tensor(ids)
            first = len(shared) if number else 0
            positions[place, start:end] = torch.arange(first, first + len(ids))
            owner[place, start:end] = number
            wanted[place, start:end] = torch.tensor(learned)
            start = end
    sees = ((owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)).tril()  # (B, T, T)
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]  # (B, 1, T, T)
    hidden = model.model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, H)
    logits = model.lm_head(hidden[:, :-1][wanted[:, 1:]])  # (N, V): only the learned tokens
    return torch.nn.functional.cross_entropy(logits, tokens[:, 1:][wanted[:, 1:]])


def _rate(progress: float) -> float:
    return progress / _WARMUP if progress < _WARMUP else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    script: str,
    options: Mapping[str, Any],
    loss: float,
    cpu_seconds: float,
) -> None:
    """Writes the directory, and how it was made into its `made_by.json`.

    Args:
        model: What was trained.
        tokenizer: Its tokenizer.
        folder: The directory.
        script: The program that made it, as a path in the repository.
        options: The options that it was given.
        loss: What `imitate` returned.
        cpu_seconds: What the making took.
    """
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=64)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "command": " ".join([f"python {script}", *(f"--{name.replace('_', '-')} {content}" for name, content in options.items())]),
        "parameters": model.num_parameters(),
        "final_loss": round(loss, 4),
        "cpu_seconds": round(cpu_seconds),
        "torch": torch.__version__.split("+")[0],
    }
    (folder / "made_by.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
