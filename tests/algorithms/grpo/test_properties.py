"""However calls were interleaved, cut into rows or merged: the same weight and advantage for every sampled token, and the same gradient.

`make test-properties` tries 1,000 random call trees instead of a few.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from agl.credit import lightning
from agl.results import Group, RolloutResult
from agl.rewards import Reward
from agl.roles import Roles
from agl.rollouts import Attempt, AttemptStatus, Rollout
from agl.spans import Choice, LLMCall, Span, SpanKind
from agl.tasks import Task
from agl.transitions import Row, rows_of, transitions_of
from agl_grpo.collect import learning_rows
from agl_grpo.learner import Learner
from agl_grpo.losses import AGGREGATIONS
from agl_grpo.packing import Example

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "25"))
VOCABULARY = 40
TASK = Task(task_id="t", data={})
ROLES = Roles(roles={"frozen": "freeze"})


class Call:
    """A call of a random tree: the answer of another that it goes on from, what is added, and its own answers."""

    def __init__(self, draw: random.Random, name: str, earlier: Sequence[Call]) -> None:
        self.name, self.above = name, draw.choice([None, *earlier]) if earlier else None
        path = self.above.prompt + draw.choice(self.above.answers) if self.above else []
        self.prompt = path + _ids(draw, 0 if self.above else 1, 4)
        self.answers = [_ids(draw, 1, 4) for _ in range(draw.choice([1, 1, 1, 2]))]
        self.logprobs = [[draw.uniform(-5, -2) for _ in answer] for answer in self.answers]
        self.role = draw.choice(["writer", "writer", "critic", "frozen"])
        self.temperature = draw.choice([1.0, 1.0, 0.7])
        self.reward = draw.choice([None, None, 0.3])

    def span(self, at: int, rollout: str, call_id: str | None = None, copy: str = "") -> Span:
        choices = [Choice(response_ids=ids, logprobs=given) for ids, given in zip(self.answers, self.logprobs, strict=True)]
        request = {"temperature": self.temperature}
        call = LLMCall(request=request, response={}, choices=choices, prompt_ids=self.prompt, version="1")
        return Span(
            span_id=self.name + copy, trace_id="0", rollout_id=rollout, attempt_id=rollout, name="chat", kind=SpanKind.LLM, role=self.role,
            started_at=float(at), ended_at=at + 0.5, attributes={"agl.call": msgspec.to_builtins(call), "agl.call_id": call_id},
        )  # fmt: skip


def _ids(draw: random.Random, least: int, most: int) -> list[int]:
    return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(least, most))]


def trees(draw: random.Random) -> list[list[Call]]:
    """The calls of each rollout of a group."""
    found: list[list[Call]] = []
    for rollout in range(draw.randint(2, 4)):
        calls: list[Call] = []
        for number in range(draw.randint(1, 7)):
            calls.append(Call(draw, f"r{rollout}c{number}", calls))
        found.append(calls)
    return found


def shuffled(draw: random.Random, calls: Sequence[Call]) -> list[Call]:
    """The calls in another order in which each still comes after the one that it goes on from."""
    left, order = list(calls), list[Call]()
    while left:
        order.append(draw.choice([call for call in left if call.above is None or call.above in order]))
        left.remove(order[-1])
    return order


def group_of(found: Sequence[Sequence[Call]], draw: random.Random | None = None) -> Group:
    """What an algorithm is given; with `draw` every call may have been sent before, in a try that the client gave up."""
    results = []
    for number, calls in enumerate(found):
        name, spans = f"r{number}", list[Span]()
        for call in calls:
            retried = draw is not None and draw.random() < 0.3
            spans += [call.span(len(spans), name, "f" * 15 + call.name[-1], "again")] if retried else []
            spans.append(call.span(len(spans), name, "f" * 15 + call.name[-1] if retried else None))
        own = tuple(Reward(value=call.reward, name="part", span_id=call.name) for call in calls if call.reward is not None)
        attempt = Attempt(attempt_id=name, rollout_id=name, number=1, worker_id="w", status=AttemptStatus.SUCCEEDED)
        rollout = Rollout(rollout_id=name, run_id="run", task=TASK, group_id="g", sample=number, attempt=attempt)
        final = Reward(value=float(number % 2), created_at=1.0)
        result = RolloutResult(rollout=rollout, spans=tuple(spans), rewards=(*sorted(own, key=lambda reward: reward.span_id or ""), final))
        results.append(msgspec.structs.replace(result, transitions=tuple(lightning(result, transitions_of(spans, ROLES.why_not)))))
    return Group(task=TASK, results=tuple(results))


def cut(group: Group, draw: random.Random, advantages: dict[Any, float]) -> tuple[list[Row], list[list[float]]]:
    """Rows of the same calls in random portions, each portion by itself."""
    rows: list[Row] = []
    for result in group.results:
        portions: dict[int, list[Any]] = {}
        for item in result.transitions:
            portions.setdefault(draw.randrange(3), []).append(item)
        rows += [row for portion in portions.values() for row in rows_of(portion)]
    draw.shuffle(rows)
    given = [[advantages[_key(row, at)] if on else 0.0 for at, on in enumerate(row.mask)] for row in rows]
    return rows, given


def _key(row: Row, at: int) -> tuple[str, int, int]:
    item = row.transitions[row.owners[at]]
    return item.span_id, item.choice, at


def per_token(rows: Sequence[Row], values: Sequence[Any]) -> dict[Any, float]:
    """A value of each trained token, by call and place; each is there once."""
    found: dict[Any, float] = {}
    for row, value in zip(rows, values, strict=True):
        for at, on in enumerate(row.mask):
            if on:
                assert _key(row, at) not in found, "a token is trained twice"
                found[_key(row, at)] = value if isinstance(value, float) else value[at]
    return found


@pytest.fixture(scope="module")
def policy() -> Any:
    """In float64 throughout, so that only true differences show."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 2, "initializer_range": 0.3, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=128, **ids)).double().eval()


