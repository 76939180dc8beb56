"""What each operation on rollouts and attempts does inside its transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from agl.errors import NotFoundError, StoreError
from agl.results import RolloutResult
from agl.rewards import LATE, Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout, RolloutStatus, new_id
from agl.spans import Span
from agl.store import schema
from agl.store.base import Counts
from agl.store.encoding import encode, printable, span_json
from agl.store.statements import Statements

IDS = 500
"""Most ids named in one query: databases limit the number of parameters."""

_rollout = msgspec.json.Decoder(Rollout).decode
_span = msgspec.json.Decoder(Span).decode
_reward = msgspec.json.Decoder(Reward).decode
_LATE = f'"{LATE}"'.encode()


def add_events(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Keep events of a run's journal."""
    if rows:
        try:
            connection.execute(insert(schema.journal), rows)
        except IntegrityError as error:
            raise NotFoundError(f"no run `{rows[0]['run_id']}`") from error


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """A new rollout as a row."""
    return {
        "rollout_id": rollout.rollout_id,
        "run_id": rollout.run_id,
        "group_id": rollout.group_id,
        "mode": str(rollout.mode),
        "step": rollout.step,
        "status": str(RolloutStatus.QUEUED),
        "attempts": 0,
        "max_attempts": rollout.max_attempts,
        "body": encode(rollout),
    }


def span_row(span: Span) -> dict[str, Any]:
    """A span as a row."""
    return {"attempt_id": span.attempt_id, "span_id": span.span_id, "body": span_json(span)}


def reward_row(reward: Reward, attempt_id: str) -> dict[str, Any]:
    """A reward as a row."""
    return {"attempt_id": attempt_id, "body": encode(reward)}


def claim(connection: Connection, sql: Statements, run_id: str, worker_id: str, limit: int) -> list[Rollout]:
    """The oldest queued rollouts, each with a new attempt on it."""
    now = time.time()
    claimed: list[Rollout] = []
    rows: list[dict[str, Any]] = []
    for _, rollout_id, number, body in sorted(sql.claim(connection, run=run_id, most=limit)):
        attempt = Attempt(
            attempt_id=new_id("at"), rollout_id=rollout_id, number=number, worker_id=worker_id, started_at=now, heartbeat_at=now
        )
        rows.append(
            {
                "attempt_id": attempt.attempt_id,
                "rollout_id": rollout_id,
                "number": number,
                "worker_id": worker_id,
                "status": str(attempt.status),
                "started_at": now,
                "heartbeat_at": now,
            }
        )
        claimed.append(msgspec.structs.replace(_rollout(body), status=RolloutStatus.RUNNING, attempt=attempt))
    sql.add_attempts.many(connection, rows)
    return claimed


def restore(connection: Connection, sql: Statements, found: Sequence[RolloutResult]) -> None:
    """Keep rollouts that have ended elsewhere, each with its attempt, spans and rewards."""
    ids = [result.rollout.rollout_id for result in found]
    table = schema.rollouts
    for some in chunks(ids):
        known = connection.execute(select(table.c.rollout_id).where(table.c.rollout_id.in_(some))).scalars().first()
        if known is not None:
            raise StoreError(f"rollout `{known}` is there already: what is restored must be new to the store")
    attempts = [(result, result.rollout.attempt) for result in found if result.rollout.attempt is not None]
    connection.execute(insert(table), [_ended_row(result.rollout) for result in found])
    if attempts:
        connection.execute(insert(schema.attempts), [_attempt_row(attempt) for _, attempt in attempts])
    add_spans(connection, sql, [span_row(span) for result, _ in attempts for span in result.spans])
    add_rewards(connection, sql, [reward_row(reward, attempt.attempt_id) for result, attempt in attempts for reward in result.rewards])


def _ended_row(rollout: Rollout) -> dict[str, Any]:
    number = rollout.attempt.number if rollout.attempt else 0
    body = msgspec.structs.replace(rollout, attempt=None)
    return {**rollout_row(body), "status": str(rollout.status), "attempts": number, "ended_at": rollout.ended_at}


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    names = ("attempt_id", "rollout_id", "number", "worker_id", "started_at", "heartbeat_at", "ended_at")
    return {
        **{name: getattr(attempt, name) for name in names},
        "status": str(attempt.status),
        "failure": attempt.failure and str(attempt.failure),
        "error": attempt.error and printable(attempt.error),
        "output": encode(attempt.output),
    }


def add_spans(connection: Connection, sql: Statements, rows: Sequence[dict[str, Any]]) -> None:
    """Keep spans; one that is there already is skipped."""
    try:
        sql.add_spans.many(connection, rows)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise NotFoundError(f"no such attempt among {sorted({row['attempt_id'] for row in rows})}") from error


