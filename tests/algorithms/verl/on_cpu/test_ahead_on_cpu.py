"""A run of VERL that collects ahead (`colocate_async`), with DAPO's group filter and two rollouts of each validation task.

It is killed while rollouts are under way, after the second of four steps, and resumed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("verl")

STEPS, KILLED_AFTER = 4, 2
pytestmark = pytest.mark.timeout(2700)


@pytest.fixture(scope="module")
def lines(ahead: Any, read_lines: Any) -> list[dict[str, Any]]:
    return read_lines(ahead.folder, "runs/*/metrics.jsonl")


@pytest.fixture(scope="module")
def results(ahead: Any) -> list[Any]:
    """All training rollouts of the run that have ended, whatever became of them."""
    from agl.store.opening import opened

    async def read() -> list[Any]:
        with opened(ahead.folder / "store.sqlite") as store:
            [run] = await store.runs()
            return await store.results(await store.find(run.run_id, mode="train"))

    return asyncio.run(read())


@pytest.fixture(scope="module")
def learned(ahead: Any, results: list[Any], read_lines: Any) -> list[dict[str, list[int]]]:
    """Of each step, the rollouts that entered its loss, with the versions of the weights that sampled their calls there."""
    from agl.transitions import transitions_of

    versions = {call.span_id: call.version for result in results for call in transitions_of(result.spans)}
    found = []
    for step in range(1, STEPS + 1):
        rollouts: dict[str, list[int]] = {}
        for row in read_lines(ahead.folder, f"runs/*/learned/step-{step:06d}.jsonl"):
            rollouts.setdefault(row["rollout_id"], []).extend(int(versions[call["span_id"]]) for call in row["calls"])
        found.append(rollouts)
    return found


def test_a_killed_run_leaves_no_process_and_goes_on_after_its_last_checkpoint(ahead: Any) -> None:
    assert ahead.left == []
    assert f"goes on after step {KILLED_AFTER}" in ahead.second
    assert f"setting global step to {KILLED_AFTER}" in ahead.second


def test_each_step_is_trained_once_and_no_rollout_twice(
    ahead: Any, lines: list[dict[str, Any]], learned: list[dict[str, list[int]]], read_lines: Any
) -> None:
    told = [line["step"] for line in read_lines(ahead.folder, "tracked.jsonl") if line["event"] == "step_ended"]
    assert told == [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    assert [len(rollouts) for rollouts in learned] == [8 * 4] * STEPS
    assert len(set().union(*learned)) == STEPS * 8 * 4


def test_rollouts_under_way_at_the_kill_are_cancelled_and_none_of_before_enters_a_later_loss(
    ahead: Any, results: list[Any], learned: list[dict[str, list[int]]], read_lines: Any
) -> None:
    """What VERL knew of them has ended with its process: others take their place."""
    _, resumed = (line["at"] for line in read_lines(ahead.folder, "tracked.jsonl") if line["event"] == "run_started")
    before = [result.rollout for result in results if result.rollout.created_at < resumed]
    assert [rollout for rollout in before if rollout.status == "cancelled" and rollout.attempt is not None]
    assert {rollout.rollout_id for rollout in before}.isdisjoint(set().union(*learned[KILLED_AFTER:]))


def test_no_call_older_than_the_bound_enters_a_loss_and_some_are_older_than_their_step(
    lines: list[dict[str, Any]], learned: list[dict[str, list[int]]]
) -> None:
    lags = [[step - version for versions in rollouts.values() for version in versions] for step, rollouts in enumerate(learned)]
    assert {*lags[0]} == {0}
    assert {lag for of_step in lags for lag in of_step} == {0, 1}
    assert [line["staleness_max"] for line in lines] == [max(of_step) for of_step in lags]


def test_every_group_of_a_step_has_spread_and_those_without_are_replaced_and_counted(lines: list[dict[str, Any]]) -> None:
    assert [(line["groups"], line["groups_used"]) for line in lines] == [(8, 8)] * STEPS
    assert [line["groups_left_out"] for line in lines] == [line["training/filter_groups/evicted_samples"] for line in lines]
    assert sum(line["groups_left_out"] for line in lines) > 0


def test_older_weights_are_corrected_for(lines: list[dict[str, Any]]) -> None:
    assert lines[0]["training/rollout_probs_diff_max"] < 1e-5
    assert lines[0]["rollout_corr/rollout_is_max"] == pytest.approx(1.0, abs=1e-3)
    later = max((line for line in lines if line["staleness_max"] == 1), key=lambda line: line["training/rollout_probs_diff_max"])
    assert later["training/rollout_probs_diff_max"] > 1e-4
    assert max(later["rollout_corr/rollout_is_max"] - 1, 1 - later["rollout_corr/rollout_is_min"]) > 1e-3


def test_no_call_is_on_its_way_while_weights_change(ahead: Any, results: list[Any], read_lines: Any) -> None:
    """So the moment at which a call ended says which weights sampled it: here the server tells, and says the same."""
    from agl.transitions import transitions_of

    published = [line["at"] for line in read_lines(ahead.folder, "tracked.jsonl") if line["event"] == "step_ended"]
    versions: Counter[str] = Counter()
    for result in results:
        ended = {span.span_id: span.ended_at for span in result.spans}
        for call in transitions_of(result.spans):
            if call.version is not None:
                assert call.version == str(sum(at <= ended[call.span_id] for at in published))
                versions[call.version] += 1
    assert {"0", "1", "2"} <= {*versions}


def test_rollouts_that_no_step_waited_for_are_cancelled(results: list[Any]) -> None:
    statuses = Counter(str(result.rollout.status) for result in results)
    assert statuses["succeeded"] >= STEPS * 8 * 4
    assert {*statuses} <= {"succeeded", "cancelled"}


def test_a_validation_runs_each_task_as_often_as_it_says_and_verl_tells_of_both(ahead: Any, read_lines: Any) -> None:
    found = read_lines(ahead.folder, "runs/*/evaluations.jsonl")
    assert [(one["step"], one["n"]) for one in found] == [(0, 8), (KILLED_AFTER, 8)]  # before the first step of each process
    assert "val-core/agl/reward/mean@2" in ahead.first


def test_verls_loggers_and_agls_trackers_are_told_of_every_step(ahead: Any, lines: list[dict[str, Any]], read_lines: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(ahead.folder / "tensorboard"))
    board.Reload()
    losses = [(event.step, event.value) for event in board.Scalars("actor/pg_loss")]
    assert losses == [(line["step"], pytest.approx(line["actor/pg_loss"], rel=1e-4)) for line in lines]
    told = [line for line in read_lines(ahead.folder, "tracked.jsonl") if line["event"] == "step_ended"]
    assert [(line["step"], line["reward"], line["actor/pg_loss"]) for line in told] == [
        (line["step"], line["reward"], line["actor/pg_loss"]) for line in lines
    ]
