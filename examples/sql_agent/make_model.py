"""Makes the embedded model: an ordinary Hugging Face directory with a tiny Llama and its tokenizer, trained by imitation on `corpus.py`.

    python examples/sql_agent/make_model.py --output examples/sql_agent/model

It reads every question and copies tables, columns and values well, but writes SQL in the mixed dialects of its corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corpus import Example, make_corpus

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
_TOKENIZER_EXAMPLES = 8_000
_WARMUP = 0.05
_PACK_TOKENS = 384


def main() -> None:
    """Makes corpus, tokenizer and model and writes them out."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        examples = make_corpus(Path(folder), arguments.examples, seed=arguments.seed)
    tokenizer = train_tokenizer(examples[:_TOKENIZER_EXAMPLES], arguments.vocabulary)
    model = new_model(tokenizer, arguments.hidden, arguments.layers)
    rows = [encode(tokenizer, example) for example in examples]
    loss = imitate(model, rows, batch_size=arguments.batch, learning_rate=arguments.learning_rate, seed=arguments.seed)
    _save(model, tokenizer, arguments, loss, time.process_time() - started)


def train_tokenizer(examples: list[Example], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on the corpus; digits stay apart, so that a number is copied digit by digit."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, START, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = (
        text
        for example in examples
        for text in ("system\n", "user\n", "assistant\n", *(str(m.content) for m in example.messages), example.reply)
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, padding_side="left", model_max_length=512)
    tokenizer.chat_template = CHAT_TEMPLATE
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
        max_position_embeddings=512,
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
    """What the prompt begins with: examples of one group share the instruction and the schema."""
    ids: list[int]
    """Prompt and reply."""
    prompt_length: int


class Pack(NamedTuple):
    """Several rows of one group laid side by side behind the beginning that they share, which is then computed only once."""

    shared: list[int]
    rest: list[tuple[list[int], int]]
    """What follows `shared` in each row, and how much of it is still prompt."""


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> Row:
    """Turns an example into token ids, just as a server would build the prompt."""
    messages = [{"role": _ROLES[message.type], "content": message.content} for message in example.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    schema, question, _ = str(messages[-1]["content"]).partition("\nQuestion:")
    group = f"{example.node}/{schema if question else ''}"
    return Row(group, ids + tokenizer(example.reply + END, add_special_tokens=False)["input_ids"], len(ids))


def imitate(model: LlamaForCausalLM, rows: list[Row], *, batch_size: int, learning_rate: float, seed: int) -> float:
    """Trains on the replies' tokens, one pass over the rows; returns the mean loss of the last tenth."""
    packs = _packs(rows, random.Random(seed))
    optimizers = _optimizers(model, learning_rate)
    steps = math.ceil(len(packs) / batch_size)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps)) for optimizer in optimizers]
    model.train()
    losses: list[float] = []
    for step in range(steps):
        loss = _reply_loss(model, packs[step * batch_size : (step + 1) * batch_size])
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


def _packs(rows: list[Row], rng: random.Random) -> list[Pack]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    packs: list[Pack] = []
    for group in groups.values():
        shared = commonprefix([row.ids[: row.prompt_length - 1] for row in group])  # noqa: RUF071 (of lists, not of paths)
        packs.append(Pack(shared, []))
        room = _PACK_TOKENS - len(shared)
        for row in rng.sample(group, len(group)):
            if room < len(row.ids) - len(shared):
                packs.append(Pack(shared, []))
                room = _PACK_TOKENS - len(shared)
            packs[-1].rest.append((row.ids[len(shared) :], row.prompt_length - len(shared)))
            room -= len(row.ids) - len(shared)
    return rng.sample(packs, len(packs))


def _reply_loss(model: LlamaForCausalLM, batch: list[Pack]) -> torch.Tensor:
    tokens = torch.zeros(len(batch), _PACK_TOKENS, dtype=torch.long)  # (B, T)
    positions = torch.zeros_like(tokens)  # (B, T)
    owner = torch.full_like(tokens, -1)  # (B, T): 0 the shared beginning, then the number of the row, -1 padding
    wanted = torch.zeros_like(tokens, dtype=torch.bool)  # (B, T)
    for place, (shared, rest) in enumerate(batch):
        start = 0
        for number, (ids, prompt_length) in enumerate([(shared, len(shared)), *rest]):
            end = start + len(ids)
            tokens[place, start:end] = torch.tensor(ids)
            first = len(shared) if number else 0
            positions[place, start:end] = torch.arange(first, first + len(ids))
            owner[place, start:end] = number
            wanted[place, start + prompt_length : end] = True
            start = end
    sees = ((owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)).tril()  # (B, T, T)
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]  # (B, 1, T, T)
    hidden = model.model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, H)
    logits = model.lm_head(hidden[:, :-1][wanted[:, 1:]])  # (N, V): only the replies' tokens
    return torch.nn.functional.cross_entropy(logits, tokens[:, 1:][wanted[:, 1:]])


def _rate(progress: float) -> float:
    return progress / _WARMUP if progress < _WARMUP else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))


def _save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace, loss: float, cpu_seconds: float
) -> None:
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=64)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    options = {name: content for name, content in vars(arguments).items() if name not in ("output", "threads")}
    record = {
        "command": " ".join(
            ["python examples/sql_agent/make_model.py", *(f"--{name.replace('_', '-')} {content}" for name, content in options.items())]
        ),
        "parameters": model.num_parameters(),
        "final_loss": round(loss, 4),
        "cpu_seconds": round(cpu_seconds),
        "torch": torch.__version__.split("+")[0],
    }
    (arguments.output / "made_by.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the embedded text-to-SQL model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="the directory to write")
    parser.add_argument("--examples", type=int, default=50_000, help="examples in the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4, help="packs of rows in a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
