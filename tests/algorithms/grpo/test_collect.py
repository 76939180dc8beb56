"""What one step learns from: advantages per rollout and role, the control's shuffle, and the reasons for what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from agl.calltree import Mismatch
from agl.errors import DataError
from agl.resources import LLM, Resources
from agl.results import Group, RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout
from agl.spans import Span, SpanKind
from agl.tasks import Task
from agl.transitions import NO_LOGPROBS, Transition
from agl.untrained import lacking, why_untrained
from agl_grpo.collect import group_metrics, learning_rows, shuffled

TASK = Task(task_id="t", data={})


def transition(number: int, *, role: str = "writer", reward: float | None = None, untrained: str | None = None) -> Transition:
    return Transition(
        span_id=f"s{number}",
        rollout_id="r",
        attempt_id="a",
        role=role,
        prompt_ids=(1, number),
        response_ids=(7, 8),
        logprobs=(-0.5, -0.5),
        version="0",
        reward=reward,
        untrained=untrained,
    )


def result(number: int, reward: float | None, calls: Sequence[Transition], failure: Failure | None = None) -> RolloutResult:
    name = f"r{number}"
    status = AttemptStatus.SUCCEEDED if failure is None else AttemptStatus.FAILED
    attempt = Attempt(attempt_id=f"a{number}", rollout_id=name, number=1, worker_id="w", status=status, failure=failure)
    rollout = Rollout(rollout_id=name, run_id="run", task=TASK, group_id="g", sample=number, attempt=attempt)
    rewards = () if reward is None else (Reward(value=reward, source="returned"),)
    return RolloutResult(rollout=rollout, rewards=rewards, transitions=tuple(calls))


def group(*results: RolloutResult) -> Group:
    return Group(task=TASK, results=results)


def test_a_rollout_counts_once_in_its_group_however_many_calls_it_made():
    one = result(0, 1.0, [transition(n, reward=1.0) for n in range(3)])
    two = result(1, 0.0, [transition(9, reward=0.0)])
    rows, advantages = learning_rows([group(one, two)], "dr_grpo")
    assert len(rows) == 4
    assert [list(values) for values in advantages] == [[0.0, 0.0, 0.5, 0.5]] * 3 + [[0.0, 0.0, -0.5, -0.5]]


def test_a_role_that_only_some_siblings_have_is_compared_with_all_of_them():
    once = result(0, 1.0, [transition(0, reward=1.0)])
    again = result(1, 0.0, [transition(1, reward=0.0), transition(2, role="rewriter", reward=0.0)])
    _, advantages = learning_rows([group(once, again)], "dr_grpo")
    assert [values[-1] for values in advantages] == [0.5, -0.5, -0.5]


def test_what_a_call_got_beyond_its_rollout_is_added_to_its_own_advantage():
    one = result(0, 1.0, [transition(0, reward=1.0), transition(1, reward=1.4)])
    two = result(1, 0.0, [transition(2, reward=0.0)])
    _, advantages = learning_rows([group(one, two)], "dr_grpo")
    assert [values[-1] for values in advantages] == pytest.approx([0.6 - 0.2, 0.6 + 0.2, -0.6])


def test_an_excluded_rollout_is_in_no_baseline_and_has_no_row():
    lost = result(2, None, [transition(3)], Failure.INFRASTRUCTURE)
    rows, advantages = learning_rows(
        [group(result(0, 1.0, [transition(0, reward=1.0)]), result(1, 0.0, [transition(1, reward=0.0)]), lost)], "dr_grpo"
    )
    assert [row.rollout_id for row in rows] == ["r", "r"]
    assert [values[-1] for values in advantages] == [0.5, -0.5]


def test_a_constant_group_teaches_nothing():
    _, advantages = learning_rows([group(*(result(n, 0.3, [transition(n, reward=0.3)]) for n in range(5)))], "grpo")
    assert all(value == 0.0 for values in advantages for value in values)


def test_a_step_without_a_trainable_call_is_an_error_that_says_why():
    calls = [transition(0, reward=1.0, untrained="the endpoint gave no token ids")]
    with pytest.raises(DataError, match=r"no call of 1 rollouts can be trained: 1 calls: the endpoint gave no token ids"):
        learning_rows([group(result(0, 1.0, calls))], "grpo")
    assert "made no LLM call" in why_untrained([group(result(0, 1.0, []))])


def test_the_control_keeps_all_rewards_and_gives_them_to_other_rollouts():
    groups = [group(*(result(4 * g + n, float(n % 2), [transition(n, reward=float(n % 2))]) for n in range(4))) for g in range(8)]
    mixed = shuffled(groups, "0:0")
    before = [reward for item in groups for reward in item.rewards]
    after = [reward for item in mixed for reward in item.rewards]
    assert sorted(map(float, before)) == sorted(map(float, after))
    assert before != after
    assert all(call.reward == item.reward for one in mixed for item in one.results for call in item.transitions)
    assert shuffled(groups, "0:0") == mixed


def test_metrics_count_what_was_used_left_out_and_failed():
    failed = result(2, 0.0, [transition(3, reward=0.0)], Failure.AGENT)
    lost = result(3, None, [], Failure.INFRASTRUCTURE)
    metrics = group_metrics([group(result(0, 1.0, [transition(0, untrained="frozen")]), failed, lost)])
    assert metrics["reward"] == 0.5
    assert metrics["groups_used"] == metrics["groups"] == 1
    assert metrics["excluded"] == 1
    assert metrics["failures"] == {"agent": 1, "infrastructure": 1}
    assert (metrics["calls"], metrics["calls_trained"], metrics["sampled_tokens"]) == (2, 1, 4)


def test_each_task_is_compared_within_itself_however_many_rows_its_rollouts_have():
    rows_of_a = [result(0, 1.0, [transition(n, reward=1.0) for n in range(3)]), result(1, 0.0, [transition(3, reward=0.0)])]
    rows_of_b = [result(n, 0.0, [transition(2 * n + m, reward=0.0) for m in range(2)]) for n in range(2, 4)]
    rows, advantages = learning_rows([group(*rows_of_a), group(*rows_of_b)], "dr_grpo")
    assert [values[-1] for values in advantages] == [0.5, 0.5, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    assert len(rows) == 8  # none is dropped to make a round number


def test_a_role_may_be_compared_only_with_those_siblings_in_which_it_called():
    ends_well = result(0, 1.0, [transition(0, reward=1.0), transition(1, role="rewriter", reward=1.0)])
    ends_badly = result(1, 0.0, [transition(2, reward=0.0), transition(3, role="rewriter", reward=0.0)])
    needs_none = result(2, 1.0, [transition(4, reward=1.0)])
    found = {}
    for baseline in ("group", "role"):
        rows, advantages = learning_rows([group(ends_well, ends_badly, needs_none)], "dr_grpo", baseline)
        shares = [values[-1] for values in advantages]
        found[baseline] = [share for row, share in zip(rows, shares, strict=True) if row.transitions[0].role == "rewriter"]
    assert found["group"] == pytest.approx([1 / 3, -2 / 3])
    assert found["role"] == pytest.approx([0.5, -0.5])


def test_a_step_advantage_is_added_to_that_of_its_rollout_and_the_control_has_none():
    calls = [transition(0, reward=1.0), msgspec.structs.replace(transition(1, reward=1.0), step_advantage=0.25)]
    groups = [group(result(0, 1.0, calls), result(1, 0.0, [transition(2, reward=0.0)]))]
    _, advantages = learning_rows(groups, "dr_grpo")
    assert [values[-1] for values in advantages] == [0.5, 0.75, -0.5]
    assert {call.step_advantage for one in shuffled(groups, "0") for item in one.results for call in item.transitions} == {0.0}


def test_metrics_count_retries_cut_answers_and_why_prompts_do_not_go_on():
    cut = msgspec.structs.replace(transition(0, reward=1.0), finish_reason="length", mismatch=Mismatch.NEW)
    lost = msgspec.structs.replace(transition(1, reward=1.0, untrained="the call failed"), mismatch=Mismatch.REWRITTEN)
    one = result(0, 1.0, [cut, lost])
    again = msgspec.structs.replace(one.rollout.attempt, number=3)
    one = msgspec.structs.replace(one, rollout=msgspec.structs.replace(one.rollout, attempt=again))
    metrics = group_metrics([group(one)])
    assert (metrics["retries"], metrics["truncated"]) == (2, 1)
    assert (metrics["untrained"], metrics["mismatches"]) == ({"the call failed": 1}, {"new": 1, "rewritten": 1})


def test_an_endpoint_that_gives_no_logprobs_is_named_with_what_to_do():
    span = Span(
        span_id="s0", trace_id="0", rollout_id="r0", attempt_id="a0", name="chat", kind=SpanKind.LLM, started_at=0.0, ended_at=1.0,
        attributes={"gen_ai.request.model": "policy"},
    )  # fmt: skip
    one = msgspec.structs.replace(result(0, 1.0, [transition(0, reward=1.0, untrained=NO_LOGPROBS)]), spans=(span,))
    resources = Resources(version=0, values={"main_llm": LLM(endpoint="http://there/v1", model="policy", version="0")})
    says = r"1 calls: the endpoint gave no logprob for each token\. http://there/v1 \(model `policy`\): Its server must answer .*vLLM from 0\.10\.2"
    with pytest.raises(DataError, match=says):
        learning_rows([group(one)], "grpo", resources=resources)
    (told,) = lacking([group(one)], resources)
    assert str(told).startswith(f"1 calls (roles writer) teach nothing, since {NO_LOGPROBS}: http://there/v1 (model `policy`). Its server")
