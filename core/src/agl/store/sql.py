"""The SQL store: SQLite (WAL) in one file.

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
from sqlalchemy import Connection, Row, create_engine, event, func, insert, inspect, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from agl.errors import NotFoundError, StoreError
from agl.resources import Resource, Resources
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout, RolloutStatus, new_id
from agl.spans import Span
from agl.store import schema
from agl.store.writer import Writer, readable

T = TypeVar("T")
LOCK_SECONDS = 15.0
"""How long a write waits for another process."""
POLL_SECONDS = 1.0
"""How often a wait looks for what other processes did; this process's own changes wake it at once."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps of a run."""

    run_id: str
    created_at: float
    status: str
    """`running`, `stopped`, `done` or `failed`."""
    step: int
    """Steps that are finished and checkpointed."""
    seed: int
    config: dict[str, Any]
    command: list[str]
    """Command line that started it, for `agl train --resume`."""
    folder: str
    """Working directory of that command."""
    directory: str
    """Where its metrics, checkpoints and reports are."""


class SQLStore:
    """Opens, and where needed creates or migrates, a store.

    Args:
        path: of the SQLite file; folders are made.

    Raises:
        StoreError: locked, not a database, or of a newer schema.
    """

    def __init__(self, path: str | Path = ".agl/store.sqlite") -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(f"sqlite:///{self.path}", connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        self._write_engine = self._engine.execution_options(agl_write=True)
        try:
            with self._write_engine.begin() as connection:
                _migrate(connection, self.path)
        except SQLAlchemyError as error:
            raise readable(error, str(self.path)) from error
        self._writer = Writer(self._write_engine, str(self.path))
        # Threads of its own: agents that hang in the loop's default pool must not stop reads.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="agl-store-read")
        self._queued = _Signal()
        self._ended = _Signal()

    def close(self) -> None:
        """Finish writing and let go of the file."""
        self._writer.close()
        self._readers.shutdown()
        self._engine.dispose()

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(operation))

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        def work() -> T:
            try:
                with self._engine.begin() as connection:
                    return operation(connection)
            except SQLAlchemyError as error:
                raise readable(error, str(self.path)) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    # Runs and resources.

    async def create_run(self, record: RunRecord) -> None:
        """Keep a new run."""
        await self._write(lambda c: c.execute(insert(schema.runs).values(**_run_values(record))) and None)

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
            raise NotFoundError(f"no run `{run_id}` in store `{self.path}`; it has {known[-10:] or 'none'}")
        return _run(row)

    async def update_run(self, run_id: str, **values: Any) -> None:
        """Set a run's `status` or `step`."""
        await self._write(lambda c: c.execute(update(schema.runs).where(schema.runs.c.run_id == run_id).values(**values)) and None)

    async def publish(self, run_id: str, values: Mapping[str, Resource], *, version: int | None = None) -> Resources:
        """A new version with these resources; names that are not given are kept from the newest."""

        def operation(connection: Connection) -> Resources:
            newest = _newest_resources(connection, run_id)
            made = Resources(
                version=version if version is not None else (0 if newest is None else newest.version + 1),
                values={**({} if newest is None else newest.values), **values},
                resources_id=new_id("rs"),
            )
            connection.execute(
                insert(schema.resources).values(
                    run_id=run_id, version=made.version, resources_id=made.resources_id, created_at=time.time(), body=msgspec.json.encode(made)
                )
            )
            return made

        return await self._write(operation)

    async def resources(self, run_id: str, version: int | None = None) -> Resources:
        """One version of a run's resources; the newest when none is named.

        Raises:
            NotFoundError: there is no such version.
        """
        found = await self._read(lambda c: _newest_resources(c, run_id, version))
        if found is None:
            raise NotFoundError(f"run `{run_id}` has no resources version `{version if version is not None else 'newest'}`")
        return found

    # Rollouts and attempts.

    async def enqueue(self, rollouts: Sequence[Rollout]) -> None:
        """Ask for rollouts; they are claimed first in, first out."""
        rows = [
            {
                "rollout_id": rollout.rollout_id,
                "run_id": rollout.run_id,
                "group_id": rollout.group_id,
                "mode": str(rollout.mode),
                "step": rollout.step,
                "status": str(RolloutStatus.QUEUED),
                "body": msgspec.json.encode(rollout),
            }
            for rollout in rollouts
        ]
        await self._write(lambda c: c.execute(insert(schema.rollouts), rows) and None)
        self._queued.notify()

    async def claim(self, run_id: str, worker_id: str, limit: int = 1) -> list[Rollout]:
        """Up to `limit` of the oldest queued rollouts, each with a new attempt on it, for this worker alone."""

        def operation(connection: Connection) -> list[Rollout]:
            table = schema.rollouts
            oldest = (
                select(table.c.number)
                .where(table.c.run_id == run_id, table.c.status == RolloutStatus.QUEUED)
                .order_by(table.c.number)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            claimed = connection.execute(
                update(table).where(table.c.number.in_(oldest)).values(status=str(RolloutStatus.RUNNING)).returning(table)
            ).all()
            return [_new_attempt(connection, row, worker_id) for row in sorted(claimed, key=lambda row: row.number)]

        return await self._write(operation)

    async def wait_for_work(self, timeout: float = POLL_SECONDS) -> None:
        """Return when rollouts may have been queued: at once for this process's own, else after `timeout` seconds."""
        await self._queued.wait(timeout)

    async def heartbeat(self, attempt_ids: Sequence[str]) -> None:
        """Say that the workers of these attempts are alive."""
        table = schema.attempts
        await self._write(
            lambda c: c.execute(update(table).where(table.c.attempt_id.in_(attempt_ids)).values(heartbeat_at=time.time())) and None
        )

    async def add_spans(self, spans: Sequence[Span]) -> None:
        """Keep spans; one that is there already is skipped.

        Raises:
            NotFoundError: no such attempt.
        """
        await self._write(lambda c: _insert_spans(c, spans))

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
    ) -> RolloutStatus | None:
        """End an attempt with all it recorded, in one transaction; a failure of the infrastructure is queued again while attempts are left.

        Returns:
            The rollout's status after it; None when the attempt had ended before, in which case nothing is changed.
        """

        def operation(connection: Connection) -> RolloutStatus | None:
            table, now = schema.attempts, time.time()
            ended = connection.execute(
                update(table)
                .where(table.c.attempt_id == attempt_id, table.c.status == AttemptStatus.RUNNING)
                .values(status=str(status), ended_at=now, failure=failure and str(failure), error=error, output=msgspec.json.encode(output))
                .returning(table.c.rollout_id, table.c.number)
            ).first()
            if ended is None:
                return None
            _insert_spans(connection, spans)
            if rewards:
                connection.execute(insert(schema.rewards), [{"attempt_id": attempt_id, "body": msgspec.json.encode(r)} for r in rewards])
            return _end_rollout(connection, ended.rollout_id, ended.number, status, failure, now)

        after = await self._write(operation)
        (self._queued if after == RolloutStatus.QUEUED else self._ended).notify()
        return after

    async def expire(self, run_id: str, silent_seconds: float) -> int:
        """End attempts whose worker has been silent for so long as lost; returns how many."""

        def operation(connection: Connection) -> int:
            table, now = schema.attempts, time.time()
            lost = connection.execute(
                update(table)
                .where(
                    table.c.status == AttemptStatus.RUNNING,
                    table.c.heartbeat_at < now - silent_seconds,
                    table.c.rollout_id.in_(select(schema.rollouts.c.rollout_id).where(schema.rollouts.c.run_id == run_id)),
                )
                .values(status=str(AttemptStatus.LOST), ended_at=now, failure=str(Failure.INFRASTRUCTURE), error="the worker went silent")
                .returning(table.c.rollout_id, table.c.number)
            ).all()
            for row in lost:
                _end_rollout(connection, row.rollout_id, row.number, AttemptStatus.LOST, Failure.INFRASTRUCTURE, now)
            return len(lost)

        count = await self._write(operation)
        if count:
            self._queued.notify()
            self._ended.notify()
        return count

    async def cancel(self, run_id: str, rollout_ids: Sequence[str] | None = None) -> None:
        """Cancel a run's rollouts that have not ended (all of them, or those named), and their attempts."""

        def operation(connection: Connection) -> None:
            now, table = time.time(), schema.rollouts
            open_ = [table.c.run_id == run_id, table.c.status.in_([RolloutStatus.QUEUED, RolloutStatus.RUNNING])]
            if rollout_ids is not None:
                open_.append(table.c.rollout_id.in_(rollout_ids))
            found = connection.execute(
                update(table).where(*open_).values(status=str(RolloutStatus.CANCELLED), ended_at=now).returning(table.c.rollout_id)
            ).scalars()
            connection.execute(
                update(schema.attempts)
                .where(schema.attempts.c.rollout_id.in_(found.all()), schema.attempts.c.status == AttemptStatus.RUNNING)
                .values(status=str(AttemptStatus.CANCELLED), ended_at=now, failure=str(Failure.CANCELLED))
            )

        await self._write(operation)
        self._ended.notify()

    async def wait_ended(self, rollout_ids: Sequence[str], timeout: float) -> int:
        """Return when one of these rollouts may have ended, or after `timeout` seconds: how many have not ended."""
        await self._ended.wait(min(timeout, POLL_SECONDS))
        table = schema.rollouts
        query = select(func.count()).where(table.c.rollout_id.in_(rollout_ids), table.c.ended_at.is_(None))
        return await self._read(lambda c: c.execute(query).scalar_one())

    async def results(self, rollout_ids: Sequence[str]) -> list[RolloutResult]:
        """Rollouts with their latest attempt, its spans and rewards, in the order asked for."""
        return await self._read(lambda c: [_result(c, rollout_id) for rollout_id in rollout_ids])

    async def find(self, run_id: str, *, mode: str | None = None, step: int | None = None, rollout_id: str | None = None) -> list[str]:
        """Ids of a run's rollouts, oldest first."""
        table = schema.rollouts
        wanted = {"mode": mode, "step": step, "rollout_id": rollout_id}
        query = select(table.c.rollout_id).where(
            table.c.run_id == run_id, *(table.c[name] == value for name, value in wanted.items() if value is not None)
        )
        return await self._read(lambda c: list(c.execute(query.order_by(table.c.number)).scalars()))


