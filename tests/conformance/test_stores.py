"""The stores keep their contract, and the kit finds those that do not, by name."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from agl.rollouts import AttemptStatus
from agl.store.sqlite import SQLiteStore
from agl.testing.expected import checks_of, failing
from agl.testing.memory import MemoryStore
from agl.testing.stores import StoreConformance


class TestSQLiteStore(StoreConformance):
    def make_store(self, folder: Path):
        return SQLiteStore(folder / "store.sqlite")


class Memory(StoreConformance):
    durable = False

    def make_store(self, folder):
        return MemoryStore(folder)


class TestMemoryStore(Memory):
    pass


class DoubleClaims(MemoryStore):
    """Reads the queue, and takes from it only later."""

    async def claim(self, run_id, worker_id, limit=1):
        taken = self._queue.get(run_id, [])[:limit]
        await asyncio.sleep(0.001)
        self._queue[run_id] = [queued for queued in self._queue.get(run_id, []) if queued not in taken]
        return [self._begin(rollout_id, worker_id) for _, rollout_id in taken]


class LosesNames(MemoryStore):
    """A version holds what was published, and nothing else."""

    async def publish(self, run_id, values, *, version=None):
        made = await super().publish(run_id, values, version=version)
        lost = msgspec.structs.replace(made, values=dict(values))
        self._resources[run_id][-1] = lost
        return lost


class OneJournal(MemoryStore):
    """Keeps the events of all runs together, the newest first."""

    async def add_events(self, run_id, events):
        await self.run(run_id)
        self._journals["all"] = [*map(msgspec.json.encode, events), *self._journals.get("all", ())]

    async def journal(self, run_id):
        return await super().journal("all")


class Reopens(MemoryStore):
    """Takes the report of an attempt that has ended."""

    def _runs_still(self, attempt_id):
        return attempt_id in self._attempts


class SleepsOn(MemoryStore):
    """Tells nobody that rollouts have ended: a wait ends with its time."""

    def _tell(self, rollout_ids):
        pass


class RepeatsSpans(MemoryStore):
    """Keeps what it is given, however often."""

    async def add_spans(self, spans):
        for span in spans:
            self._spans[span.attempt_id][f"{len(self._spans[span.attempt_id])}"] = span


class TakesNothingLate(MemoryStore):
    """Drops what comes after the end."""

    async def add_rewards(self, attempt_id, rewards):
        if self._attempts[attempt_id].status == AttemptStatus.RUNNING:
            await super().add_rewards(attempt_id, rewards)


class ForgetsItsPlace(MemoryStore):
    """Gives results in the order of their ids."""

    async def results(self, rollout_ids):
        return await super().results(sorted(rollout_ids))


class TriesAsItLikes(MemoryStore):
    """Does not listen to what is to be tried again."""

    async def finish(self, attempt_id, status, *, retry=None, **values):
        return await super().finish(attempt_id, status, **values)


class TriesForEver(MemoryStore):
    """Queues a rollout again whatever the number of its attempts."""

    async def enqueue(self, rollouts):
        await super().enqueue([msgspec.structs.replace(rollout, max_attempts=99) for rollout in rollouts])


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (DoubleClaims, "test_claims_are_atomic_among_threads_and_tasks"),
        (LosesNames, "test_resources_are_versions_with_all_names_kept"),
        (OneJournal, "test_a_journal_keeps_all_events_in_order"),
        (Reopens, "test_a_final_state_stays_final"),
        (Reopens, "test_one_of_many_reports_of_an_attempt_counts"),
        (SleepsOn, "test_a_wait_ends_with_the_last_rollout"),
        (RepeatsSpans, "test_spans_are_kept_once"),
        (TakesNothingLate, "test_late_rewards_are_kept"),
        (ForgetsItsPlace, "test_results_are_complete_and_in_the_order_asked_for"),
        (TriesAsItLikes, "test_what_is_tried_again_can_be_said"),
        (TriesForEver, "test_an_infrastructure_failure_is_tried_again_while_attempts_are_left"),
    ],
)
def test_a_broken_store_is_caught_by_name(broken, check):
    kit = type("Broken", (Memory,), {"make_store": lambda self, folder: broken(folder)})
    found = failing(kit, only=(check,))
    assert list(found) == [check]
    assert found[check].startswith("ConformanceError: ")


def test_a_store_that_says_it_is_durable_and_is_not_is_caught():
    kit = type("Broken", (Memory,), {"durable": True})
    assert list(failing(kit, only=("test_what_was_acknowledged_is_kept",))) == ["test_what_was_acknowledged_is_kept"]


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(StoreConformance):
        assert getattr(StoreConformance, name).__doc__.startswith("If this fails, ")
