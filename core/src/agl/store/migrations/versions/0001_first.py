"""The first schema, as it was: a migration never follows later changes of `schema.py`."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "resources",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("resources_id", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    _rollouts()
    _recordings()


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("rollout_id", sa.String, nullable=False, unique=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_rollouts_queue", "rollouts", ["run_id", "status", "number"])
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.String, primary_key=True),
        sa.Column("rollout_id", sa.String, sa.ForeignKey("rollouts.rollout_id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("worker_id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("heartbeat_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("failure", sa.String),
        sa.Column("error", sa.Text),
        sa.Column("output", sa.LargeBinary),
        sa.UniqueConstraint("rollout_id", "number"),
    )
    op.create_index("ix_attempts_status", "attempts", ["status", "heartbeat_at"])


def _recordings() -> None:
    op.create_table(
        "spans",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("attempt_id", sa.String, sa.ForeignKey("attempts.attempt_id"), nullable=False),
        sa.Column("span_id", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("attempt_id", "span_id"),
    )
    op.create_table(
        "rewards",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("attempt_id", sa.String, sa.ForeignKey("attempts.attempt_id"), nullable=False, index=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
