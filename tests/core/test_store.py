"""The store: atomic claims, final states, and nothing acknowledged that is not on disk."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from agl.errors import NotFoundError, StoreError
from agl.resources import LLM, PromptTemplate
from agl.rewards import make_reward
from agl.rollouts import AttemptStatus, Failure, RolloutStatus
from agl.store import schema, sql, sqlite
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore

RUN = "run"
SUCCEEDED, FAILED = AttemptStatus.SUCCEEDED, AttemptStatus.FAILED


def record(run_id, **values):
    known = {
        "created_at": time.time(),
        "status": "running",
        "step": 0,
        "seed": 0,
        "config": {},
        "command": [],
        "folder": "",
        "directory": "",
    }
    return RunRecord(run_id=run_id, **{**known, **values})


async def claimed(store, make_rollout, **values):
    await store.enqueue([make_rollout(**values)])
    (rollout,) = await store.claim(RUN, "w")
    return rollout


async def result_of(store, rollout):
    (result,) = await store.results([rollout.rollout_id])
    return result


# Runs and resources.


async def test_a_run_is_kept_and_its_step_and_status_change(store):
    kept = record("one", config={"seed": 3}, command=["python", "x.py"])
    await store.create_run(kept)
    await store.update_run("one", step=4, status="done")
    assert await store.run("one") == msgspec.structs.replace(kept, step=4, status="done")
    assert [found.run_id for found in await store.runs()] == [RUN, "one"]


async def test_an_unknown_run_is_named_with_those_that_exist(store):
    with pytest.raises(NotFoundError, match=r"no run `other`.*\['run'\]"):
        await store.run("other")


async def test_publishing_makes_a_new_version_with_all_names_kept(store):
    llm = LLM(endpoint="e", model="m", sampling_parameters={"temperature": 1.0})
    first = await store.publish(RUN, {"main_llm": llm, "prompt": PromptTemplate(template="a")})
    second = await store.publish(RUN, {"prompt": PromptTemplate(template="b")})
    assert (first.version, second.version) == (0, 1)
    assert second.values == {"main_llm": llm, "prompt": PromptTemplate(template="b")}
    assert (await store.resources(RUN, 0), await store.resources(RUN)) == (first, second)


async def test_a_version_is_never_overwritten(store):
    first = await store.publish(RUN, {"p": PromptTemplate(template="a")})
    with pytest.raises(StoreError, match="UNIQUE"):
        await store.publish(RUN, {"p": PromptTemplate(template="b")}, version=0)
    assert await store.resources(RUN, 0) == first


async def test_an_unknown_version_is_refused(store):
    with pytest.raises(NotFoundError, match="no resources version `5`"):
        await store.resources(RUN, 5)


# Claiming.


async def test_rollouts_are_claimed_first_in_first_out(store, make_rollout):
    rollouts = [make_rollout() for _ in range(5)]
    await store.enqueue(rollouts)
    first, second = await store.claim(RUN, "w", 2), await store.claim(RUN, "w", 9)
    assert [rollout.rollout_id for rollout in first + second] == [rollout.rollout_id for rollout in rollouts]
    assert {rollout.status for rollout in first} == {RolloutStatus.RUNNING}
    assert (first[0].attempt.number, first[0].attempt.worker_id, first[0].task) == (1, "w", rollouts[0].task)


async def test_nothing_is_claimed_of_another_run(store, make_rollout):
    await store.create_run(record("other"))
    await store.enqueue([make_rollout()])
    assert await store.claim("other", "w") == []


def test_several_threads_claim_each_rollout_exactly_once(store, make_rollout):
    asyncio.run(store.enqueue([make_rollout() for _ in range(60)]))
    found, barrier = [], threading.Barrier(6)

    async def work(name):
        barrier.wait()
        while got := await store.claim(RUN, name, 2):
            found.extend(rollout.rollout_id for rollout in got)

    threads = [threading.Thread(target=lambda name=f"w{i}": asyncio.run(work(name))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 60


CLAIMER = """
import asyncio, sys
from agl.store.sqlite import SQLiteStore
from agl.rollouts import AttemptStatus
store = SQLiteStore(sys.argv[1])
async def work():
    while got := await store.claim("run", sys.argv[2], 2):
        for rollout in got:
            await store.finish(rollout.attempt.attempt_id, AttemptStatus.SUCCEEDED)
            print(rollout.rollout_id, flush=True)
