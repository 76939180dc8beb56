"""The SQL store, whatever the database: `sqlite.py` and `postgresql.py` open theirs.

Every method is atomic and returns when its transaction is committed. Claiming is one `UPDATE … RETURNING`; a final
status stays final.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row, insert, inspect, select, text, update

from agl.errors import NotFoundError, StoreError
from agl.resources import Resource, Resources
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import AttemptStatus, Failure, Rollout, RolloutStatus, new_id
from agl.spans import Span
from agl.store import operations, schema
from agl.store.base import POLL_SECONDS, Counts, RunRecord, Store
from agl.store.database import Database
from agl.store.encoding import encode, printable
from agl.store.statements import Statements
from agl.store.waiting import Signal, Watch
from agl.store.writer import Writer

T = TypeVar("T")


class SQLStore(Store):
    """A store in an SQL database; its tables are made or migrated where needed.

    Args:
        database: taken over, and closed with the store.
        folder: below it runs keep their files; `.agl` unless told.

    Raises:
        StoreError: the database cannot be opened, or is of a newer schema.
    """

    def __init__(self, database: Database, folder: Path | None = None) -> None:
        self._database, self.where = database, database.where
        self.folder = folder or self.folder
        try:
            with database.writing.begin() as connection:
                _migrate(connection, database)
        except BaseException as error:
            database.close()
            if isinstance(error, Exception) and (said := database.readable(error)) is not error:
                raise said from error
            raise
        self._sql = Statements(database.writing.dialect)
        self._writer = Writer(database)
        # Threads of its own: agents that hang in the loop's default pool must not stop reads.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="agl-store-read")
        self._queued = Signal()
        self._watches: set[Watch] = set()

    def close(self) -> None:
        """Finish writing and let go of the database."""
        self._writer.close()
        self._readers.shutdown()
        self._database.close()

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        def transaction() -> T:
            with self._database.reading.begin() as connection:
                return operation(connection)

        def work() -> T:
            try:
                return self._database.insist(transaction)
            except Exception as error:
                if (said := self._database.readable(error)) is error:
                    raise
                raise said from error

        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, work)
        except RuntimeError as error:  # the threads were let go
            raise StoreError(f"store `{self.where}` is closed") from error
        return await reading

    # Runs and resources.

    async def create_run(self, record: RunRecord) -> None:
        """Keep a new run."""
        await self._writer.run(lambda c: c.execute(insert(schema.runs).values(**_run_values(record))) and None)

    async def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        rows = await self._read(lambda c: c.execute(select(schema.runs).order_by(schema.runs.c.created_at)).all())
        return [_run(row) for row in rows]

    async def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            NotFoundError: there is none of that id.
        """
        row = await self._read(lambda c: c.execute(select(schema.runs).where(schema.runs.c.run_id == run_id)).first())
        if row is None:
            known = [record.run_id for record in await self.runs()]
            raise NotFoundError(f"no run `{run_id}` in store `{self.where}`; it has {known[-10:] or 'none'}")
        return _run(row)

    async def update_run(self, run_id: str, **values: Any) -> None:
        """Set a run's `status` or `step`."""
        await self._writer.run(lambda c: c.execute(update(schema.runs).where(schema.runs.c.run_id == run_id).values(**values)) and None)

    async def publish(self, run_id: str, values: Mapping[str, Resource], *, version: int | None = None) -> Resources:
        """A new version with these resources; names that are not given are kept from the newest."""

        def operation(connection: Connection) -> Resources:
            connection.execute(
                select(schema.runs.c.run_id).where(schema.runs.c.run_id == run_id).with_for_update(key_share=True)
            )  # one at a time
            newest = _newest_resources(connection, run_id)
            made = Resources(
                version=version if version is not None else (0 if newest is None else newest.version + 1),
                values={**({} if newest is None else newest.values), **values},
                resources_id=new_id("rs"),
            )
            connection.execute(
                insert(schema.resources).values(
                    run_id=run_id,
                    version=made.version,
                    resources_id=made.resources_id,
                    created_at=time.time(),
                    body=msgspec.json.encode(made),
                )
            )
            return made

        return await self._writer.run(operation)

    async def resources(self, run_id: str, version: int | None = None) -> Resources:
        """One version of a run's resources; the newest when none is named.

        Raises:
            NotFoundError: there is no such version.
        """
        found = await self._read(lambda c: _newest_resources(c, run_id, version))
        if found is None:
            raise NotFoundError(f"run `{run_id}` has no resources version `{version if version is not None else 'newest'}`")
        return found

    async def add_events(self, run_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events to a run's journal.

        Raises:
            NotFoundError: there is no such run.
        """
        rows = [{"run_id": run_id, "body": encode(event)} for event in events]
        await self._writer.run(lambda c: operations.add_events(c, rows))

    async def journal(self, run_id: str) -> list[dict[str, Any]]:
        """All events of a run's journal, in the order in which they were added."""
        table = schema.journal
        query = select(table.c.body).where(table.c.run_id == run_id).order_by(table.c.number)
        return [msgspec.json.decode(body) for body in await self._read(lambda c: c.execute(query).scalars().all())]

    # Rollouts and attempts.

    async def enqueue(self, rollouts: Sequence[Rollout]) -> None:
        """Ask for rollouts; they are claimed first in, first out."""
        if rollouts:
            rows = [operations.rollout_row(rollout) for rollout in rollouts]
            await self._writer.run(lambda c: c.execute(insert(schema.rollouts), rows) and None)
            self._queued.notify()

    async def claim(self, run_id: str, worker_id: str, limit: int = 1) -> list[Rollout]:
        """Up to `limit` of the oldest queued rollouts, each with a new attempt on it, for this worker alone."""
        return await self._writer.run(lambda c: operations.claim(c, self._sql, run_id, worker_id, limit))

    def work_mark(self) -> int:
        """Read before `claim`, for `wait_for_work`."""
        return self._queued.count

    async def wait_for_work(self, mark: int, timeout: float = POLL_SECONDS) -> None:
        """Return when rollouts may have been queued since `mark`; those of other processes are seen after `timeout` seconds."""
        await self._queued.wait(mark, timeout)

    async def heartbeat(self, attempt_ids: Sequence[str]) -> set[str]:
        """Say that the worker of these attempts is alive; returns those that have not been ended from elsewhere."""
        return await self._writer.run(lambda c: operations.beat(c, attempt_ids))

    def post_heartbeat(self, attempt_ids: Sequence[str], alive: Callable[[set[str]], None]) -> None:
        """As `heartbeat`, from any thread: `alive` is told, in the store's own thread, which have not been ended."""
        self._writer.post(lambda c: alive(operations.beat(c, attempt_ids)))

    async def add_spans(self, spans: Sequence[Span]) -> None:
        """Keep spans; one that is there already is skipped.

        Raises:
            NotFoundError: no such attempt.
        """
        rows = [operations.span_row(span) for span in spans]
        await self._writer.run(lambda c: operations.add_spans(c, self._sql, rows))

    async def add_rewards(self, attempt_id: str, rewards: Sequence[Reward]) -> None:
        """Keep rewards, also of an attempt that has ended: judgements may come late.

        Raises:
            NotFoundError: no such attempt.
        """
        rows = [operations.reward_row(reward, attempt_id) for reward in rewards]
        await self._writer.run(lambda c: operations.add_rewards(c, self._sql, rows))

    async def finish(
        self,
        attempt_id: str,
        status: AttemptStatus,
        *,
        failure: Failure | None = None,
        error: str | None = None,
        output: Any = None,
        spans: Sequence[Span] = (),
        rewards: Sequence[Reward] = (),
        retry: bool | None = None,
    ) -> RolloutStatus | None:
        """End an attempt with all it recorded, in one transaction; a failure of the infrastructure is queued again while attempts are left.

        Args:
            retry: whether it is queued again while attempts are left; None when a failure of the infrastructure is, and nothing else.

        Returns:
            The rollout's status after it; None when the attempt had ended before, in which case nothing is changed.
        """
        now = time.time()
        outcome = {
            "new_status": str(status),
            "new_ended_at": now,
            "new_failure": failure and str(failure),
            "new_error": error and printable(error),
            "new_output": msgspec.json.encode(output),
        }
        span_rows = [operations.span_row(span) for span in spans]
        reward_rows = [operations.reward_row(reward, attempt_id) for reward in rewards]
        again = failure == Failure.INFRASTRUCTURE if retry is None else retry

        def operation(connection: Connection) -> tuple[str, RolloutStatus | None] | None:
            ended = self._sql.end_attempt(connection, attempt=attempt_id, **outcome)
            if not ended:
                return None
            rollout_id: str = ended[0][0]
            operations.add_spans(connection, self._sql, span_rows)
            self._sql.add_rewards.many(connection, reward_rows)
            return rollout_id, operations.end_rollout(connection, self._sql, rollout_id, status, again, now)

        found = await self._writer.run(operation)
        if found is None:
            return None
        self._tell({found[0]: found[1]})
        return found[1]

    async def expire(self, run_id: str, silent_seconds: float, *, retry: bool = True) -> int:
        """End attempts whose worker has been silent for so long as lost; returns how many."""
        lost = await self._writer.run(lambda c: operations.expire(c, self._sql, run_id, silent_seconds, retry))
        self._tell(lost)
        return len(lost)

    async def cancel(self, run_id: str, rollout_ids: Sequence[str] | None = None) -> None:
        """Cancel a run's rollouts that have not ended (all of them, or those named), and their attempts.

        Their workers hear of it with the next heartbeat.
        """
        cancelled = await self._writer.run(lambda c: operations.cancel(c, run_id, rollout_ids))
        self._tell(dict.fromkeys(cancelled, RolloutStatus.CANCELLED))

    def _tell(self, changed: Mapping[str, RolloutStatus | None]) -> None:
        """Wake who waits for rollouts that are queued again or have ended."""
        if RolloutStatus.QUEUED in changed.values():
            self._queued.notify()
        ended = [rollout_id for rollout_id, status in changed.items() if status != RolloutStatus.QUEUED]
        for watch in list(self._watches):
            watch.ended(ended)

    async def wait_ended(self, rollout_ids: Sequence[str], timeout: float = POLL_SECONDS) -> int:
        """Return when all of these rollouts have ended, or after `timeout` seconds: how many have not.

        It waits at most a second at a time, since rollouts that end in another process wake nobody here.
        """
        watch = Watch(rollout_ids)
        self._watches.add(watch)  # before the look: what ends meanwhile is not missed
        try:
            open_ = await self._read(lambda c: operations.still_open(c, rollout_ids))
            watch.ended(set(rollout_ids) - open_)
            await watch.wait(min(timeout, POLL_SECONDS))
        finally:
            self._watches.discard(watch)
        return len(watch.left)

    async def results(self, rollout_ids: Sequence[str]) -> list[RolloutResult]:
        """Rollouts with their latest attempt, its spans and rewards, in the order asked for.

        Raises:
            NotFoundError: one of them does not exist.
        """
        return await self._read(lambda c: list(operations.results(c, rollout_ids)))

    async def find(self, run_id: str, *, mode: str | None = None, step: int | None = None, rollout_id: str | None = None) -> list[str]:
        """Ids of a run's rollouts, oldest first."""
        table = schema.rollouts
        wanted = {"mode": mode, "step": step, "rollout_id": rollout_id}
        query = select(table.c.rollout_id).where(
            table.c.run_id == run_id, *(table.c[name] == value for name, value in wanted.items() if value is not None)
        )
        return await self._read(lambda c: list(c.execute(query.order_by(table.c.number)).scalars()))

    async def late_rewards(self) -> dict[str, int]:
        """How many rollouts of each run have a reward that came when its step was over, newest run last."""
        return await self._read(operations.late_rewards)

    async def restore(self, results: Sequence[RolloutResult]) -> None:
        """Keep rollouts that have ended elsewhere as they are.

        Raises:
            StoreError: one of them is there already; then none of them is kept.
        """
        if results:
            await self._writer.run(lambda c: operations.restore(c, self._sql, results))

    async def counts(self, run_id: str) -> Counts:
        """How many rollouts and failed attempts a run has."""
        return await self._read(lambda c: operations.counts(c, run_id))


def _migrate(connection: Connection, database: Database) -> None:
    database.lock_schema(connection)
    tables = inspect(connection).get_table_names()
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if "alembic_version" in tables else None
    if found == schema.HEAD:
        return
    if (found is None and "runs" in tables) or (found is not None and not found.isdecimal()):
        raise StoreError(
            f"store `{database.where}` holds the tables of another program (its schema is `{found}`); "
            "name a database of AGL's own (`store=`, `--store`)"
        )
    if found is not None and found > schema.HEAD:
        raise StoreError(
            f"store `{database.where}` has schema `{found}`, this agl-core knows `{schema.HEAD}`: "
            "upgrade agl-core, or name another store (`store=`, `--store`)"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _run_values(record: RunRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("run_id", "created_at", "status", "step")} | {"body": msgspec.json.encode(record)}


def _run(row: Row[Any]) -> RunRecord:
    return msgspec.structs.replace(msgspec.json.decode(row.body, type=RunRecord), status=row.status, step=row.step)


def _newest_resources(connection: Connection, run_id: str, version: int | None = None) -> Resources | None:
    table = schema.resources
    query = select(table.c.body).where(table.c.run_id == run_id).order_by(table.c.version.desc()).limit(1)
    body = connection.execute(query if version is None else query.where(table.c.version == version)).scalar()
    return None if body is None else msgspec.json.decode(body, type=Resources)
