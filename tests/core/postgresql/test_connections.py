"""What happens when connections break, transactions are in each other's way, or the server goes away."""

import asyncio
import threading
import time

import psycopg
import pytest
from sqlalchemy import text

from agl.errors import StoreError
from agl.rollouts import AttemptStatus
from agl.store import database, postgresql
from agl.store.postgresql import PostgreSQLStore
from agl.testing.running import make_record

RUN = "run"
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
STEP = text("UPDATE runs SET step = step + 1 WHERE run_id = 'run'")


def end_connections(url):
    """As a restart of the server, or a firewall, does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(END_ALL)


async def steps(store):
    return (await store.run(RUN)).step


async def test_connections_that_broke_meanwhile_are_made_again(store, url):
    await asyncio.gather(*(store.run(RUN) for _ in range(4)))
    end_connections(url)
    found, _ = await asyncio.gather(store.run(RUN), store.update_run(RUN, step=3))
    assert found.run_id == RUN
    assert await steps(store) == 3


async def test_a_transaction_that_broke_before_its_commit_is_made_again_once(store, url):
    tries = []

    def operation(connection):
        tries.append(connection.execute(STEP))
        if len(tries) == 1:
            end_connections(url)
            connection.execute(STEP)

    await store._writer.run(operation)
    assert (len(tries), await steps(store)) == (2, 1)


async def test_a_read_that_broke_is_made_again(store, url):
    tries = []

    def look(connection):
        tries.append(1)
        if len(tries) == 1:
            end_connections(url)
        return connection.execute(text("SELECT count(*) FROM runs")).scalar()

    assert (await store._read(look), len(tries)) == (1, 2)


async def test_a_commit_of_which_nobody_knows_is_an_error_and_is_not_made_again(store, url):
    tries = []

    def operation(connection):
        tries.append(connection.execute(STEP))
        end_connections(url)

    busy = store._writer.run(lambda c: threading.Event().wait(0.1))  # both gather behind it, into one transaction
    done = await asyncio.gather(busy, store._writer.run(operation), store._writer.run(lambda c: None), return_exceptions=True)
    for error in done[1:]:
        assert isinstance(error, StoreError)
        assert "lost its connection during a commit: whether this was kept is not known" in str(error)
    assert (len(tries), await steps(store)) == (1, 0)
    await store.update_run(RUN, step=5)  # the store goes on
    assert await steps(store) == 5


async def test_of_two_transactions_in_a_deadlock_both_are_made(store, other):
    await store._writer.run(lambda c: c.execute(text("INSERT INTO runs SELECT 'second', created_at, status, step, body FROM runs")))
    meeting, tries = threading.Barrier(2), []

    def operation(first, second):
        def work(connection):
            tries.append(first)
            for name in (first, second):
                connection.execute(text("UPDATE runs SET step = step + 1 WHERE run_id = :name"), {"name": name})
                if name == first and len(tries) <= 2:
                    meeting.wait(10)

        return work

    await asyncio.gather(store._writer.run(operation(RUN, "second")), other._writer.run(operation("second", RUN)))
    assert len(tries) == 3
    assert [record.step for record in await store.runs()] == [2, 2]


@pytest.fixture(scope="module")
def frail(make_server):
    """A server that a test may end."""
    return make_server()


async def test_a_server_that_restarts_is_waited_for_and_has_all_that_was_acknowledged(frail, make_rollout):
    frail.start()
    store = PostgreSQLStore(frail.url(frail.new_database()))
    try:
        await store.create_run(make_record(RUN))
        await store.enqueue([make_rollout()])
        (rollout,) = await store.claim(RUN, "w")
        await asyncio.to_thread(frail.end)
        ending = asyncio.ensure_future(store.finish(rollout.attempt.attempt_id, AttemptStatus.SUCCEEDED, output="late"))
        reading = asyncio.ensure_future(store.run(RUN))
        await asyncio.sleep(0.3)
        assert not ending.done()
        await asyncio.to_thread(frail.start)
        assert (await ending, (await reading).run_id) == ("succeeded", RUN)
        (result,) = await store.results([rollout.rollout_id])
        assert result.output == "late"
    finally:
        store.close()


async def test_a_server_that_stays_away_is_an_error_after_a_while(frail, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.2)
    frail.start()
    store = PostgreSQLStore(frail.url())
    try:
        await asyncio.to_thread(frail.end)
        for call in (store.update_run(RUN, step=1), store.runs()):
            with pytest.raises(StoreError, match=r"cannot be reached: .*Connection refused; is the server running"):
                await call
        started = time.monotonic()
        done = await asyncio.gather(*(store.update_run(RUN, step=n) for n in range(100)), return_exceptions=True)
        assert {type(error) for error in done} == {StoreError}
        assert time.monotonic() - started < 5, "each of those that wait together was tried for its own time"
    finally:
        store.close()


async def test_who_holds_a_row_for_long_is_an_error_that_says_so(url, monkeypatch):
    monkeypatch.setattr(postgresql, "LOCK_SECONDS", 0.1)
    store = PostgreSQLStore(url)
    try:
        with psycopg.connect(url) as holder:
            holder.execute("SELECT 1 FROM runs FOR UPDATE")
            with pytest.raises(StoreError, match=r"is locked by another process, which has not let go for 0\.1 s"):
                await store.update_run(RUN, step=1)
    finally:
        store.close()


async def test_a_process_that_stops_in_a_transaction_holds_up_no_other_for_long_and_goes_on(url, monkeypatch):
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.1)
    store, tries = PostgreSQLStore(url), []
    asleep, waking = threading.Event(), threading.Event()

    def sleepy(connection):
        tries.append(connection.execute(STEP))
        if len(tries) == 1:
            asleep.set()
            waking.wait(10)

    try:
        sleeping = asyncio.ensure_future(store._writer.run(sleepy))
        assert await asyncio.to_thread(asleep.wait, 10)
        other = PostgreSQLStore(url)
        await asyncio.wait_for(other.update_run(RUN, status="stopped"), 10)
        other.close()
        waking.set()
        await sleeping
        assert (len(tries), await steps(store), (await store.run(RUN)).status) == (2, 1, "stopped")
    finally:
        waking.set()
        store.close()


async def test_a_closed_store_refuses_reads_and_writes(store):
    store.close()
    for call in (store.update_run(RUN, step=1), store.runs()):
        with pytest.raises(StoreError, match="is closed"):
            await call


async def test_a_process_holds_few_connections(store, url):
    await asyncio.gather(*(store.run(RUN) for _ in range(40)), *(store.update_run(RUN, step=n) for n in range(40)))
    with psycopg.connect(url) as connection:
        (count,) = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
    assert count - 1 <= postgresql.CONNECTIONS
