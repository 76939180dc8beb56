"""`fit(…, dry_run=True)`: what a run would be, said before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agl
from agl.algorithms import DryRun
from agl.errors import ConfigError

TASKS = [{"question": "1 + 1"}] * 3


class Counting(agl.Algorithm):
    """Has a dry run, and must never be started by it."""

    name = "counting"

    def __init__(self, *problems: str) -> None:
        self.problems = problems

    def dry_run(self, *, train: int, val: int) -> DryRun:
        return DryRun(facts={"tasks": f"{train} and {val}"}, problems=self.problems)

    async def start(self, run: agl.Run) -> Any:
        raise AssertionError("a dry run starts nothing")


@agl.rollout
def answer(task: dict[str, Any], llm: agl.LLM) -> float:
    return 1.0


def make(algorithm: agl.Algorithm, folder: Path) -> agl.Trainer:
    return agl.Trainer(algorithm=algorithm, store=folder / "store.sqlite")


def test_a_dry_run_says_what_a_run_would_be_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = make(Counting(), tmp_path).fit(answer, TASKS, TASKS[:2], dry_run=True)
    assert found.facts == {"tasks": "3 and 2"}
    assert "tasks: 3 and 2" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_all_problems_of_a_dry_run_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would not work: no GPU; no model"):
        make(Counting("no GPU", "no model"), tmp_path).fit(answer, TASKS, dry_run=True)


def test_a_dry_run_checks_the_agent_on_the_first_task(tmp_path: Path) -> None:
    agent = agl.agent(lambda question: question, input=lambda task: task["qestion"], reward=lambda task, output: 1.0, name="typo")
    with pytest.raises(ConfigError, match="qestion"):
        make(Counting(), tmp_path).fit(agent, TASKS, dry_run=True)


def test_an_algorithm_without_a_dry_run_says_so(tmp_path: Path) -> None:
    class Plain(agl.Algorithm):
        name = "plain"

    with pytest.raises(ConfigError, match="the algorithm `plain` has no dry run; `agl doctor`"):
        make(Plain(), tmp_path).fit(answer, TASKS, dry_run=True)
