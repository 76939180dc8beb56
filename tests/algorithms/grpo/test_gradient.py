"""The gradient: equal to enumeration on a policy small enough to enumerate, and the same however the step is cut up."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from agl.transitions import Row
from agl_grpo.advantages import ESTIMATORS
from agl_grpo.learner import Learner
from agl_grpo.losses import AGGREGATIONS
from agl_grpo.packing import Example

VOCABULARY = 4
PROMPT = [1, 3]


def double_model(vocabulary: int = 259, width: int = 32, layers: int = 2) -> Any:
    """In float64 throughout: the norms of Llama compute in float32 whatever the weights are, those of GPT-2 do not."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 2, "initializer_range": 0.3, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return (
        GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=2, n_positions=256, **ids)).double().eval()
    )


def gradient_of(learner: Learner, rows: Sequence[Row], advantages: Sequence[Any], aggregation: str = "rollout_mean") -> torch.Tensor:
    """(P,) gradient of a step, all parameters in one vector."""
    learner.optimizer.zero_grad(set_to_none=True)
    weights = AGGREGATIONS[aggregation](rows)
    learner.gradient([Example(*item) for item in zip(rows, advantages, weights, strict=True)])
    return torch.cat(
        [torch.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.flatten().clone() for p in learner.named.values()]
    )


def cut(row: Row, make_row: Any, draw: random.Random) -> list[Row]:
    """The row's answers in one or more rows: each has the whole context before its last token, and trains a part of the mask."""
    starts = [at for at, on in enumerate(row.mask) if on and not row.mask[at - 1]]
    chosen = [*sorted(draw.sample(starts[1:], draw.randint(0, len(starts) - 1))), len(row.mask)]
    pieces, begin = [], 0
    for end in chosen:
        mask = [on and begin <= at < end for at, on in enumerate(row.mask[:end])]
        pieces.append(make_row(row.rollout_id, row.token_ids[:end], mask, row.logprobs[:end], row.temperature))
        begin = end
    return pieces


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
def test_the_gradient_does_not_depend_on_the_size_of_micro_batches(
    make_model, make_step, dtype: torch.dtype, tolerance: float, aggregation: str
) -> None:
    rows, model = make_step(7), make_model() if dtype == torch.float32 else double_model()
    advantages = [1.0, -0.5, 0.3, 2.0, -1.0, 0.0, 0.7]
    whole = gradient_of(Learner(model, kl_coef=0.1), rows, advantages, aggregation)
    assert whole.norm() > 1e-3
    for tokens in (1, 40, 100):
        assert torch.allclose(
            gradient_of(Learner(model, kl_coef=0.1, micro_batch_tokens=tokens), rows, advantages, aggregation),
            whole,
            rtol=0,
            atol=tolerance,
        )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_the_gradient_does_not_depend_on_how_rollouts_are_cut_into_rows(
    make_model, make_row, make_step, dtype: torch.dtype, tolerance: float, seed: int
) -> None:
    draw = random.Random(seed)
    rows = make_step(5, seed=seed)
    advantages = {row.rollout_id: draw.uniform(-1, 1) for row in rows}
    # Weights of the usual size: with wide ones float32 itself is off by more than the tolerance.
    model = make_model(initializer_range=0.05) if dtype == torch.float32 else double_model()
    learner = Learner(model, micro_batch_tokens=draw.choice([1, 64, 4096]))
    whole = gradient_of(learner, rows, [advantages[row.rollout_id] for row in rows])
    pieces = [piece for row in rows for piece in cut(row, make_row, draw)]
    draw.shuffle(pieces)
    parts = gradient_of(learner, pieces, [advantages[row.rollout_id] for row in pieces])
    assert (parts - whole).norm() <= tolerance * whole.norm()


