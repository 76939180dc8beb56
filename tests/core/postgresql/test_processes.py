"""Several processes on one PostgreSQL database: atomic claims, final states, and nothing acknowledged that is lost."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import text

from agl.resources import PromptTemplate
from agl.rewards import LATE, Reward
from agl.rollouts import AttemptStatus, Failure, RolloutStatus
from agl.store import schema
from agl.store.postgresql import PostgreSQLStore

RUN = "run"
SUCCEEDED, FAILED = AttemptStatus.SUCCEEDED, AttemptStatus.FAILED


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def claimed(store, make_rollout, n, **values):
    await store.enqueue([make_rollout(**values) for _ in range(n)])
    return await store.claim(RUN, "w", n)


CLAIMER = """
import asyncio, sys
from agl.rollouts import AttemptStatus
from agl.store.opening import open_store
store = open_store(sys.argv[1])
async def work():
    print("ready", flush=True)
    sys.stdin.readline()
    while got := await store.claim("run", "w", 2):
        for rollout in got:
            await store.finish(rollout.attempt.attempt_id, AttemptStatus.SUCCEEDED)
            print(rollout.rollout_id, flush=True)
        await asyncio.sleep(0.005)  # so that the other process has its turn
asyncio.run(work())
store.close()
"""


async def test_two_processes_claim_each_rollout_exactly_once(store, url, make_rollout):
    rollouts = [make_rollout() for _ in range(100)]
    await store.enqueue(rollouts)
    command = [sys.executable, "-c", CLAIMER, url]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        assert await asyncio.to_thread(worker.stdout.readline) == "ready\n"
    given = await asyncio.gather(*(asyncio.to_thread(worker.communicate, "go\n") for worker in workers))
    found = [out.split() for out, _ in given]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all(found), "one of the processes claimed nothing, so that nothing was tried"
    assert sorted(found[0] + found[1]) == sorted(rollout.rollout_id for rollout in rollouts)
    assert await store.wait_ended(found[0] + found[1], 0) == 0


async def test_a_claim_gives_no_more_than_it_was_asked_for_whatever_way_the_server_chooses(store, make_rollout):
    """PostgreSQL may join by running a subquery for each row; these settings let it choose nothing else."""
    await store.enqueue([make_rollout() for _ in range(30)])

    def choose(connection):
        for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
            connection.execute(text(f"SET enable_{way} = off"))

    await store._writer.run(choose)
    assert len(await store.claim(RUN, "w", 2)) == 2


OPENER = "import sys; from agl.store.opening import open_store; open_store(sys.argv[1]).close()"


def test_several_processes_may_open_an_empty_database_at_once(server):
    name = server.new_database()
    openers = [start(OPENER, server.url(name)) for _ in range(2)]
    assert [opener.communicate()[1] for opener in openers] == ["", ""]
    assert server.execute("SELECT version_num FROM alembic_version", name) == [(schema.HEAD,)]


def test_migrating_makes_the_schema_that_the_code_names(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._database.writing.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


WRITER = """
import asyncio, sys
from agl.spans import *
from agl.store.opening import open_store
store = open_store(sys.argv[1])
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


