"""The engine: what it samples is what the model says, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
import torch

from agl.errors import EngineError
from agl_grpo.engine import Engine
from agl_grpo.sampling import Sampling, sample, stream_key, uniforms

pytestmark = pytest.mark.asyncio
GREEDY = Sampling(temperature=0.0, max_tokens=12)


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 259) for _ in range(draw.randint(1, longest))] for _ in range(count)]


@torch.no_grad()
def plain_logprobs(model: Any, prompt: list[int], answer: list[int], temperature: float = 1.0) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)  # (T, V)


def picked(logprobs: torch.Tensor, ids: list[int]) -> torch.Tensor:
    return logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0]


async def test_a_batch_of_mixed_lengths_equals_one_at_a_time_and_a_plain_forward(model, make_engine) -> None:
    asked = prompts(24)
    together, alone = make_engine(model), make_engine(model, max_batch=1, prefix_bytes=0)
    batched = await asyncio.gather(*(together.generate(prompt, GREEDY) for prompt in asked))
    for prompt, done in zip(asked, batched, strict=True):
        answer = done.answers[0]
        single = (await alone.generate(prompt, GREEDY)).answers[0]
        expected = plain_logprobs(model, prompt, answer.token_ids)
        assert answer.token_ids == single.token_ids == expected.argmax(-1).tolist()
        assert torch.allclose(torch.tensor(answer.logprobs), picked(expected, answer.token_ids), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
async def test_logprobs_are_those_of_the_distribution_at_the_temperature_before_top_p(model, engine, temperature: float) -> None:
    asked = prompts(10)
    found = await asyncio.gather(
        *(engine.generate(prompt, Sampling(temperature=temperature, top_p=0.8, max_tokens=15, seed=1)) for prompt in asked)
    )
    for prompt, done in zip(asked, found, strict=True):
        expected = plain_logprobs(model, prompt, done.answers[0].token_ids, temperature)
        assert torch.allclose(torch.tensor(done.answers[0].logprobs), picked(expected, done.answers[0].token_ids), atol=1e-5)


async def test_a_seeded_answer_does_not_depend_on_what_else_is_in_the_batch(model, make_engine) -> None:
    asked = prompts(12)
    samplings = [Sampling(max_tokens=10, seed=seed, n=2) for seed in range(12)]
    busy, quiet = make_engine(model), make_engine(model, max_batch=2)
    crowd = asyncio.gather(*(busy.generate(prompt, Sampling(max_tokens=20)) for prompt in prompts(20, seed=5)))
    batched = await asyncio.gather(*(busy.generate(*item) for item in zip(asked, samplings, strict=True)))
    await crowd
    for prompt, sampling, done in zip(asked, samplings, batched, strict=True):
        again = await quiet.generate(prompt, sampling)
        assert [answer.token_ids for answer in again.answers] == [answer.token_ids for answer in done.answers]


async def test_the_answers_of_one_seed_differ_from_each_other_and_from_other_seeds(engine) -> None:
    prompt = prompts(1)[0]
    first = await engine.generate(prompt, Sampling(n=4, seed=1, max_tokens=10))
    second = await engine.generate(prompt, Sampling(n=4, seed=2, max_tokens=10))
    assert len({tuple(answer.token_ids) for done in (first, second) for answer in done.answers}) == 8


async def test_an_engine_with_a_seed_repeats_requests_without_one(model, make_engine) -> None:
    runs = []
    for _ in range(2):
        engine = make_engine(model, seed=7)
        runs.append([(await engine.generate(prompt, Sampling(max_tokens=8))).answers[0].token_ids for prompt in prompts(3)])
    assert runs[0] == runs[1]


async def test_an_answer_ends_at_its_length_or_at_the_end_token(model, engine, tokenizer) -> None:
    done = await engine.generate(prompts(1)[0], Sampling(max_tokens=7, temperature=0.0))
    assert len(done.answers[0].token_ids) == 7
    assert done.answers[0].finish_reason == "length"
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 3.0 * model.lm_head.weight.abs().max()
    many = await engine.generate(prompts(1)[0], Sampling(max_tokens=60, n=32, seed=0))
    ended = [answer for answer in many.answers if answer.finish_reason == "stop"]
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in answer.token_ids[:-1]
        assert answer.text == tokenizer.decode(answer.token_ids[:-1], skip_special_tokens=True)
        assert len(answer.logprobs) == len(answer.token_ids)


async def test_a_stop_text_ends_the_answer_and_is_cut_from_its_text_but_not_from_its_tokens(engine) -> None:
    prompt = prompts(1)[0]
    free = (await engine.generate(prompt, Sampling(max_tokens=30, seed=3))).answers[0]
    stop = free.text[4:6]
    stopped = (await engine.generate(prompt, Sampling(max_tokens=30, seed=3, stop=("never there", stop)))).answers[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert len(stopped.token_ids) < len(free.token_ids)


async def test_top_logprobs_are_the_most_probable_tokens_in_order(model, engine) -> None:
    prompt = prompts(1)[0]
    answer = (await engine.generate(prompt, Sampling(max_tokens=5, seed=0, top_logprobs=3))).answers[0]
    values, ids = plain_logprobs(model, prompt, answer.token_ids).topk(3)
    assert [[token for token, _ in row] for row in answer.top] == ids.tolist()
    assert torch.allclose(torch.tensor([[value for _, value in row] for row in answer.top]), values, atol=1e-5)


async def test_a_stream_gives_the_tokens_of_the_whole_answer_one_by_one(engine) -> None:
    prompt, sampling = prompts(1)[0], Sampling(max_tokens=10, seed=4, n=2)
    whole = await engine.generate(prompt, sampling)
    tokens: dict[int, list[int]] = {0: [], 1: []}
    reasons = {}
    async for delta in engine.stream(prompt, sampling):
        if delta.token_id is None:
            reasons[delta.choice] = delta.finish_reason
        else:
            tokens[delta.choice].append(delta.token_id)
    assert [tokens[0], tokens[1]] == [answer.token_ids for answer in whole.answers]
    assert reasons == {0: whole.answers[0].finish_reason, 1: whole.answers[1].finish_reason}


async def test_a_cancelled_request_leaves_the_batch(model, make_engine) -> None:
    engine = make_engine(model, max_batch=2, max_model_len=200_000)
    endless = asyncio.ensure_future(engine.generate([5, 6], Sampling(max_tokens=100_000, n=2, stop=("never there " * 9,))))
    waiting = asyncio.ensure_future(engine.generate([7], GREEDY))
    while not engine.running:
        await asyncio.sleep(0.005)
    endless.cancel()
    done = await asyncio.wait_for(waiting, 20)
    assert len(done.answers[0].token_ids) == 12
    assert engine.running == 0


async def test_a_prompt_that_begins_like_an_earlier_one_gives_the_same_answer_as_without_memory(model, make_engine) -> None:
    start = prompts(1, seed=9)[0] + prompts(1, seed=10, longest=100)[0] + [9] * 33
    remembering, forgetful = make_engine(model), make_engine(model, prefix_bytes=0)
    await remembering.generate(start, GREEDY)
    for tail in ([], [8], [8, 9, 10], start[:20]):
        expected, found = await forgetful.generate(start + tail, GREEDY), await remembering.generate(start + tail, GREEDY)
        assert found.answers[0].token_ids == expected.answers[0].token_ids
        assert found.answers[0].logprobs == pytest.approx(expected.answers[0].logprobs, abs=1e-5)


async def test_what_is_remembered_of_prompts_stays_within_its_memory(model, make_engine) -> None:
    engine = make_engine(model, prefix_bytes=100_000)
    for prompt in prompts(30, longest=100):
        await engine.generate(prompt, GREEDY)
    assert 0 < engine.prefix_bytes_used <= 100_000


async def test_no_answer_is_sampled_by_two_versions(make_model, make_engine) -> None:
    """While requests keep coming, the weights are changed in place ten times; every answer fits the weights of its version."""
    model = make_model()
    engine = make_engine(model, max_batch=8)
    versions = {"0": {name: value.clone() for name, value in model.state_dict().items()}}
    stop = asyncio.Event()
    done = []

    async def ask(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            prompt = [draw.randrange(3, 259) for _ in range(draw.randint(1, 40))]
            done.append((prompt, await engine.generate(prompt, Sampling(max_tokens=draw.randint(1, 15)))))

    clients = [asyncio.ensure_future(ask(seed)) for seed in range(12)]
    for step in range(1, 11):
        await asyncio.sleep(0.03)
        async with engine.paused():
            assert engine.running == 0
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            engine.version = str(step)
        versions[str(step)] = {name: value.clone() for name, value in model.state_dict().items()}
    stop.set()
    await asyncio.gather(*clients)
    assert len({completion.version for _, completion in done}) >= 5
    for version, weights in versions.items():
        model.load_state_dict(weights)
        for prompt, completion in done:
            if completion.version == version:
                answer = completion.answers[0]
                assert torch.allclose(
                    torch.tensor(answer.logprobs), picked(plain_logprobs(model, prompt, answer.token_ids), answer.token_ids), atol=1e-4
                )


async def test_new_weights_are_used_at_once_and_named(make_model, make_engine) -> None:
    model, other = make_model(), make_model(seed=1)
    engine = make_engine(model)
    prompt = prompts(1)[0]
    before = await engine.generate(prompt, GREEDY)
    await engine.update_weights("1", other.state_dict())
    after = await engine.generate(prompt, GREEDY)
    assert (before.version, after.version) == ("0", "1")
    assert after.answers[0].token_ids == plain_logprobs(other, prompt, after.answers[0].token_ids).argmax(-1).tolist()


async def test_weights_of_another_model_are_refused(engine) -> None:
    with pytest.raises(EngineError, match="no parameters"):
        await engine.update_weights("1", {"another.weight": torch.zeros(1)})
    assert engine.version == "0"


async def test_a_request_that_cannot_start_in_time_fails_and_says_why(model, make_engine) -> None:
    engine = make_engine(model, queue_timeout=0.05)
    async with engine.paused():
        with pytest.raises(EngineError, match=r"paused for an update"):
            await engine.generate([5], GREEDY)
    assert (await engine.generate([5], GREEDY)).answers


async def test_pausing_gives_up_when_answers_do_not_end(model, make_engine) -> None:
    engine = make_engine(model, max_model_len=200_000)
    endless = asyncio.ensure_future(engine.generate([5], Sampling(max_tokens=100_000, temperature=0.0, stop=("never there " * 9,))))
    while not engine.running:
        await asyncio.sleep(0.005)
    with pytest.raises(EngineError, match=r"1 answers did not end within 0.05 s"), engine.paused(timeout=0.05):
        raise AssertionError("entered while an answer was running")
    endless.cancel()
    assert (await engine.generate([5], GREEDY)).answers


async def test_a_failure_while_sampling_reaches_the_caller_and_the_engine_goes_on(model, engine) -> None:
    forward = model.forward
    model.forward = lambda **inputs: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(EngineError, match="sampling failed: RuntimeError: out of memory"):
        await engine.generate([5, 6], GREEDY)
    model.forward = forward
    assert (await engine.generate([5, 6], GREEDY)).answers


async def test_closing_fails_what_is_in_work(model, make_engine) -> None:
    engine = make_engine(model, max_model_len=200_000)
    endless = asyncio.ensure_future(engine.generate([5], Sampling(max_tokens=100_000, temperature=0.0, stop=("never there " * 9,))))
    while not engine.running:
        await asyncio.sleep(0.005)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineError, match="closed"):
        await endless
    with pytest.raises(EngineError, match="closed"):
        await engine.generate([5], GREEDY)


@pytest.mark.parametrize(("prompt", "sampling"), [([5] * 256, GREEDY), ([], GREEDY), ([5], Sampling(n=65))])
async def test_what_cannot_be_sampled_is_refused(engine: Engine, prompt: list[int], sampling: Sampling) -> None:
    with pytest.raises(EngineError):
        await engine.generate(prompt, sampling)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "mistral", "sliding_window": 16},
        {"model_type": "gemma3_text"},
        {"model_type": "qwen2"},
        {"attn_implementation": "eager"},
    ],
)
async def test_other_attentions_equal_a_plain_forward(make_engine, options: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    ids = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None, "initializer_range": 0.3, "max_position_embeddings": 256}
    kind, attention = options.get("model_type", "llama"), options.get("attn_implementation", "sdpa")
    window = (
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]} if kind == "gemma3_text" else {}
    )
    config = AutoConfig.for_model(
        kind, **sizes, **ids, **window, **{key: value for key, value in options.items() if key == "sliding_window"}
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    engine = make_engine(model)
    asked = prompts(8)
    found = await asyncio.gather(*(engine.generate(prompt, GREEDY) for prompt in asked))
    for prompt, done in zip(asked, found, strict=True):
        answer = done.answers[0]
        assert torch.allclose(
            torch.tensor(answer.logprobs), picked(plain_logprobs(model, prompt, answer.token_ids), answer.token_ids), atol=1e-4
        )


async def test_a_model_with_recurrent_layers_is_refused_by_name(model, make_engine) -> None:
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(EngineError, match="linear_attention"):
        make_engine(model)


async def test_sampled_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]]).expand(20_000, -1)
    ones = np.ones(20_000, dtype=np.float32)
    keys = np.full(20_000, stream_key(3, 0), dtype=np.uint64)
    drawn = sample(logits, ones, ones, keys, np.arange(20_000))
    expected = logits[0].softmax(-1)
    assert torch.allclose(torch.bincount(drawn.tokens, minlength=5) / 20_000, expected, atol=0.01)
    cut = sample(logits, ones, 0.85 * ones, keys, np.arange(20_000))
    assert set(cut.tokens.tolist()) == {0, 1}
    assert torch.allclose(cut.logprobs, picked(logits.log_softmax(-1), cut.tokens.tolist()))


async def test_streams_are_uniform_and_independent_of_each_other() -> None:
    first = uniforms(np.full(5000, stream_key(0, 0), dtype=np.uint64), np.arange(5000))
    second = uniforms(np.full(5000, stream_key(0, 1), dtype=np.uint64), np.arange(5000))
    for stream in (first, second):
        assert stream.min() > 0.0
        assert stream.max() < 1.0
        assert np.allclose(np.histogram(stream, 10, (0, 1))[0] / 5000, 0.1, atol=0.02)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05
