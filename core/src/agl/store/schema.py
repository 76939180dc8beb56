"""The one SQL schema. A change here needs a migration in `migrations/versions`, and `HEAD` names the newest.

Texts have no length: SQLite does not look at it, and PostgreSQL would refuse what SQLite keeps, such as the id of an imported run.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint

HEAD = "0002"

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("status", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

resources = Table(
    "resources",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("resources_id", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # first in, first out
    Column("rollout_id", String, nullable=False, unique=True),
    Column("run_id", String, ForeignKey("runs.run_id"), nullable=False),
    Column("group_id", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("attempts", Integer, nullable=False),  # made so far; the number of the latest
    Column("max_attempts", Integer, nullable=False),
    Column("ended_at", Float),
    Column("body", LargeBinary, nullable=False),
    Index("ix_rollouts_queue", "run_id", "status", "number"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String, primary_key=True),
    Column("rollout_id", String, ForeignKey("rollouts.rollout_id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker_id", String, nullable=False),
    Column("status", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("failure", String),
    Column("error", Text),
    Column("output", LargeBinary),
    UniqueConstraint("rollout_id", "number"),
    Index("ix_attempts_status", "status", "heartbeat_at"),
)

spans = Table(
    "spans",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("attempt_id", String, ForeignKey("attempts.attempt_id"), nullable=False),
    Column("span_id", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("attempt_id", "span_id"),
)

rewards = Table(
    "rewards",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("attempt_id", String, ForeignKey("attempts.attempt_id"), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)