def add_rewards(connection: Connection, sql: Statements, rows: Sequence[dict[str, Any]]) -> None:
    """Keep rewards of an attempt, also of one that has ended."""
    try:
        sql.add_rewards.many(connection, rows)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise NotFoundError(f"no attempt `{rows[0]['attempt_id']}`") from error


def end_rollout(
    connection: Connection, sql: Statements, rollout_id: str, status: AttemptStatus, retry: bool, now: float
) -> RolloutStatus | None:
    """The rollout's status after an attempt on it ended; None when it had ended before."""
    ends = {AttemptStatus.SUCCEEDED: RolloutStatus.SUCCEEDED, AttemptStatus.CANCELLED: RolloutStatus.CANCELLED}
    after = ends.get(status, RolloutStatus.FAILED)
    rows = sql.end_rollout(connection, rollout=rollout_id, retry=retry, after=str(after), now=now)
    return RolloutStatus(rows[0][0]) if rows else None


def expire(connection: Connection, sql: Statements, run_id: str, silent_seconds: float, retry: bool) -> dict[str, RolloutStatus]:
    """End attempts whose workers are silent: the status after it of each rollout that it touched."""
    table, now = schema.attempts, time.time()
    lost = connection.execute(
        update(table)
        .where(
            table.c.status == str(AttemptStatus.RUNNING),
            table.c.heartbeat_at < now - silent_seconds,
            table.c.rollout_id.in_(select(schema.rollouts.c.rollout_id).where(schema.rollouts.c.run_id == run_id)),
        )
        .values(
            status=str(AttemptStatus.LOST),
            ended_at=now,
            failure=str(Failure.INFRASTRUCTURE),
            error=f"the worker was silent for more than {silent_seconds:g} s",
        )
        .returning(table.c.rollout_id)
    ).scalars()
    ended = {rollout_id: end_rollout(connection, sql, rollout_id, AttemptStatus.LOST, retry, now) for rollout_id in lost.all()}
    return {rollout_id: status for rollout_id, status in ended.items() if status is not None}


def cancel(connection: Connection, run_id: str, rollout_ids: Sequence[str] | None) -> list[str]:
    """Cancel rollouts that have not ended, and their attempts: the ids of those."""
    now, table = time.time(), schema.rollouts
    cancelled: list[str] = []
    for ids in [None] if rollout_ids is None else chunks(rollout_ids):
        open_ = [table.c.run_id == run_id, table.c.status.in_([str(RolloutStatus.QUEUED), str(RolloutStatus.RUNNING)])]
        if ids is not None:
            open_.append(table.c.rollout_id.in_(ids))
        change = update(table).where(*open_).values(status=str(RolloutStatus.CANCELLED), ended_at=now).returning(table.c.rollout_id)
        cancelled += connection.execute(change).scalars().all()
    for ids in chunks(cancelled):
        connection.execute(
            update(schema.attempts)
            .where(schema.attempts.c.rollout_id.in_(ids), schema.attempts.c.status == str(AttemptStatus.RUNNING))
            .values(status=str(AttemptStatus.CANCELLED), ended_at=now, failure=str(Failure.CANCELLED))
        )
    return cancelled


def beat(connection: Connection, attempt_ids: Sequence[str]) -> set[str]:
    """Note that these attempts' worker is alive: those of them that have not ended."""
    table, alive = schema.attempts, set[str]()
    for ids in chunks(attempt_ids):
        running = (table.c.attempt_id.in_(ids), table.c.status == str(AttemptStatus.RUNNING))
        beating = update(table).where(*running).values(heartbeat_at=time.time()).returning(table.c.attempt_id)
        alive.update(connection.execute(beating).scalars())
    return alive


def still_open(connection: Connection, rollout_ids: Sequence[str]) -> set[str]:
    """Those that have not ended."""
    table, found = schema.rollouts, set[str]()
    for ids in chunks(rollout_ids):
        found.update(
            connection.execute(select(table.c.rollout_id).where(table.c.rollout_id.in_(ids), table.c.ended_at.is_(None))).scalars()
        )
    return found