@pytest.mark.parametrize("seed", range(4))
def test_computing_common_beginnings_once_does_not_change_the_gradient(make_row, seed: int) -> None:
    """Siblings, rows that part inside a trained answer, a row that is the beginning of another, and a row twice."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(3, 259) for _ in range(size)] for size in (20, 35)]
    rows = []
    for number in range(10):
        prompt = prompts[number % 2]
        answer = [7, 8, 9][: draw.randint(0, 3)] + [draw.randrange(3, 259) for _ in range(draw.randint(1, 6))]
        mask = [False] * len(prompt) + [True] * len(answer)
        rows.append(make_row(f"r{number}", prompt + answer, mask, [-5.0 if on else 0.0 for on in mask], draw.choice([1.0, 0.7])))
    first = rows[0]
    rows.append(make_row("start", first.token_ids[:-1], first.mask[:-1], first.logprobs[:-1]) if sum(first.mask) > 1 else rows[1])
    rows.append(make_row("twice", first.token_ids, first.mask, first.logprobs))
    advantages = [draw.uniform(-1, 1) for _ in rows]
    model = double_model()
    apart = gradient_of(Learner(model, share_prefixes=False, kl_coef=0.1), rows, advantages)
    for budget in (64, 200, 8192):
        together = gradient_of(Learner(model, micro_batch_tokens=budget, kl_coef=0.1), rows, advantages)
        assert torch.allclose(together, apart, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "llama"])
def test_common_beginnings_are_right_under_every_kind_of_attention(make_row, kind: str) -> None:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    window = {"sliding_window": 8} if kind != "llama" else {}
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]} if kind == "gemma3_text" else {}
    config = AutoConfig.for_model(
        kind, **sizes, **window, **layers, max_position_embeddings=64, initializer_range=0.3, bos_token_id=None, pad_token_id=0
    )
    for attention in ("sdpa", "eager"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        rows = [
            make_row(f"r{k}", [*range(3, 30), 40 + k, 50, 51 + k], [False] * 27 + [True] * 3, [0.0] * 27 + [-4.0] * 3) for k in range(4)
        ]
        apart = gradient_of(Learner(model, share_prefixes=False), rows, [1.0, -1.0, 0.5, 0.2])
        assert torch.allclose(gradient_of(Learner(model), rows, [1.0, -1.0, 0.5, 0.2]), apart, rtol=0, atol=1e-5 * float(apart.abs().max()))


def test_an_advantage_for_each_token_equals_one_for_the_row_when_they_are_the_same(make_model, make_step) -> None:
    rows, learner = make_step(4), Learner(make_model().to(torch.float64))
    assert torch.equal(gradient_of(learner, rows, [0.5] * 4), gradient_of(learner, rows, [[0.5] * len(row.mask) for row in rows]))


def test_only_the_masked_tokens_of_a_row_are_pushed(make_model, make_row) -> None:
    learner = Learner(make_model(vocab_size=8).to(torch.float64))
    inside = make_row("a", [1, 3, 4, 5, 6], [0, 0, 1, 0, 1], [0, 0, -2.0, 0, -2.0])
    other_tail = make_row("a", [1, 3, 4, 5, 6, 7, 7], [0, 0, 1, 0, 1, 0, 0], [0, 0, -2.0, 0, -2.0, 0, 0])
    assert torch.equal(gradient_of(learner, [inside], [1.0]), gradient_of(learner, [other_tail], [1.0]))


class Enumerable:
    """All 16 answers of two tokens of a one-layer model with four tokens, with their probabilities and score functions."""

    def __init__(self, make_row: Any) -> None:
        self.model = double_model(VOCABULARY, width=8, layers=1)
        self.learner, self.make_row = Learner(self.model), make_row
        self.answers = list(itertools.product(range(VOCABULARY), repeat=2))
        self.rewards = [float(a == 2) + 0.5 * float(b == 3) - 0.25 * float(a == b) for a, b in self.answers]
        ids = torch.tensor([PROMPT + list(answer) for answer in self.answers])
        logp = self.model(input_ids=ids).logits[:, 1:3].log_softmax(-1)  # (16, 2, 4)
        self.logp = logp.gather(2, ids[:, 2:, None])[..., 0]  # (16, 2)
        self.probs = self.logp.sum(1).exp().detach()  # (16,)
        self.scores = torch.stack([self.flat(self.logp[i].sum()) for i in range(16)])  # (16, P)

    def flat(self, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(self.learner.named.values()), retain_graph=True)])

    def row(self, name: str, answer: int) -> Row:
        logp = self.logp[answer].tolist()
        return self.make_row(name, PROMPT + list(self.answers[answer]), [0, 0, 1, 1], [0.0, 0.0, *logp])

    def expected_step(self, estimator: str) -> torch.Tensor:
        """(P,) gradient that the learner computes, averaged over all 256 groups of two, each with its probability."""
        total = torch.zeros_like(self.scores[0])
        for first, second in itertools.product(range(16), repeat=2):
            advantages = ESTIMATORS[estimator]([self.rewards[first], self.rewards[second]])
            rows = [self.row("a", first), self.row("b", second)]
            total += self.probs[first] * self.probs[second] * gradient_of(self.learner, rows, advantages)
        return total


@pytest.fixture(scope="module")
def enumerable(make_row) -> Enumerable:
    return Enumerable(make_row)


@pytest.mark.parametrize(("estimator", "factor"), [("rloo", 1.0), ("dr_grpo", 0.5)])
def test_the_expected_gradient_is_that_of_the_expected_reward(enumerable: Enumerable, estimator: str, factor: float) -> None:
    """RLOO is unbiased; subtracting a mean that includes the rollout itself shrinks it by (G - 1) / G, here a half."""
    rewards = torch.tensor(enumerable.rewards, dtype=torch.float64)
    ascent = ((enumerable.probs * rewards)[:, None] * enumerable.scores).sum(0)
    # Minus: the learner descends. A half: the mean over the two tokens of each answer.
    assert torch.allclose(enumerable.expected_step(estimator), -0.5 * factor * ascent, rtol=0, atol=1e-10)
    assert ascent.norm() > 1e-2


def test_the_expected_grpo_gradient_equals_enumeration(enumerable: Enumerable) -> None:
    total = torch.zeros_like(enumerable.scores[0])
    for pair in itertools.product(range(16), repeat=2):
        gap = enumerable.rewards[pair[0]] - enumerable.rewards[pair[1]]
        size = (gap / 2) / (abs(gap) / 2**0.5 + 1e-6)
        total -= (
            enumerable.probs[pair[0]] * enumerable.probs[pair[1]] * size * (enumerable.scores[pair[0]] - enumerable.scores[pair[1]]) / 4
        )
    assert torch.allclose(enumerable.expected_step("grpo"), total, rtol=0, atol=1e-10)


def test_sampled_gradients_point_where_the_enumerated_one_does(enumerable: Enumerable) -> None:
    """By linearity in the advantages: 100,000 groups of four, drawn at once, against enumeration."""
    torch.manual_seed(0)
    rewards = torch.tensor(enumerable.rewards, dtype=torch.float64)
    drawn = torch.multinomial(enumerable.probs, 400_000, replacement=True).view(-1, 4)  # (groups, 4)
    got = rewards[drawn]
    advantages = (got - got.mean(1, keepdim=True)) * 4 / 3
    per_answer = torch.zeros(16, dtype=torch.float64).index_add_(0, drawn.flatten(), advantages.flatten())
    names = [str(answer) for answer in range(16)]
    sampled = gradient_of(enumerable.learner, [enumerable.row(name, i) for i, name in enumerate(names)], per_answer.tolist())
    exact = -((enumerable.probs * rewards)[:, None] * enumerable.scores).sum(0)
    assert torch.cosine_similarity(sampled, exact, dim=0) > 0.999
