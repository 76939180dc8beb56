"""Tiny random models and hand-made rows: everything here runs on one core in seconds, without a download."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agl.transitions import Row
from agl_grpo.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[2] / "clients"))
TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool.function.name }} {% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level: every text can be written and every byte is one token; ids 0, 1, 2 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(["<|pad|>", "<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>", additional_special_tokens=["<|im_start|>"]
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    def make(seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        sizes = {
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        ids = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None}
        # Wide initial weights: a random model that is nearly uniform would hide a wrong mask or position.
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **ids, "max_position_embeddings": 256, "initializer_range": 0.3, **options})).eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture
def make_engine(tokenizer: Any) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(model: Any, **options: Any) -> Engine:
        engines.append(Engine(model, tokenizer, threads=1, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(model: Any, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(model)


@pytest.fixture
def sampled(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int], list[float]]]:
    """Every answer that the engine gives: prompt ids, token ids, log-probabilities."""
    told: list[Any] = []
    generate, stream = engine.generate, engine.stream

    async def whole(prompt_ids: Any, sampling: Any = None) -> Any:
        done = await generate(prompt_ids, sampling)
        told.extend((list(prompt_ids), answer.token_ids, answer.logprobs) for answer in done.answers)
        return done

    async def streamed(prompt_ids: Any, sampling: Any = None) -> Any:
        rows: Any = [(list(prompt_ids), [], []) for _ in range(sampling.n)]
        async with contextlib.aclosing(stream(prompt_ids, sampling)) as deltas:
            async for delta in deltas:
                if delta.token_id is not None:
                    rows[delta.choice][1].append(delta.token_id)
                    rows[delta.choice][2].append(delta.logprob)
                yield delta
        told.extend(rows)

    monkeypatch.setattr(engine, "generate", whole)
    monkeypatch.setattr(engine, "stream", streamed)
    return told


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    def make(
        rollout_id: str, token_ids: Sequence[int], mask: Sequence[bool], logprobs: Sequence[float] | None = None, temperature: float = 1.0
    ) -> Row:
        size = len(token_ids)
        shown = tuple(logprobs) if logprobs is not None else (0.0,) * size
        return Row(
            rollout_id=rollout_id,
            token_ids=tuple(token_ids),
            mask=tuple(mask),
            logprobs=shown,
            owners=tuple(0 if on else -1 for on in mask),
            transitions=(),
            temperature=temperature,
        )

    return make


@pytest.fixture(scope="session")
def make_step(make_row: Callable[..., Row]) -> Callable[..., list[Row]]:
    """Rollouts as one row each, with several answers in it and made-up log-probabilities near those of a flat model."""

    def make(rollouts: int, seed: int = 0, vocabulary: int = 259) -> list[Row]:
        draw = random.Random(seed)
        rows = []
        for index in range(rollouts):
            ids, mask = [draw.randrange(3, vocabulary) for _ in range(draw.randint(2, 9))], []
            mask = [False] * len(ids)
            for _ in range(draw.randint(1, 3)):
                for on, most in ((True, 7), (False, 4)):
                    size = draw.randint(1, most)
                    ids += [draw.randrange(3, vocabulary) for _ in range(size)]
                    mask += [on] * size
            rows.append(
                make_row(f"r{index}", ids, mask, [draw.uniform(-7, -4) if on else 0.0 for on in mask], temperature=draw.choice([1.0, 0.7]))
            )
        return rows

    return make