asyncio.run(work())
store.close()
"""


async def test_several_processes_claim_each_rollout_exactly_once(store, make_rollout):
    rollouts = [make_rollout() for _ in range(40)]
    await store.enqueue(rollouts)
    workers = [
        subprocess.Popen([sys.executable, "-c", CLAIMER, str(store.path), f"w{i}"], stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    found = [line for worker in workers for line in (await asyncio.to_thread(worker.communicate))[0].split()]
    assert all(worker.returncode == 0 for worker in workers)
    assert sorted(found) == sorted(rollout.rollout_id for rollout in rollouts)
    assert await store.wait_ended(found, 0) == 0


def test_several_processes_may_open_a_new_store_at_once(tmp_path):
    code = "import sys; from agl.store.sqlite import SQLiteStore; SQLiteStore(sys.argv[1]).close()"
    path = tmp_path / "new.sqlite"
    openers = [subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [opener.communicate()[1] for opener in openers] == [""] * 3


# Finishing.


async def test_an_attempt_ends_with_all_it_recorded(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    late, early = make_span(rollout, started_at=5.0), make_span(rollout, started_at=1.0, attributes={"k": [1, {"x": None}]})
    reward = make_reward(0.5, source="returned")
    after = await store.finish(rollout.attempt.attempt_id, SUCCEEDED, output={"a": 1}, spans=[late, early], rewards=[reward])
    result = await result_of(store, rollout)
    assert after == result.rollout.status == RolloutStatus.SUCCEEDED
    assert (result.spans, result.rewards, result.output, result.reward) == ((early, late), (reward,), {"a": 1}, 0.5)
    assert result.rollout.ended_at is not None


async def test_a_final_status_stays_final(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    attempt_id = rollout.attempt.attempt_id
    await store.finish(attempt_id, FAILED, failure=Failure.AGENT, error="boom")
    before = await result_of(store, rollout)
    assert await store.finish(attempt_id, SUCCEEDED, spans=[make_span(rollout)], rewards=[make_reward(1, source="late")]) is None
    await store.cancel(RUN)
    assert await store.expire(RUN, -1.0) == 0
    assert await result_of(store, rollout) == before
    assert (before.failure, before.rollout.attempt.error) == (Failure.AGENT, "boom")


async def test_an_unknown_attempt_changes_nothing(store):
    assert await store.finish("at-unknown", SUCCEEDED) is None


async def test_a_failure_of_the_infrastructure_is_tried_again_up_to_max_attempts(store, make_rollout):
    rollout = await claimed(store, make_rollout, max_attempts=3)
    for number in (1, 2):
        assert rollout.attempt.number == number
        assert await store.finish(rollout.attempt.attempt_id, FAILED, failure=Failure.INFRASTRUCTURE) == RolloutStatus.QUEUED
        (rollout,) = await store.claim(RUN, "w")
    assert await store.finish(rollout.attempt.attempt_id, FAILED, failure=Failure.INFRASTRUCTURE, error="third") == RolloutStatus.FAILED
    result = await result_of(store, rollout)
    assert (result.rollout.attempt.number, result.rollout.attempt.error, result.reward) == (3, "third", None)
    assert await store.claim(RUN, "w") == []


@pytest.mark.parametrize("failure", [Failure.AGENT, Failure.REWARD])
async def test_other_failures_are_not_tried_again(store, make_rollout, failure):
    rollout = await claimed(store, make_rollout, max_attempts=3)
    assert await store.finish(rollout.attempt.attempt_id, FAILED, failure=failure) == RolloutStatus.FAILED


async def test_only_the_latest_attempts_spans_are_a_result(store, make_rollout, make_span):
    first = await claimed(store, make_rollout, max_attempts=2)
    await store.finish(first.attempt.attempt_id, FAILED, failure=Failure.INFRASTRUCTURE, spans=[make_span(first)])
    (second,) = await store.claim(RUN, "w")
    span = make_span(second)
    await store.finish(second.attempt.attempt_id, SUCCEEDED, spans=[span])
    assert (await result_of(store, second)).spans == (span,)


async def test_lost_workers_expire_and_their_late_report_is_refused(store, make_rollout):
    silent, alive = await claimed(store, make_rollout, max_attempts=2), await claimed(store, make_rollout)
    await asyncio.sleep(0.6)
    await store.heartbeat([alive.attempt.attempt_id])
    assert await store.expire(RUN, 0.5) == 1
    assert await store.finish(silent.attempt.attempt_id, SUCCEEDED) is None
    (again,) = await store.claim(RUN, "other")
    assert (again.rollout_id, again.attempt.number) == (silent.rollout_id, 2)
    assert await store.finish(alive.attempt.attempt_id, SUCCEEDED) == RolloutStatus.SUCCEEDED


async def test_a_rollout_whose_last_attempt_is_lost_has_failed_with_a_reason(store, make_rollout):
    rollout = await claimed(store, make_rollout)
    await store.expire(RUN, -1.0)
    result = await result_of(store, rollout)
    assert (result.rollout.status, result.failure) == (RolloutStatus.FAILED, Failure.INFRASTRUCTURE)
    assert result.rollout.attempt.status == AttemptStatus.LOST
    assert "silent" in result.rollout.attempt.error


async def test_a_heartbeat_says_which_attempts_were_ended_from_elsewhere(store, make_rollout):
    first, second = await claimed(store, make_rollout), await claimed(store, make_rollout)
    await store.cancel(RUN, [first.rollout_id])
    ids = [first.attempt.attempt_id, second.attempt.attempt_id]
    assert await store.heartbeat(ids) == {second.attempt.attempt_id}
    told = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    store.post_heartbeat(ids, lambda alive: loop.call_soon_threadsafe(told.set_result, alive))
    assert await told == {second.attempt.attempt_id}


async def test_cancelling_ends_what_is_queued_and_what_runs(store, make_rollout):
    running = await claimed(store, make_rollout)
    await store.enqueue([queued := make_rollout()])
    await store.cancel(RUN)
    assert await store.claim(RUN, "w") == []
    first, second = await store.results([running.rollout_id, queued.rollout_id])
    assert (first.rollout.status, first.failure, first.rollout.attempt.status) == (
        RolloutStatus.CANCELLED,
        Failure.CANCELLED,
        AttemptStatus.CANCELLED,
    )
    assert (second.rollout.status, second.failure, second.rollout.attempt) == (RolloutStatus.CANCELLED, Failure.CANCELLED, None)


async def test_only_the_named_rollouts_are_cancelled(store, make_rollout):
    rollouts = [make_rollout() for _ in range(3)]
    await store.enqueue(rollouts)
    await store.cancel(RUN, [rollouts[1].rollout_id])
    assert [rollout.rollout_id for rollout in await store.claim(RUN, "w", 9)] == [rollouts[0].rollout_id, rollouts[2].rollout_id]


# Spans.


async def test_a_span_that_is_there_already_is_skipped(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    span = make_span(rollout)
    await store.add_spans([span])
    await store.add_spans([span, other := make_span(rollout)])
    await store.finish(rollout.attempt.attempt_id, SUCCEEDED, spans=[span])
    assert (await result_of(store, rollout)).spans == (span, other)


async def test_spans_of_an_unknown_attempt_are_refused(store, make_span):
    with pytest.raises(NotFoundError, match="no such attempt among"):
        await store.add_spans([make_span()])


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no")


async def test_attributes_that_json_cannot_hold_are_kept_as_their_repr(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    circle = []
    circle.append(circle)
    attributes = {
        "set": {1},
        "object": Failure,
        "key": {(1, 2): 3},
        "half": "\ud800",
        "circle": circle,
        "none": NoRepr(),
        "deep": {"x": object()},
    }
    span = make_span(rollout, attributes=attributes, error="\ud83d!", name="n\ud83d")
    await store.add_spans([span])
    await store.finish(
        rollout.attempt.attempt_id, FAILED, error="half \ud83d of an emoji and a \0", spans=[make_span(rollout, attributes={"o": object()})]
    )
    result = await result_of(store, rollout)
    kept = result.spans[0]
    assert kept.attributes["set"] == [1]
    assert kept.attributes["key"] == {"(1, 2)": 3}
    assert kept.attributes["none"] == "<NoRepr: RuntimeError>"
    assert kept.attributes["deep"]["x"].startswith("<object object")
    assert (kept.name, kept.error) == ("n\\ud83d", "\\ud83d!")
    assert result.rollout.attempt.error == "half \\ud83d of an emoji and a \\0"


# Results and waiting.


async def test_results_come_in_the_order_asked_for_many_at_a_time(store, make_rollout, make_span, monkeypatch):
    monkeypatch.setattr("agl.store.operations.IDS", 7)
    await store.enqueue([make_rollout() for _ in range(30)])
    rollouts = await store.claim(RUN, "w", 30)
    for number, rollout in enumerate(rollouts):
        reward = make_reward(number, source="returned")
        await store.finish(rollout.attempt.attempt_id, SUCCEEDED, spans=[make_span(rollout, name=str(number))], rewards=[reward])
    ids = [rollout.rollout_id for rollout in rollouts]
    asked = ids[::-1] + ids[:1]
    found = await store.results(asked)
    assert [result.rollout.rollout_id for result in found] == asked
    assert [(result.spans[0].name, result.reward) for result in found] == [(str(n), float(n)) for n in [*range(29, -1, -1), 0]]
    assert await store.find(RUN) == ids
    assert await store.find(RUN, mode="val") == []


async def test_an_unknown_rollout_has_no_result(store):
    with pytest.raises(NotFoundError, match="no rollout `ro-unknown`"):
        await store.results(["ro-unknown"])


async def test_waiting_ends_with_the_last_rollout_and_not_with_a_poll(store, make_rollout, monkeypatch):
    monkeypatch.setattr(sql, "POLL_SECONDS", 30.0)
    await store.enqueue([make_rollout() for _ in range(20)])
    rollouts = await store.claim(RUN, "w", 20)

    async def work():
        for rollout in rollouts:
            await store.finish(rollout.attempt.attempt_id, SUCCEEDED)

    started = time.monotonic()
    working = asyncio.ensure_future(work())
    assert await store.wait_ended([rollout.rollout_id for rollout in rollouts], timeout=30.0) == 0
    await working
    assert time.monotonic() - started < 10


async def test_waiting_says_how_many_have_not_ended(store, make_rollout):
    first, second = await claimed(store, make_rollout), await claimed(store, make_rollout)
    await store.finish(first.attempt.attempt_id, SUCCEEDED)
    assert await store.wait_ended([first.rollout_id, second.rollout_id], timeout=0.01) == 1


async def test_work_that_was_queued_before_the_wait_is_not_missed(store, make_rollout, monkeypatch):
    mark = store.work_mark()
    assert await store.claim(RUN, "w") == []
    await store.enqueue([make_rollout()])
    started = time.monotonic()
    await store.wait_for_work(mark, timeout=30.0)
    assert time.monotonic() - started < 10


async def test_a_rollout_that_is_queued_again_wakes_the_workers(store, make_rollout):
    rollout = await claimed(store, make_rollout, max_attempts=2)
    waiting = asyncio.ensure_future(store.wait_for_work(store.work_mark(), timeout=30.0))
    await asyncio.sleep(0)
    await store.finish(rollout.attempt.attempt_id, FAILED, failure=Failure.INFRASTRUCTURE)
    await asyncio.wait_for(waiting, 10)
    [again] = await store.claim(rollout.run_id, "another worker")
    assert (again.rollout_id, again.attempt.number) == (rollout.rollout_id, 2)


# Commits.


async def test_one_operation_that_fails_harms_no_other_of_its_transaction(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    good, bad = make_span(rollout), make_span()
    slow = store._writer.run(lambda c: time.sleep(0.1))  # the others gather behind it, into one transaction
    outcomes = await asyncio.gather(slow, store.add_spans([good]), store.add_spans([bad]), store.publish(RUN, {}), return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "NoneType", "NotFoundError", "Resources"]
    await store.finish(rollout.attempt.attempt_id, SUCCEEDED)
    assert (await result_of(store, rollout)).spans == (good,)


async def test_many_callers_share_one_transaction(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    commits = []
    from sqlalchemy import event

    event.listen(store._database.reading, "commit", commits.append)
    await asyncio.gather(*(store.add_spans([make_span(rollout)]) for _ in range(200)))
    assert len(commits) < 20


async def test_who_is_cancelled_while_waiting_leaves_nothing_claimed_and_the_store_working(store, make_rollout):
    rollout = make_rollout()
    await store.enqueue([rollout])
    busy = asyncio.ensure_future(store._writer.run(lambda c: time.sleep(0.1)))
    claim = asyncio.ensure_future(store.claim(RUN, "w"))
    await asyncio.sleep(0.02)
    claim.cancel()
    await asyncio.gather(claim, busy, return_exceptions=True)
    assert [found.rollout_id for found in await store.claim(RUN, "w")] == [rollout.rollout_id]


async def test_who_is_cancelled_during_the_commit_does_not_stop_the_writer(store):
    running = asyncio.ensure_future(store._writer.run(lambda c: time.sleep(0.1)))
    await asyncio.sleep(0.03)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await store.publish(RUN, {})).version == 0


async def test_a_closed_store_refuses_and_does_not_hang(store):
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.publish(RUN, {})


WRITER = """
import asyncio, sys
from agl.store.sqlite import SQLiteStore
from agl.spans import *
store = SQLiteStore(sys.argv[1])
async def work():
    (rollout,) = await store.claim("run", "w")
    async def write():
        while True:
            span = Span(span_id=new_span_id(), trace_id="0", rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id,
                        name="s", kind=SpanKind.OPERATION, started_at=1.0, ended_at=2.0)
            await store.add_spans([span])
            sys.stdout.write(span.span_id + "\\n")
            sys.stdout.flush()
    await asyncio.gather(*(write() for _ in range(4)))
