"""The article's script, `train_sql_agent.py qwen`, on data in Spider's layout: what it says without a GPU, and that it trains on the CPU platform."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

ROOT = Path(__file__).resolve().parents[4]
EXAMPLE = ROOT / "examples" / "sql_agent"
SCRIPT = EXAMPLE / "train_sql_agent.py"
SMALL = {
    "data": {"train_batch_size": 8, "max_prompt_length": 448, "max_response_length": 64},
    "actor_rollout_ref": {"model": {"path": str(EXAMPLE / "model")}, "actor": {"ppo_mini_batch_size": 8}},
}
"""The embedded model in place of the article's."""


@pytest.fixture(scope="module")
def spider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated databases and tasks in Spider's published layout."""
    folder = tmp_path_factory.mktemp("spider")
    sys.path.insert(0, str(EXAMPLE))
    try:
        from data import make_splits
    finally:
        sys.path.remove(str(EXAMPLE))
    made = make_splits(folder / "made", seed=0)
    for name, tasks in (("train_spider.json", made.train[:64]), ("dev.json", made.val[:6])):
        (folder / name).write_text(json.dumps([{key: task[key] for key in ("question", "query", "db_id")} for task in tasks]))
        for task in tasks:
            place = folder / "database" / task["db_id"] / f"{task['db_id']}.sqlite"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(task["db_path"], place)
    return folder


def options(folder: Path, spider: Path, config: dict[str, Any]) -> list[str]:
    (folder / "config.json").write_text(json.dumps(config))
    return [str(SCRIPT), "qwen", "--data", str(spider), "--config", str(folder / "config.json"), "--out", str(folder / "out"), "--val", "4"]


@pytest.mark.timeout(600)
def test_without_a_gpu_it_says_so_before_anything_starts(spider: Path, tmp_path: Path) -> None:
    command = [sys.executable, *options(tmp_path, spider, SMALL)]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 1
    assert "a step: 8 tasks x 4 rollouts = 32 rollouts, 1 optimiser steps\nthe run: 16 steps, 512 rollouts" in done.stdout
    [said] = [line for line in done.stderr.splitlines() if line.startswith("nothing was started")]
    assert said.startswith("nothing was started: this run would not work: ")
    assert "VERL needs a GPU and this machine has none that torch can use; `agl.GRPO(model)` trains on a CPU" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(2700)
def test_on_the_cpu_platform_the_same_script_trains(
    spider: Path, tmp_path_factory: pytest.TempPathFactory, on_cpu: Any, read_lines: Any
) -> None:
    folder = tmp_path_factory.mktemp("article")
    config = on_cpu.config(EXAMPLE / "model", 1)
    # What the article sets stays as it is, but for the sizes.
    del config["actor_rollout_ref"]["rollout"]["n"]
    config["actor_rollout_ref"]["actor"]["optim"] = {"weight_decay": 0.0}
    config["trainer"]["logger"] = ["console"]
    del config["trainer"]["val_before_train"], config["trainer"]["test_freq"], config["trainer"]["save_freq"]
    said = on_cpu.ended(options(folder, spider, config), folder, **on_cpu.ENVIRONMENT)
    assert "training state" in said
    [line] = read_lines(folder / "out", "runs/*/metrics.jsonl")
    assert (line["step"], line["rollouts"], line["actor/lr"]) == (1, 32, pytest.approx(1e-6))
    assert line["calls_trained"] > 0
    assert line["actor/grad_norm"] > 0
    assert "role `check_query` does not match `write|rewrite`" in line["untrained"]
    assert [(one["step"], one["n"]) for one in read_lines(folder / "out", "runs/*/evaluations.jsonl")] == [(0, 4), (1, 4)]
