"""The learner: agrees with the engine, improves what is rewarded, touches only what it may."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from agl.errors import ConfigError, DataError
from agl.transitions import Row
from agl_grpo.advantages import grpo
from agl_grpo.engine import Engine
from agl_grpo.learner import Learner
from agl_grpo.models import LoRA, with_lora
from agl_grpo.packing import Example, bundles, micro_batches
from agl_grpo.sampling import Sampling
from agl_grpo.schedules import Schedule


@pytest.fixture
def sampled(make_row: Callable[..., Row]) -> Callable[..., Any]:
    """Rows that an engine has sampled: (prompts, answers per prompt) to rows."""

    async def sample(engine: Engine, prompts: list[list[int]], n: int, temperature: float, seed: int | None) -> list[Row]:
        sampling = Sampling(n=n, temperature=temperature, max_tokens=12, seed=seed)
        done = await asyncio.gather(*(engine.generate(prompt, sampling) for prompt in prompts))
        rows = []
        for task, completion in enumerate(done):
            for choice, answer in enumerate(completion.answers):
                before, size = len(completion.prompt_ids), len(answer.token_ids)
                mask, logprobs = [False] * before + [True] * size, [0.0] * before + answer.logprobs
                rows.append(make_row(f"{task}-{choice}", completion.prompt_ids + answer.token_ids, mask, logprobs, temperature))
        return rows

    def run(engine: Engine, prompts: list[list[int]], n: int = 4, temperature: float = 1.0, seed: int | None = 0) -> list[Row]:
        return asyncio.run(sample(engine, prompts, n, temperature, seed))

    return run


PROMPTS = [[5, 9, 40], [7] * 20, [100, 101, 102, 103, 104, 105, 106]]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_the_engines_logprobs_are_the_learners_so_the_first_ratio_is_one(model, engine, sampled, temperature: float) -> None:
    rows = sampled(engine, PROMPTS, temperature=temperature)
    metrics = Learner(model).update(rows, [1.0, -1.0] * 6)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert 0 <= metrics["mismatch_kl"] < 1e-8
    assert metrics["clip_fraction"] == 0.0


def test_fewer_rollouts_than_minibatches_are_a_step_each_and_none_is_left_out(model, make_step) -> None:
    rows = make_step(3)
    metrics = Learner(model, minibatches=8).update(rows, [1.0, -1.0, 0.5])
    assert (metrics["steps"], metrics["rows"]) == (3.0, 3.0)
    assert Learner(model, minibatches=8).update([], [])["steps"] == 0.0


def test_what_is_rewarded_becomes_more_frequent(model, make_engine, sampled) -> None:
    """Twelve steps of GRPO on tokens whose id is even."""
    engine, learner = make_engine(model, seed=0), Learner(model, lr=3e-3, minibatches=2)
    shares = []
    for step in range(12):
        rows = sampled(engine, PROMPTS, n=16, seed=step)
        rewards = [sum(t % 2 == 0 for t, on in zip(row.token_ids, row.mask, strict=True) if on) / sum(row.mask) for row in rows]
        advantages = [value for at in range(0, len(rows), 16) for value in grpo(rewards[at : at + 16])]
        with engine.paused():
            learner.update(rows, advantages)
            engine.version = str(step + 1)
        shares.append(sum(rewards) / len(rewards))
    assert sum(shares[:2]) / 2 < 0.7 < sum(shares[-2:]) / 2


def test_the_same_updates_give_the_same_bits(make_model, make_step) -> None:
    results = []
    for _ in range(2):
        model = make_model()
        learner = Learner(model, lr=1e-3, minibatches=3, epochs=2, kl_coef=0.05)
        for step in range(3):
            learner.update(make_step(6, seed=step), [1.0, -1.0, 0.5, -0.5, 0.1, 0.0])
        results.append([value.clone() for value in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_metrics_name_what_was_done(model, make_step) -> None:
    rows = make_step(6)
    metrics = Learner(model, minibatches=3, epochs=2, kl_coef=0.1).update(rows, [1.0, -1.0, 0.5, -0.5, 0.1, 0.0])
    assert metrics["steps"] == 6
    assert metrics["rows"] == 6
    assert metrics["trained_tokens"] == sum(sum(row.mask) for row in rows)
    assert all(math.isfinite(value) for value in metrics.values())
    assert {
        "loss",
        "grad_norm",
        "ratio",
        "clip_fraction",
        "approx_kl",
        "mismatch_kl",
        "entropy",
        "kl",
        "lr",
        "tokens_per_second",
    } <= metrics.keys()


def test_rows_without_an_advantage_change_nothing(model, make_step) -> None:
    before = [value.clone() for value in model.parameters()]
    metrics = Learner(model, weight_decay=0.1).update(make_step(4), [0.0] * 4)
    assert metrics["steps"] == 0
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert Learner(model).update([], [])["steps"] == 0


def test_rows_without_an_advantage_still_count_in_the_weights(make_model, make_step) -> None:
    """Leaving idle rows out of the computation must not change the gradient of the others."""
    rows = make_step(4)
    norms = [Learner(make_model(), kl_coef=kl).update(rows, [1.0, -1.0, 0.0, 0.0])["grad_norm"] for kl in (0.0, 1e-12)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_kl_pulls_back_to_the_model_at_the_start(make_model, make_step) -> None:
    model = make_model()
    learner = Learner(model, lr=1e-2, kl_coef=1.0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    kls = [learner.update(make_step(4), [0.0] * 4)["kl"] for _ in range(8)]
    assert kls[-1] < 0.5 * kls[0]
    assert all(torch.equal(start[name], value) for name, value in learner.reference.__enter__().state_dict().items())


def test_lora_trains_only_the_adapter_and_its_reference_is_the_model_without_it(make_model, make_engine, sampled) -> None:
    model = with_lora(make_model(), LoRA(rank=4))
    engine, learner = make_engine(model), Learner(model, lr=1e-2, kl_coef=0.1)
    assert learner.named
    assert all("lora_" in name for name in learner.named)
    before = {name: value.clone() for name, value in model.named_parameters()}
    rows = sampled(engine, PROMPTS)
    with engine.paused():
        assert learner.update(rows, [1.0, -1.0] * 6)["kl"] == pytest.approx(0.0, abs=1e-6)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    again = sampled(engine, PROMPTS)
    metrics = learner.update(again, [1.0, -1.0] * 6)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5), "the engine samples with the adapter"
    assert metrics["kl"] > 1e-6


def test_micro_batches_hold_every_row_once_within_the_budget(make_step) -> None:
    examples = [Example(row, 1.0, 1.0) for row in make_step(30)]
    groups = micro_batches(bundles(examples, 0), 60)
    assert sorted(id(item.examples[0]) for group in groups for item in group) == sorted(id(item) for item in examples)
    assert all(len(group) == 1 or len(group) * max(item.length for item in group) <= 60 for group in groups)
    assert len(groups) < 30


def test_siblings_share_their_prompt_and_strangers_do_not(make_row) -> None:
    prompts = [list(range(3, 43)), list(range(100, 140))]
    rows = [
        make_row(f"{p}-{k}", [*prompt, 50 + k, 60, 61], [False] * 40 + [True] * 3) for p, prompt in enumerate(prompts) for k in range(4)
    ]
    found = bundles([Example(row, 1.0, 1.0) for row in reversed(rows)], 512)
    assert [(len(item.examples), item.shared, item.length) for item in found] == [(4, 40, 48), (4, 40, 48)]
    assert [len(item.examples) for item in bundles([Example(row, 1.0, 1.0) for row in rows], 45)] == [2, 2, 2, 2]


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(model, make_row) -> None:
    before = [value.clone() for value in model.parameters()]
    learner = Learner(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    metrics = learner.update([make_row("a", [5, 6, 7], [0, 0, 1], [0, 0, -5.0])], [1.0])
    assert (metrics["skipped_steps"], metrics["steps"], learner.steps) == (1, 0, 0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("tokens", "mask", "logprobs", "advantage", "says"),
    [
        ([5, 6], [1, 1], [-1.0, -1.0], 1.0, "nothing predicts"),
        ([5, 6], [0, 1], [0.0, math.nan], 1.0, "finite"),
        ([5, 6], [0, 1], [0.0, -1.0], math.inf, "finite"),
        ([5, 6], [0, 1], [0.0], 1.0, "1 log-probabilities"),
        ([5, 6], [0, 1], [0.0, -1.0], [1.0], "1 advantages"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_refused_before_anything_changes(
    model, make_row, tokens, mask, logprobs, advantage, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        Learner(model).update([make_row("a", tokens, mask, logprobs)], [advantage])


@pytest.mark.parametrize("options", [{"aggregation": "mean"}, {"lr": 0.0}, {"minibatches": 0}, {"clip_low": -0.1}])
def test_options_that_cannot_work_are_refused(model, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Learner(model, **options)


def test_a_frozen_model_cannot_be_trained(model) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        Learner(model.requires_grad_(False))


def test_rows_and_advantages_must_match(model, make_step) -> None:
    with pytest.raises(ConfigError, match="2 rows and 1 advantages"):
        Learner(model).update(make_step(2), [1.0])


def test_schedules_warm_up_and_come_down() -> None:
    assert [Schedule(warmup=2).factor(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert [Schedule("linear", total=4).factor(step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [round(Schedule("cosine", warmup=1, total=3, floor=0.1).factor(step), 6) for step in range(4)] == [1.0, 1.0, 0.55, 0.1]
    with pytest.raises(ConfigError, match="constant, linear, cosine"):
        Schedule("exponential")
    with pytest.raises(ConfigError, match="needs `total`"):
        Schedule("linear")