def results(connection: Connection, rollout_ids: Sequence[str]) -> Iterator[RolloutResult]:
    """Rollouts with their latest attempt, its spans and rewards, in the order asked for: three queries for many of them."""
    for ids in chunks(rollout_ids):
        rows = {row.rollout_id: row for row in connection.execute(_WITH_ATTEMPT.where(schema.rollouts.c.rollout_id.in_(ids)))}
        if missing := [rollout_id for rollout_id in ids if rollout_id not in rows]:
            raise NotFoundError(f"no rollout `{missing[0]}`")
        attempts = [row.attempt_id for row in rows.values() if row.attempt_id is not None]
        spans = _bodies(connection, schema.spans, attempts)
        rewards = _bodies(connection, schema.rewards, attempts)
        for rollout_id in ids:
            row = rows[rollout_id]
            yield RolloutResult(
                rollout=_with_attempt(row),
                spans=tuple(sorted(map(_span, spans.get(row.attempt_id, ())), key=lambda span: span.started_at)),
                rewards=tuple(map(_reward, rewards.get(row.attempt_id, ()))),
            )


def counts(connection: Connection, run_id: str) -> Counts:
    """Rollouts by mode, and failed attempts by class and mode."""
    rollouts, attempts = schema.rollouts, schema.attempts
    per_mode = select(rollouts.c.mode, func.count()).where(rollouts.c.run_id == run_id).group_by(rollouts.c.mode)
    failed = (
        select(attempts.c.failure, rollouts.c.mode, func.count())
        .join(rollouts, rollouts.c.rollout_id == attempts.c.rollout_id)
        .where(rollouts.c.run_id == run_id, attempts.c.failure.is_not(None))
        .group_by(attempts.c.failure, rollouts.c.mode)
        .order_by(attempts.c.failure)
    )
    failures: dict[str, dict[str, int]] = {}
    for failure, mode, count in connection.execute(failed):
        failures.setdefault(failure, {})[mode] = count
    return Counts(rollouts={row[0]: row[1] for row in connection.execute(per_mode)}, failures=failures)


def late_rewards(connection: Connection) -> dict[str, int]:
    """Rollouts with late rewards, by run in the order of their runs' first rollouts."""
    rewards, attempts, rollouts = schema.rewards, schema.attempts, schema.rollouts
    query = (
        select(rollouts.c.run_id, rollouts.c.rollout_id, rewards.c.body)
        .join(attempts, attempts.c.attempt_id == rewards.c.attempt_id)
        .join(rollouts, rollouts.c.rollout_id == attempts.c.rollout_id)
        .order_by(rollouts.c.number)
    )
    if connection.dialect.name == "postgresql":  # a shared database may have very many, and the others need not travel
        query = query.where(text("position(CAST(:late AS bytea) in rewards.body) > 0").bindparams(late=_LATE))
    found: dict[str, set[str]] = {}
    for run_id, rollout_id, body in connection.execute(query):
        if _LATE in body and _reward(body).details.get(LATE) is True:
            found.setdefault(run_id, set()).add(rollout_id)
    return {run_id: len(ids) for run_id, ids in found.items()}


_WITH_ATTEMPT = select(
    schema.rollouts.c.rollout_id,
    schema.rollouts.c.body,
    schema.rollouts.c.status.label("rollout_status"),
    schema.rollouts.c.ended_at.label("rollout_ended_at"),
    *(column for column in schema.attempts.c if column.name != "rollout_id"),
).outerjoin(
    schema.attempts,
    and_(schema.attempts.c.rollout_id == schema.rollouts.c.rollout_id, schema.attempts.c.number == schema.rollouts.c.attempts),
)


def _with_attempt(row: Row[Any]) -> Rollout:
    attempt = None
    if row.attempt_id is not None:
        attempt = Attempt(
            attempt_id=row.attempt_id,
            rollout_id=row.rollout_id,
            number=row.number,
            worker_id=row.worker_id,
            status=AttemptStatus(row.status),
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
            ended_at=row.ended_at,
            failure=None if row.failure is None else Failure(row.failure),
            error=row.error,
            output=msgspec.json.decode(row.output) if row.output else None,
        )
    return msgspec.structs.replace(
        _rollout(row.body), status=RolloutStatus(row.rollout_status), ended_at=row.rollout_ended_at, attempt=attempt
    )


def _bodies(connection: Connection, table: Any, attempt_ids: Sequence[str]) -> dict[str, list[bytes]]:
    """Bodies of an attempt's rows, in the order they were written."""
    found: dict[str, list[bytes]] = {}
    query = select(table.c.attempt_id, table.c.body).where(table.c.attempt_id.in_(attempt_ids)).order_by(table.c.number)
    for attempt_id, body in connection.execute(query):
        found.setdefault(attempt_id, []).append(body)
    return found


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Ids in portions that one query can name."""
    rest = list(ids)
    for start in range(0, len(rest), IDS):
        yield rest[start : start + IDS]