asyncio.run(work())
"""


async def test_everything_acknowledged_is_there_after_the_writer_is_killed(store, make_rollout):
    await store.enqueue([rollout := make_rollout()])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)], stdout=subprocess.PIPE, text=True)
    acknowledged = [await asyncio.to_thread(writer.stdout.readline) for _ in range(100)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += writer.communicate()[0].split("\n")
    whole = {line.strip() for line in acknowledged if len(line.strip()) == 16}
    assert whole <= {span.span_id for span in (await result_of(store, rollout)).spans}
    assert len(whole) >= 100


async def test_a_store_that_is_opened_again_has_everything(store, make_rollout, make_span):
    rollout = await claimed(store, make_rollout)
    await store.finish(rollout.attempt.attempt_id, SUCCEEDED, spans=[make_span(rollout)])
    before = await result_of(store, rollout)
    store.close()
    again = SQLiteStore(store.path)
    assert await result_of(again, rollout) == before
    again.close()


# Files that are no store.


def test_a_new_store_makes_its_folders(tmp_path):
    SQLiteStore(tmp_path / "a" / "b" / "store.sqlite").close()
    assert (tmp_path / "a" / "b" / "store.sqlite").exists()


def test_migrating_makes_the_schema_that_the_code_names(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = SQLiteStore(tmp_path / "store.sqlite")
    with store._database.reading.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    store.close()


def test_a_store_of_the_first_schema_is_migrated_with_what_it_holds(tmp_path):
    async def use(store, *, first):
        if first:
            await store.create_run(record(RUN))
        else:
            await store.add_events(RUN, [{"event": "begin"}])
            return (await store.run(RUN)).run_id, await store.journal(RUN)

    path = tmp_path / "store.sqlite"
    store = SQLiteStore(path)
    asyncio.run(use(store, first=True))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE journal; UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    store = SQLiteStore(path)
    assert asyncio.run(use(store, first=False)) == (RUN, [{"event": "begin"}])
    store.close()


def test_the_hot_statements_exist_for_postgresql_too():
    from sqlalchemy.dialects import postgresql

    from agl.store.statements import Statements

    texts = {name: statement._text for name, statement in vars(Statements(postgresql.psycopg.dialect())).items()}
    assert "FOR UPDATE SKIP LOCKED" in texts["claim"]
    assert "ON CONFLICT DO NOTHING" in texts["add_spans"]
    assert all("%(" in text for text in texts.values())


def test_a_store_of_a_newer_schema_says_what_to_do(store_path):
    with sqlite3.connect(store_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"has schema `9999`, this agl-core knows `\d+`: upgrade agl-core, or name another store"):
        SQLiteStore(store_path)


def test_a_file_that_is_no_database_says_so(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all, but long enough to have a header" * 4)
    with pytest.raises(StoreError, match=r"notes.txt` is no store: file is not a database; name another file"):
        SQLiteStore(path)


def test_a_folder_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteStore(tmp_path / "file" / "store.sqlite")


async def test_a_store_that_another_process_locks_says_so(store_path, monkeypatch):
    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 0.05)
    store = SQLiteStore(store_path)
    holder = sqlite3.connect(store_path)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreError, match=r"is locked by another process.*--store"):
            await store.publish(RUN, {})
    finally:
        holder.rollback()
        holder.close()
        store.close()


def test_a_failed_opening_leaves_no_file_open(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"no database here" * 100)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with pytest.raises(StoreError):
            SQLiteStore(path)
    assert (len(os.listdir("/proc/self/fd")) if before else 0) <= before
    shutil.rmtree(tmp_path)
