"""The SQL agent and its tasks, for the checks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sql_agent"
sys.path.append(str(EXAMPLE))

MODEL = EXAMPLE / "model"


def agent_and_tasks(folder: Path) -> tuple[Any, list[Any], list[Any]]:
    """The LangGraph agent, training tasks and held-out tasks."""
    import agl
    from data import make_splits
    from sql_agent import build_graph
    from train_sql_agent import reward, visible

    train, _, test = make_splits(folder / "databases", seed=0)
    return agl.agent(build_graph(), input=visible, reward=reward, name="sql_agent"), train, test


def result_of(found: Any) -> dict[str, Any]:
    """What a `FitResult` says: rewards before and after, and the metrics of each step."""
    import json

    lines = [json.loads(line) for line in (found.directory / "metrics.jsonl").read_text().splitlines()]
    rewards = {"before": found.before.mean if found.before else None, "after": found.after.mean if found.after else None}
    return {**rewards, "seconds": found.seconds, "steps": lines}
