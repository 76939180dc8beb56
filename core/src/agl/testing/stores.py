"""StoreConformance: what every store promises, as checks.

    class TestMyStore(StoreConformance):
        def make_store(self, folder: Path) -> Store:
            return MyStore(folder / "data")

`agl.testing.expected.check(TestMyStore)` runs it without pytest.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import NotFoundError, StoreError
from agl.resources import LLM, PromptTemplate
from agl.rewards import Reward
from agl.rollouts import AttemptStatus, Failure, Rollout, RolloutStatus
from agl.spans import Span
from agl.store.base import Counts, Store
from agl.tasks import Mode
from agl.testing.expected import Conformance, not_applicable, require
from agl.testing.running import RUN, error_of, make_record, make_rollout, make_span, run_check, until

Check = Callable[[Any, Store], Coroutine[Any, Any, None]]


def on_store(check: Check) -> Callable[[Any], None]:
    """A check on a fresh store with one run in it, which is closed afterwards."""

    @functools.wraps(check)
    def run(self: StoreConformance) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = self.make_store(Path(folder))
            try:
                run_check(_with_run(check, self, store))
            finally:
                store.close()

    del run.__wrapped__  # pytest would take the store for a fixture
    return run


async def _with_run(check: Check, kit: StoreConformance, store: Store) -> None:
    await store.create_run(make_record())
    await store.publish(RUN, {"prompt": PromptTemplate(template="first")})
    await check(kit, store)


class StoreConformance(Conformance):
    """Checks of a driver of `agl.stores`."""

    durable = True
    """Whether a store that is made again in the same folder holds what was acknowledged."""

    def make_store(self, folder: Path) -> Store:
        """A store that keeps its files, if it has any, in `folder`; empty when the folder is."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_store(self, folder)`")

    # Runs and resources.

    @on_store
    async def test_runs_are_kept_oldest_first_and_updated(self, store: Store) -> None:
        """If this fails, `agl runs` and `agl train --resume` show or take up the wrong run."""
        await store.create_run(make_record("run-b", created_at=time.time() + 5, config={"lr": 0.1}, seed=7))
        await store.update_run("run-b", status="stopped", step=3)
        found = await store.run("run-b")
        require((found.status, found.step, found.seed, found.config) == ("stopped", 3, 7, {"lr": 0.1}), f"the run came back as {found}")
        require([record.run_id for record in await store.runs()] == [RUN, "run-b"], "the runs are not in the order they were created")
        require((await store.run(RUN)).status == "running", "an update of one run changed another")

    @on_store
    async def test_what_does_not_exist_is_a_not_found_error(self, store: Store) -> None:
        """If this fails, a mistyped id gives nothing, or an error that names neither it nor the store."""
        asked = {
            "run": store.run("run-none"),
            "resources": store.resources(RUN, 99),
            "results": store.results(["ro-none"]),
            "add_events": store.add_events("run-none", [{}]),
            "add_spans": store.add_spans([make_span("ro-none", "at-none")]),
            "add_rewards": store.add_rewards("at-none", [Reward(value=1.0)]),
        }
        for name, call in asked.items():
            error = await error_of(call)
            require(isinstance(error, NotFoundError), f"`{name}` with an unknown id gave {error!r} rather than a NotFoundError")

    @on_store
    async def test_a_second_run_of_one_id_is_refused(self, store: Store) -> None:
        """If this fails, two runs write into one record."""
        error = await error_of(store.create_run(make_record(config={"other": True})))
        require(isinstance(error, StoreError), f"a second run `{RUN}` gave {error!r} rather than a StoreError")
        require((await store.run(RUN)).config == {}, "the first run was overwritten")

    @on_store
    async def test_resources_are_versions_with_all_names_kept(self, store: Store) -> None:
        """If this fails, publishing one resource takes the others away from the agents, or changes a version that is in use."""
        llm = LLM(endpoint="http://127.0.0.1:1/v1", model="m", version="1", sampling_parameters={"temperature": 0.5})
        made = await store.publish(RUN, {"llm": llm})
        await store.publish(RUN, {"prompt": PromptTemplate(template="second")})
        newest, first = await store.resources(RUN), await store.resources(RUN, 0)
        require([made.version, newest.version] == [1, 2], f"the versions are {[0, made.version, newest.version]}, not 0, 1, 2")
        require(
            dict(newest.values) == {"prompt": PromptTemplate(template="second"), "llm": llm}, f"the newest version holds {newest.values}"
        )
        require(dict(first.values) == {"prompt": PromptTemplate(template="first")}, f"version 0 has changed to {first.values}")
        require(dict((await store.resources(RUN, 1)).values)["prompt"] == PromptTemplate(template="first"), "version 1 has changed")

    @on_store
    async def test_versions_that_are_published_at_the_same_time_are_all_kept(self, store: Store) -> None:
        """If this fails, one of two writers' resources is lost, or two versions have one number."""
        made = await asyncio.gather(*(store.publish(RUN, {f"p{n}": PromptTemplate(template=str(n))}) for n in range(20)))
        require(sorted(one.version for one in made) == list(range(1, 21)), f"the versions are {sorted(one.version for one in made)}")
        require(set((await store.resources(RUN)).keys()) == {"prompt", *(f"p{n}" for n in range(20))}, "the newest version lacks names")

    @on_store
    async def test_a_version_that_exists_is_not_published_again(self, store: Store) -> None:
        """If this fails, a version that rollouts were made with can change afterwards."""
        error = await error_of(store.publish(RUN, {"prompt": PromptTemplate(template="other")}, version=0))
        require(isinstance(error, StoreError), f"publishing version 0 again gave {error!r} rather than a StoreError")
        require((await store.resources(RUN, 0))["prompt"] == PromptTemplate(template="first"), "version 0 has changed")

    @on_store
    async def test_a_journal_keeps_all_events_in_order(self, store: Store) -> None:
        """If this fails, a search that was killed goes another way when it goes on, or pays for its rollouts again."""
        await store.create_run(make_record("run-b"))
        events: list[dict[str, Any]] = [{"n": n, "deep": {"text": "ä\n", "none": None, "list": [0.1, True]}} for n in range(30)]
        await store.add_events(RUN, events[:10])
        await store.add_events("run-b", [{"other": 1}])
        await store.add_events(RUN, [])
        for event in events[10:]:
            await store.add_events(RUN, [event])
        found = await store.journal(RUN)
        require(found == events, f"{len(found)} events came back for {len(events)}, and not as they were added")
        require(await store.journal("run-b") == [{"other": 1}], "the journal of one run holds another's events")
        require(await store.journal("run-none") == [], "the journal of no run is not empty")

    # Claiming.

    @on_store
    async def test_claims_are_first_in_first_out_and_of_one_run(self, store: Store) -> None:
        """If this fails, old rollouts starve, or a worker runs those of another run."""
        await store.create_run(make_record("run-b"))
        asked = [make_rollout({"input": n}, group_id=f"g{n}", sample=n, step=3, seed=n, timeout=1.5, max_attempts=2) for n in range(6)]
        await store.enqueue([make_rollout(run_id="run-b")])
        await store.enqueue(asked[:4])
        await store.enqueue(asked[4:])
        claimed = [*await store.claim(RUN, "w", 4), *await store.claim(RUN, "w", 4)]
        require([one.rollout_id for one in claimed] == [one.rollout_id for one in asked], "the oldest were not claimed first")
        back = [msgspec.structs.replace(one, status=RolloutStatus.QUEUED, attempt=None) for one in claimed]
        require(back == asked, f"a claimed rollout differs from what was asked for: {back[0]} and {asked[0]}")
        numbers = {(one.status, one.attempt and one.attempt.number, one.attempt and one.attempt.worker_id) for one in claimed}
        require(numbers == {(RolloutStatus.RUNNING, 1, "w")}, f"claimed rollouts have (status, number of the attempt, worker) {numbers}")
        require(await store.claim(RUN, "w", 4) == [], "a rollout that is running was claimed again")

    @on_store
    async def test_claims_are_atomic_among_threads_and_tasks(self, store: Store) -> None:
        """If this fails, two workers run the same rollout and its reward is counted twice."""
        asked = [make_rollout() for _ in range(60)]
        await store.enqueue(asked)
        claimed: list[Rollout] = []
        threads = [threading.Thread(target=lambda: asyncio.run(_claim_all(store, claimed))) for _ in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        twice = len(claimed) - len({one.rollout_id for one in claimed})
        require(twice == 0, f"{twice} of {len(asked)} rollouts were claimed twice by 4 threads of 4 tasks each")
        require(len(claimed) == len(asked), f"{len(asked) - len(claimed)} of {len(asked)} rollouts were never claimed")
        require(len({one.attempt and one.attempt.attempt_id for one in claimed}) == len(asked), "attempts share an id")

    # Ending.

    @on_store
    async def test_a_final_state_stays_final(self, store: Store) -> None:
        """If this fails, the late report of a worker that was given up overwrites the result that was learned from."""
        done, cancelled, lost = await _claimed(store, 3)
        require(await _finish(store, done) == RolloutStatus.SUCCEEDED, "finishing an attempt did not say `succeeded`")
        await store.cancel(RUN, [cancelled.rollout_id])
        await store.expire(RUN, -1.0)
        late = [await _finish(store, one, AttemptStatus.FAILED, failure=Failure.AGENT, output="late") for one in (done, cancelled, lost)]
        require(late == [None] * 3, f"a second end of an attempt gave {late} rather than None")
        await store.cancel(RUN)
        await store.expire(RUN, -1.0)
        results = await store.results([one.rollout_id for one in (done, cancelled, lost)])
        statuses = [result.rollout.status for result in results]
        ends = [RolloutStatus.SUCCEEDED, RolloutStatus.CANCELLED, RolloutStatus.FAILED]
        require(statuses == ends, f"the final states {ends} became {statuses}")
        require("late" not in [result.output for result in results], "the late report's output was kept")
        require(await store.heartbeat([_attempt(one) for one in (done, cancelled, lost)]) == set(), "an ended attempt is said to be alive")

    @on_store
    async def test_one_of_many_reports_of_an_attempt_counts(self, store: Store) -> None:
        """If this fails, two reports at the same time both count: their rewards are added up."""
        (one,) = await _claimed(store, 1)
        given = await asyncio.gather(*(_finish(store, one, output=n, rewards=[Reward(value=float(n))]) for n in range(8)))
        require(
            sum(status is not None for status in given) == 1, f"{sum(status is not None for status in given)} of 8 reports were accepted"
        )
        (result,) = await store.results([one.rollout_id])
        require([reward.value for reward in result.rewards] == [float(result.output)], f"rewards {result.rewards}, output {result.output}")

    @on_store
    async def test_an_infrastructure_failure_is_tried_again_while_attempts_are_left(self, store: Store) -> None:
        """If this fails, a dead endpoint either loses rollouts or is tried for ever."""
        (one,) = await _claimed(store, 1, max_attempts=2)
        first = await _finish(store, one, AttemptStatus.FAILED, failure=Failure.INFRASTRUCTURE, spans=[_span_of(one)], output=1)
        require(first == RolloutStatus.QUEUED, f"after its first attempt the rollout is {first}, not queued")
        (again,) = await store.claim(RUN, "w")
        require((again.rollout_id, again.attempt and again.attempt.number) == (one.rollout_id, 2), f"what was claimed next is {again}")
        (running,) = await store.results([one.rollout_id])
        require((running.spans, running.output) == ((), None), "the second attempt begins with what the first one recorded")
        last = await _finish(store, again, AttemptStatus.FAILED, failure=Failure.INFRASTRUCTURE)
        require(last == RolloutStatus.FAILED, f"after its last attempt the rollout is {last}, not failed")
        require(await store.claim(RUN, "w") == [], "a rollout without attempts left was claimed")

    @on_store
    async def test_an_agents_failure_is_not_tried_again(self, store: Store) -> None:
        """If this fails, what the agent did wrong is hidden by trying until it works."""
        kinds = {Failure.AGENT: AttemptStatus.FAILED, Failure.TIMEOUT: AttemptStatus.TIMEOUT, Failure.REWARD: AttemptStatus.FAILED}
        claimed = await _claimed(store, len(kinds), max_attempts=3)
        for one, (failure, status) in zip(claimed, kinds.items(), strict=True):
            after = await _finish(store, one, status, failure=failure, error="Traceback …")
            require(after == RolloutStatus.FAILED, f"after a failure `{failure}` the rollout is {after}, not failed")
        results = await store.results([one.rollout_id for one in claimed])
        require([result.failure for result in results] == list(kinds), f"the failures are kept as {[result.failure for result in results]}")

    @on_store
    async def test_what_is_tried_again_can_be_said(self, store: Store) -> None:
        """If this fails, the Trainer's option `failures` has no effect."""
        agent, lost, silent = await _claimed(store, 3, max_attempts=2)
        after = await _finish(store, agent, AttemptStatus.FAILED, failure=Failure.AGENT, retry=True)
        require(after == RolloutStatus.QUEUED, f"`retry=True` left the rollout {after}, not queued")
        after = await _finish(store, lost, AttemptStatus.FAILED, failure=Failure.INFRASTRUCTURE, retry=False)
        require(after == RolloutStatus.FAILED, f"`retry=False` left the rollout {after}, not failed")
        await store.expire(RUN, -1.0, retry=False)
        claimed = [one.rollout_id for one in await store.claim(RUN, "w", 5)]
        require(
            claimed == [agent.rollout_id], f"what is tried again is {claimed}, not {[agent.rollout_id]} ({silent.rollout_id} was silent)"
        )

    @on_store
    async def test_silent_workers_are_lost_and_those_with_a_heartbeat_are_not(self, store: Store) -> None:
        """If this fails, a killed worker's rollouts are waited for for ever, or a slow one's are taken from it."""
        silent, alive = await _claimed(store, 2, max_attempts=2)
        await asyncio.sleep(0.25)
        require(await store.heartbeat([_attempt(alive), "at-none"]) == {_attempt(alive)}, "`heartbeat` does not tell which attempts live")
        told: list[set[str]] = []
        store.post_heartbeat([_attempt(alive)], told.append)
        require(await store.expire(RUN, 0.2) == 1, "not exactly the silent worker's attempt was ended")
        require(await until(lambda: told == [{_attempt(alive)}]), f"`post_heartbeat` told {told}")
        (again,) = await store.claim(RUN, "w", 5)
        require(again.rollout_id == silent.rollout_id, "the lost attempt's rollout is not tried again")
        require(await _finish(store, silent) is None, "the silent worker could still end its attempt")
        require(await store.expire("run-other", -1.0) == 0, "attempts of another run were ended")

    @on_store
    async def test_cancel_ends_what_is_open_and_nothing_else(self, store: Store) -> None:
        """If this fails, a stopped run goes on, or takes finished work with it."""
        done, running = await _claimed(store, 2)
        await _finish(store, done)
        queued, spared = make_rollout(), make_rollout()
        await store.enqueue([queued, spared])
        await store.cancel(RUN, [done.rollout_id, running.rollout_id, queued.rollout_id])
        results = await store.results([one.rollout_id for one in (done, running, queued, spared)])
        ends = [RolloutStatus.SUCCEEDED, RolloutStatus.CANCELLED, RolloutStatus.CANCELLED, RolloutStatus.QUEUED]
        require([result.rollout.status for result in results] == ends, f"states are {[result.rollout.status for result in results]}")
        require(results[1].failure == Failure.CANCELLED, "the running attempt was not ended as cancelled")
        require(
            [one.rollout_id for one in await store.claim(RUN, "w", 5)] == [spared.rollout_id], "what is claimed next is not what is left"
        )
        await store.cancel(RUN)
        require(await store.wait_ended([spared.rollout_id], 5.0) == 0, "`cancel` without ids left something open")

    # What attempts recorded.

    @on_store
    async def test_spans_are_kept_once(self, store: Store) -> None:
        """If this fails, a write that was repeated after a broken connection doubles what the agent did."""
        (one,) = await _claimed(store, 1)
        span = _span_of(one)
        await store.add_spans([span, span])
        await store.add_spans([span, msgspec.structs.replace(span, name="other")])
        await _finish(store, one, spans=[span])
        await store.add_spans([span])
        (result,) = await store.results([one.rollout_id])
        require(result.spans == (span,), f"{len(result.spans)} spans of one id are kept: {[kept.name for kept in result.spans]}")

    @on_store
    async def test_results_are_complete_and_in_the_order_asked_for(self, store: Store) -> None:
        """If this fails, rewards and calls are learned for the wrong task, or some are missing."""
        claimed = await _claimed(store, 30)
        wanted: list[Any] = []
        for n, one in enumerate(claimed):
            spans = [_span_of(one, started_at=float(at), attributes={"n": [n, {"deep": None}]}, role="a/b") for at in (3, 1, 2)]
            rewards = [Reward(value=n / 7, name="style", source="kit", span_id=spans[0].span_id), Reward(value=-0.0, role="a")]
            await store.add_spans(spans[:1])
            await _finish(store, one, output={"n": n, "text": "ä\n"}, spans=spans[1:], rewards=rewards)
            wanted.append((one.rollout_id, (spans[1], spans[2], spans[0]), tuple(rewards), {"n": n, "text": "ä\n"}))
        wanted = wanted[::-1]
        found = await store.results([rollout_id for rollout_id, *_ in wanted])
        given = [(result.rollout.rollout_id, result.spans, result.rewards, result.output) for result in found]
        wrong = [have for have, want in zip(given, wanted, strict=True) if have != want]
        require(not wrong, f"{len(wrong)} of {len(wanted)} results differ from what was recorded, the first is {wrong[:1]}")

    @on_store
    async def test_many_results_come_at_once(self, store: Store) -> None:
        """If this fails, a large batch breaks a limit of the database."""
        asked = [make_rollout() for _ in range(1500)]
        await store.enqueue(asked)
        ids = [one.rollout_id for one in asked]
        require([result.rollout.rollout_id for result in await store.results(ids)] == ids, "the results are not those asked for")
        await store.cancel(RUN, ids)
        require(await store.wait_ended(ids, 10.0) == 0, "not all of 1500 rollouts were cancelled")

    @on_store
    async def test_late_rewards_are_kept(self, store: Store) -> None:
        """If this fails, a judgement that comes after the end (by a person, say) is lost."""
        (one,) = await _claimed(store, 1)
        await store.add_rewards(_attempt(one), [Reward(value=0.1, name="early")])
        await _finish(store, one, rewards=[Reward(value=0.2)])
        await store.add_rewards(_attempt(one), [Reward(value=0.3, name="late"), Reward(value=0.4)])
        (result,) = await store.results([one.rollout_id])
        kept = [(reward.name, reward.value) for reward in result.rewards]
        require(kept == [("early", 0.1), ("reward", 0.2), ("late", 0.3), ("reward", 0.4)], f"the rewards are {kept}")
        require(result.rollout.status == RolloutStatus.SUCCEEDED, "a late reward changed the rollout's state")

    @on_store
    async def test_any_text_and_any_attribute_is_kept(self, store: Store) -> None:
        """If this fails, one odd answer of a model ends the whole run."""
        (one,) = await _claimed(store, 1)
        odd = _span_of(one, name="half \ud83d", attributes={"object": object(), "nul": "a\0b", "half": "\ud83d", "set": {1}})
        await store.add_spans([odd])
        await _finish(store, one, AttemptStatus.FAILED, failure=Failure.AGENT, error="nul \0 and half \ud83d", output="ü")
        (result,) = await store.results([one.rollout_id])
        require(result.spans[0].span_id == odd.span_id, "the span is not kept")
        require(set(result.spans[0].attributes) == set(odd.attributes), f"attributes are kept as {result.spans[0].attributes}")
        require("and half" in str(result.rollout.attempt and result.rollout.attempt.error), "the error is not kept")

    @on_store
    async def test_rollouts_are_found_and_counted(self, store: Store) -> None:
        """If this fails, the report shows the wrong rollouts and hides failures."""
        kinds = [(Mode.TRAIN, 0), (Mode.TRAIN, 1), (Mode.VAL, 1)]
        asked = [make_rollout(mode=mode, step=step) for mode, step in kinds]
        await store.enqueue(asked)
        for one in (await store.claim(RUN, "w", 3))[1:]:
            await _finish(store, one, AttemptStatus.FAILED, failure=Failure.AGENT)
        ids = [one.rollout_id for one in asked]
        require(await store.find(RUN) == ids, "`find` does not give all rollouts, oldest first")
        chosen = [await store.find(RUN, mode="train"), await store.find(RUN, step=1), await store.find(RUN, rollout_id=ids[2])]
        require(chosen == [ids[:2], ids[1:], ids[2:]], "`find` does not choose by mode, step and id")
        counted = await store.counts(RUN)
        require(counted == Counts(rollouts={"train": 2, "val": 1}, failures={"agent": {"train": 1, "val": 1}}), f"counted were {counted}")

    # Waiting, and what lasts.

    @on_store
    async def test_a_wait_ends_with_the_last_rollout(self, store: Store) -> None:
        """If this fails, a step takes longer than its rollouts, or never ends."""
        claimed = await _claimed(store, 3)
        ids = [one.rollout_id for one in claimed]
        require(await store.wait_ended(ids, 0.05) == 3, "`wait_ended` does not say how many are left when its time is over")
        waiting = asyncio.ensure_future(_wait(store, ids))
        await asyncio.sleep(0.05)
        for one in claimed:
            await _finish(store, one)
        started = time.monotonic()
        await waiting
        took = time.monotonic() - started
        require(took < 0.9, f"the wait ended {took:.1f} s after the last rollout; an event must wake it")
        require(await store.wait_ended(ids, 3.0) == 0, "a wait for what has ended does not end at once")

    @on_store
    async def test_new_work_wakes_who_waits_for_it(self, store: Store) -> None:
        """If this fails, runners sleep while rollouts are queued."""
        mark = store.work_mark()
        await store.enqueue([make_rollout(max_attempts=2)])
        started = time.monotonic()
        await store.wait_for_work(mark, 10.0)
        require(time.monotonic() - started < 1.0, "work that came between `work_mark` and `wait_for_work` was missed")
        (one,) = await store.claim(RUN, "w")
        waiting = asyncio.ensure_future(store.wait_for_work(store.work_mark(), 10.0))
        await asyncio.sleep(0.05)
        require(not waiting.done(), "`wait_for_work` ends without work: the runners spin")
        await _finish(store, one, AttemptStatus.FAILED, failure=Failure.INFRASTRUCTURE)
        await waiting
        require(time.monotonic() - started < 2.0, "a rollout that is queued again wakes nobody")

    def test_what_was_acknowledged_is_kept(self) -> None:
        """If this fails, a run that was killed cannot go on: what it was told is written is gone."""
        if not self.durable:
            not_applicable("this store does not claim to be durable")
        with tempfile.TemporaryDirectory() as folder:
            store = self.make_store(Path(folder))
            other: Store | None = None
            try:
                kept: list[Any] = []
                run_check(_fill(store, kept))
                other = self.make_store(Path(folder))  # the first one is not closed: its process may be dead
                run_check(_compare(other, kept))
            finally:
                store.close()
                if other is not None:
                    other.close()

    def test_a_closed_store_says_so(self) -> None:
        """If this fails, a write after the end of a run is lost without a word, or waited for for ever."""
        with tempfile.TemporaryDirectory() as folder:
            store = self.make_store(Path(folder))
            run_check(store.create_run(make_record()))
            store.close()
            store.close()

            async def use() -> None:
                error = await error_of(store.update_run(RUN, status="done"))
                require(isinstance(error, StoreError), f"a closed store gave {error!r} rather than a StoreError")

            run_check(use(), 10.0)


async def _claim_all(store: Store, claimed: list[Rollout]) -> None:
    async def claim() -> None:
        while found := await store.claim(RUN, "w", 2):
            claimed.extend(found)

    await asyncio.gather(*(claim() for _ in range(4)))


async def _fill(store: Store, kept: list[Any]) -> None:
    await store.create_run(make_record(config={"a": 1}))
    await store.publish(RUN, {"prompt": PromptTemplate(template="first")})
    one, queued = await _claimed(store, 1), make_rollout()
    await store.enqueue([queued])
    await _finish(store, one[0], output="ok", spans=[_span_of(one[0])], rewards=[Reward(value=0.5)])
    await store.update_run(RUN, step=2)
    await store.add_events(RUN, [{"event": "begin"}])
    ids = [one[0].rollout_id, queued.rollout_id]
    kept += [ids, await store.run(RUN), await store.resources(RUN), await store.results(ids), await store.journal(RUN)]


async def _compare(store: Store, kept: list[Any]) -> None:
    ids, run, resources, results, journal = kept
    require(await store.run(RUN) == run, "the run is not as it was acknowledged")
    require(await store.resources(RUN) == resources, "the resources are not as they were acknowledged")
    require(await store.results(ids) == results, "the results are not as they were acknowledged")
    require(await store.journal(RUN) == journal, "the journal is not as it was acknowledged")
    require([one.rollout_id for one in await store.claim(RUN, "w", 5)] == ids[1:], "what was queued cannot be claimed")


async def _wait(store: Store, ids: list[str]) -> None:
    while await store.wait_ended(ids, 3.0):
        pass


async def _claimed(store: Store, n: int, **values: Any) -> list[Rollout]:
    asked = [make_rollout(**values) for _ in range(n)]
    await store.enqueue(asked)
    claimed = await store.claim(RUN, "w", n)
    require(len(claimed) == n, f"{len(claimed)} of {n} queued rollouts could be claimed")
    return claimed


def _attempt(rollout: Rollout) -> str:
    return rollout.attempt.attempt_id if rollout.attempt else ""


async def _finish(store: Store, rollout: Rollout, status: AttemptStatus = AttemptStatus.SUCCEEDED, **values: Any) -> RolloutStatus | None:
    return await store.finish(_attempt(rollout), status, **values)


def _span_of(rollout: Rollout, **values: Any) -> Span:
    return make_span(rollout.rollout_id, _attempt(rollout), **values)