async def test_everything_acknowledged_is_there_after_the_client_is_killed(store, url, make_rollout):
    await store.enqueue([rollout := make_rollout(max_attempts=2)])
    writer = start(WRITER, url)
    acknowledged = [await asyncio.to_thread(writer.stdout.readline) for _ in range(100)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += writer.communicate()[0].split("\n")
    whole = {line.strip() for line in acknowledged if len(line.strip()) == 16}
    (result,) = await store.results([rollout.rollout_id])
    assert whole <= {span.span_id for span in result.spans}
    assert len(whole) >= 100
    assert await store.expire(RUN, -1.0) == 1  # and nothing of the dead client is in the way
    assert [again.rollout_id for again in await store.claim(RUN, "other")] == [rollout.rollout_id]


async def test_one_of_two_processes_ends_an_attempt_and_it_stays_so(store, other, make_rollout):
    rollouts = await claimed(store, make_rollout, 40)
    ends = [(store, SUCCEEDED, None), (other, FAILED, Failure.AGENT)]
    given = await asyncio.gather(
        *(one.finish(rollout.attempt.attempt_id, status, failure=failure) for rollout in rollouts for one, status, failure in ends)
    )
    pairs = list(zip(given[::2], given[1::2], strict=True))
    assert all(sum(status is not None for status in pair) == 1 for pair in pairs)
    results = await store.results([rollout.rollout_id for rollout in rollouts])
    assert [result.rollout.status for result in results] == [first or second for first, second in pairs]


async def test_what_several_processes_publish_has_a_version_each(store, other):
    made = await asyncio.gather(*(one.publish(RUN, {f"p{n}": PromptTemplate(template="x")}) for n in range(10) for one in (store, other)))
    assert sorted(resources.version for resources in made) == list(range(20))
    assert len(await store.resources(RUN)) == 10


async def test_cancelling_and_finishing_from_two_processes_never_fails(store, other, make_rollout):
    for _ in range(5):
        rollouts = await claimed(store, make_rollout, 20)
        ids = [rollout.rollout_id for rollout in rollouts]
        ending = [store.finish(rollout.attempt.attempt_id, SUCCEEDED) for rollout in rollouts]
        await asyncio.gather(*ending, other.cancel(RUN, ids[::-1]), other.expire(RUN, 60.0))
        ended = {result.rollout.status for result in await store.results(ids)}
        assert ended <= {RolloutStatus.SUCCEEDED, RolloutStatus.CANCELLED}


async def test_a_wait_sees_what_another_process_ended(store, other, make_rollout):
    (rollout,) = await claimed(store, make_rollout, 1)
    waiting = asyncio.ensure_future(other.wait_ended([rollout.rollout_id], 5.0))
    await store.finish(rollout.attempt.attempt_id, SUCCEEDED)
    left = await waiting
    assert left == 0 or await other.wait_ended([rollout.rollout_id], 5.0) == 0


async def test_a_read_sees_one_state_of_the_database(store, other, make_rollout):
    (rollout,) = await claimed(store, make_rollout, 1)
    loop, seen = asyncio.get_running_loop(), []

    def look(connection):
        status = "SELECT status FROM rollouts"
        seen.append(connection.execute(text(status)).scalar())
        asyncio.run_coroutine_threadsafe(other.finish(rollout.attempt.attempt_id, SUCCEEDED), loop).result(10)
        seen.append(connection.execute(text(status)).scalar())

    await store._read(look)
    assert seen == ["running", "running"]
    (result,) = await store.results([rollout.rollout_id])
    assert result.rollout.status == RolloutStatus.SUCCEEDED


@pytest.mark.parametrize("sent", [{"a": "nul \0"}, {"half \ud83d": 1}, {"deep": ["\0", {"\ud83d": object()}]}])
async def test_any_text_is_kept(store, make_rollout, make_span, sent):
    (rollout,) = await claimed(store, make_rollout, 1, data={"q": "nul \0"})
    await store.add_events(RUN, [{"text": "nul \0"}])
    await store.finish(rollout.attempt.attempt_id, FAILED, error="nul \0, half \ud83d", spans=[make_span(rollout, attributes=sent)])
    (result,) = await store.results([rollout.rollout_id])
    assert (len(result.spans), result.rollout.attempt.error) == (1, "nul \\0, half \\ud83d")
    assert result.rollout.task.data == {"q": "nul \0"}
    assert await store.journal(RUN) == [{"text": "nul \0"}]


async def test_late_rewards_are_counted_by_run(store, make_rollout):
    late, early = await claimed(store, make_rollout, 2)
    for rollout, details in ((late, {LATE: True}), (late, {LATE: True}), (early, {"why": '"late" is a word'})):
        await store.add_rewards(rollout.attempt.attempt_id, [Reward(value=1.0, details=details)])
    assert await store.late_rewards() == {RUN: 1}


def test_a_long_id_is_kept(store):
    assert isinstance(store, PostgreSQLStore)
    name = "run-" + "x" * 300

    async def keep():
        import msgspec

        await store.create_run(msgspec.structs.replace(await store.run(RUN), run_id=name))
        return (await store.run(name)).run_id

    assert asyncio.run(keep()) == name
