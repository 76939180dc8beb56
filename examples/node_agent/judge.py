"""What the run knows and the agent does not: the answers."""

from __future__ import annotations

from typing import Any


def question(task: dict[str, Any]) -> dict[str, Any]:
    """What the agent may see of a task."""
    return {"question": task["question"]}


def correct(task: dict[str, Any], output: str) -> float:
    """1.0 where what the agent printed has the answer in it."""
    return float(task["answer"] in output)
