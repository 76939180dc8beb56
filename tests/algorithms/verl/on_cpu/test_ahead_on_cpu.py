"""A run of VERL that collects ahead (`colocate_async`), with DAPO's group filter and two rollouts of each validation task."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

pytestmark = pytest.mark.timeout(2700)


@pytest.fixture(scope="module")
def lines(ahead: Path, read_lines: Any) -> list[dict[str, Any]]:
    return read_lines(ahead, "runs/*/metrics.jsonl")


@pytest.fixture(scope="module")
def results(ahead: Path) -> list[Any]:
    """All training rollouts of the run that have ended, whatever became of them."""
    from agl.store.opening import opened

    async def read() -> list[Any]:
        with opened(ahead / "store.sqlite") as store:
            [run] = await store.runs()
            return await store.results(await store.find(run.run_id, mode="train"))

    return asyncio.run(read())


def test_no_row_is_older_than_the_bound_and_some_are_older_than_the_step(lines: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["staleness_max"] == 0
    assert max(line["staleness_max"] for line in lines) == 1


def test_every_group_of_a_step_has_spread_and_those_without_are_replaced_and_counted(lines: list[dict[str, Any]]) -> None:
    assert [(line["groups"], line["groups_used"]) for line in lines] == [(8, 8)] * 3
    assert [line["groups_left_out"] for line in lines] == [line["training/filter_groups/evicted_samples"] for line in lines]
    assert sum(line["groups_left_out"] for line in lines) > 0


def test_older_weights_are_corrected_for(lines: list[dict[str, Any]]) -> None:
    assert lines[0]["training/rollout_probs_diff_max"] < 1e-5
    assert lines[0]["rollout_corr/rollout_is_max"] == pytest.approx(1.0, abs=1e-3)
    later = max(lines[1:], key=lambda line: line["staleness_max"])
    assert later["training/rollout_probs_diff_max"] > 1e-4
    assert later["rollout_corr/rollout_is_max"] > 1.001


def test_no_call_is_on_its_way_while_weights_change(ahead: Path, results: list[Any], read_lines: Any) -> None:
    """So the moment at which a call ended says which weights sampled it: here the server tells, and says the same."""
    from agl.transitions import transitions_of

    published = [line["at"] for line in read_lines(ahead, "tracked.jsonl") if line["event"] == "step_ended"]
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
    assert statuses["succeeded"] >= 3 * 8 * 4
    assert {*statuses} <= {"succeeded", "cancelled"}


def test_a_validation_runs_each_task_as_often_as_it_says_and_verl_tells_of_both(ahead: Path, read_lines: Any) -> None:
    [before] = read_lines(ahead, "runs/*/evaluations.jsonl")
    assert (before["step"], before["n"]) == (0, 8)
    assert "val-core/agl/reward/mean@2" in (ahead / "said.log").read_text()


def test_verls_loggers_and_agls_trackers_are_told_of_every_step(ahead: Path, lines: list[dict[str, Any]], read_lines: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(ahead / "tensorboard"))
    board.Reload()
    losses = [(event.step, event.value) for event in board.Scalars("actor/pg_loss")]
    assert losses == [(line["step"], pytest.approx(line["actor/pg_loss"], rel=1e-4)) for line in lines]
    told = [line for line in read_lines(ahead, "tracked.jsonl") if line["event"] == "step_ended"]
    assert [(line["step"], line["reward"], line["actor/pg_loss"]) for line in told] == [
        (line["step"], line["reward"], line["actor/pg_loss"]) for line in lines
    ]
