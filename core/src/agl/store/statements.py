"""The statements that run for every rollout, as SQL text made once per store and given to the driver itself.

Building a statement, and SQLAlchemy's way of running it, cost several times what the database needs for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, Dialect, Float, Integer, String, and_, bindparam, case, insert, null, select, update
from sqlalchemy.dialects import postgresql, sqlite

from agl.rollouts import AttemptStatus, RolloutStatus
from agl.store import schema

RUNNING = str(AttemptStatus.RUNNING)
assert str(RolloutStatus.RUNNING) == RUNNING


class Statement:
    """One statement as text for a database; called with values for its parameters."""

    def __init__(self, clause: Any, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        compiled = clause.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        known: dict[str, Any] = {} if columns else compiled.construct_params(_check=False)
        self._fixed = {name: value for name, value in known.items() if value is not None}

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Run within the connection's transaction: the rows that it returns. Errors are the driver's own."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._text, {**self._fixed, **values})
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def many(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Run for each row; nothing happens for none."""
        if not rows:
            return
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self._text, rows)
        finally:
            cursor.close()


class Statements:
    """The hot statements for one database."""

    def __init__(self, dialect: Dialect) -> None:
        skips_known = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect.name]
        self.claim = Statement(_claim(), dialect)
        """:run, :most -> number, rollout_id, attempts, body of the oldest queued rollouts, now running."""
        self.add_attempts = Statement(insert(schema.attempts).inline(), dialect, _ATTEMPT)
        self.add_spans = Statement(skips_known(schema.spans).on_conflict_do_nothing().inline(), dialect, ("attempt_id", "span_id", "body"))
        self.add_rewards = Statement(insert(schema.rewards).inline(), dialect, ("attempt_id", "body"))
        self.end_attempt = Statement(_end_attempt(), dialect)
        """:attempt and its outcome -> rollout_id; nothing when it had ended before."""
        self.end_rollout = Statement(_end_rollout(), dialect)
        """:rollout, :retry, :after, :now -> status; nothing when it had ended before."""


_ATTEMPT = ("attempt_id", "rollout_id", "number", "worker_id", "status", "started_at", "heartbeat_at")


def _claim() -> Any:
    table = schema.rollouts
    oldest = (
        select(table.c.number)
        .where(table.c.run_id == bindparam("run"), table.c.status == str(RolloutStatus.QUEUED))
        .order_by(table.c.number)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
        .cte("oldest")  # made once; PostgreSQL may run a mere subquery for each row, and claim more than were asked for
    )
    return (
        update(table)
        .where(table.c.number.in_(select(oldest.c.number)))
        .values(status=RUNNING, attempts=table.c.attempts + 1)
        .returning(table.c.number, table.c.rollout_id, table.c.attempts, table.c.body)
    )


def _end_attempt() -> Any:
    table = schema.attempts
    names = ("status", "ended_at", "failure", "error", "output")
    return (
        update(table)
        .where(table.c.attempt_id == bindparam("attempt"), table.c.status == RUNNING)
        .values({name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names})
        .returning(table.c.rollout_id)
    )


def _end_rollout() -> Any:
    table = schema.rollouts
    again = and_(bindparam("retry", type_=Boolean), table.c.attempts < table.c.max_attempts)
    return (
        update(table)
        .where(table.c.rollout_id == bindparam("rollout"), table.c.status == RUNNING)  # a final status stays final
        .values(
            status=case((again, str(RolloutStatus.QUEUED)), else_=bindparam("after", type_=String)),
            ended_at=case((again, null()), else_=bindparam("now", type_=Float)),
        )
        .returning(table.c.status)
    )