class _Signal:
    """Wakes coroutines of one or several event loops that wait for a change."""

    def __init__(self) -> None:
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def notify(self) -> None:
        for loop, event_ in list(self._waiters):
            loop.call_soon_threadsafe(event_.set)

    async def wait(self, timeout: float) -> None:
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter[1].wait(), timeout)
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, see _on_begin
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # A write takes its lock at once: a transaction that reads first and then writes could only fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("agl_write") else "BEGIN")


def _migrate(connection: Connection, path: Path) -> None:
    tables = inspect(connection).get_table_names()
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if "alembic_version" in tables else None
    if found == schema.HEAD:
        return
    if found is None and "runs" in tables or found is not None and found > schema.HEAD:
        raise StoreError(
            f"store `{path}` has schema `{found}`, this agl-core knows `{schema.HEAD}`: upgrade agl-core, or name another store (`store=`, `--store`)"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
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


def _new_attempt(connection: Connection, row: Row[Any], worker_id: str) -> Rollout:
    table, now = schema.attempts, time.time()
    before = connection.execute(select(func.count()).where(table.c.rollout_id == row.rollout_id)).scalar_one()
    attempt = Attempt(
        attempt_id=new_id("at"), rollout_id=row.rollout_id, number=before + 1, worker_id=worker_id, started_at=now, heartbeat_at=now
    )
    values = msgspec.structs.asdict(attempt) | {"status": str(attempt.status), "output": None}
    connection.execute(insert(table).values(**values))
    rollout = msgspec.json.decode(row.body, type=Rollout)
    return msgspec.structs.replace(rollout, status=RolloutStatus.RUNNING, attempt=attempt)


def _end_rollout(
    connection: Connection, rollout_id: str, number: int, status: AttemptStatus, failure: Failure | None, now: float
) -> RolloutStatus:
    table = schema.rollouts
    body = connection.execute(select(table.c.body).where(table.c.rollout_id == rollout_id)).scalar_one()
    attempts_left = number < msgspec.json.decode(body, type=Rollout).max_attempts
    if failure == Failure.INFRASTRUCTURE and attempts_left:
        after, ended_at = RolloutStatus.QUEUED, None
    elif status == AttemptStatus.SUCCEEDED:
        after, ended_at = RolloutStatus.SUCCEEDED, now
    else:
        after, ended_at = (RolloutStatus.CANCELLED if status == AttemptStatus.CANCELLED else RolloutStatus.FAILED), now
    running = table.c.status == RolloutStatus.RUNNING  # a final status stays final
    connection.execute(update(table).where(table.c.rollout_id == rollout_id, running).values(status=str(after), ended_at=ended_at))
    return after


def _insert_spans(connection: Connection, spans: Sequence[Span]) -> None:
    if not spans:
        return
    attempts = {span.attempt_id for span in spans}
    known = set(connection.execute(select(schema.attempts.c.attempt_id).where(schema.attempts.c.attempt_id.in_(attempts))).scalars())
    if attempts - known:
        raise NotFoundError(f"no attempt {sorted(attempts - known)}")
    rows = [{"attempt_id": span.attempt_id, "span_id": span.span_id, "body": msgspec.json.encode(span)} for span in spans]
    connection.execute(_INSERT_SPANS, rows)


# Built once: building the statement costs more than running it.
_INSERT_SPANS = insert(schema.spans).prefix_with("OR IGNORE", dialect="sqlite")


def _result(connection: Connection, rollout_id: str) -> RolloutResult:
    row = connection.execute(select(schema.rollouts).where(schema.rollouts.c.rollout_id == rollout_id)).first()
    if row is None:
        raise NotFoundError(f"no rollout `{rollout_id}`")
    found = connection.execute(
        select(schema.attempts).where(schema.attempts.c.rollout_id == rollout_id).order_by(schema.attempts.c.number.desc()).limit(1)
    ).first()
    rollout = msgspec.json.decode(row.body, type=Rollout)
    if found is None:
        return RolloutResult(rollout=msgspec.structs.replace(rollout, status=RolloutStatus(row.status), ended_at=row.ended_at))
    output = msgspec.json.decode(found.output) if found.output else None
    attempt = msgspec.convert({str(name): value for name, value in found._mapping.items()} | {"output": output}, Attempt)
    spans = connection.execute(select(schema.spans.c.body).where(schema.spans.c.attempt_id == attempt.attempt_id)).scalars()
    rewards = connection.execute(
        select(schema.rewards.c.body).where(schema.rewards.c.attempt_id == attempt.attempt_id).order_by(schema.rewards.c.number)
    ).scalars()
    return RolloutResult(
        rollout=msgspec.structs.replace(rollout, status=RolloutStatus(row.status), ended_at=row.ended_at, attempt=attempt),
        spans=tuple(sorted((msgspec.json.decode(body, type=Span) for body in spans), key=lambda span: span.started_at)),
        rewards=tuple(msgspec.json.decode(body, type=Reward) for body in rewards),
    )