def gradient(policy: Any, rows: Sequence[Row], advantages: Sequence[Any], aggregation: str) -> torch.Tensor:
    learner = Learner(policy)
    learner.optimizer.zero_grad(set_to_none=True)
    learner.gradient([Example(*item) for item in zip(rows, advantages, AGGREGATIONS[aggregation](rows), strict=True)])
    return torch.cat([p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten().clone() for p in learner.named.values()])


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32), aggregation=st.sampled_from(sorted(AGGREGATIONS)))
def test_interleaving_cutting_and_merging_change_no_tokens_weight_and_no_gradient(policy: Any, seed: int, aggregation: str) -> None:
    draw = random.Random(seed)
    found = trees(draw)
    if all(call.role == "frozen" for calls in found for call in calls):
        return
    rows, advantages = learning_rows([group_of(found)], "grpo")
    weights = per_token(rows, AGGREGATIONS[aggregation](rows))
    shares = per_token(rows, advantages)
    wanted = gradient(policy, rows, advantages, aggregation)
    trained = {(item.name, n) for calls in found for item in calls if item.role != "frozen" for n in range(len(item.answers))}
    assert {key[:2] for key in weights} == trained
    assert sum(weights.values()) == pytest.approx(1.0) or aggregation == "constant"

    other = group_of([shuffled(draw, calls) for calls in found], draw)
    interleaved = learning_rows([other], "grpo")
    for again_rows, again in (interleaved, cut(other, draw, shares)):
        assert per_token(again_rows, AGGREGATIONS[aggregation](again_rows)) == pytest.approx(weights, rel=1e-12)
        assert per_token(again_rows, again) == pytest.approx(shares, rel=1e-12, abs=1e-12)
        assert torch.allclose(
            gradient(policy, again_rows, again, aggregation), wanted, rtol=0, atol=1e-6 * max(1.0, float(wanted.abs().max()))
        )
