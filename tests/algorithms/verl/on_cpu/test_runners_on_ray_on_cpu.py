"""A run of VERL whose agents run on VERL's own Ray cluster (`executor="ray"`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

HERE = Path(__file__).resolve().parent


@pytest.mark.timeout(2700)
def test_agents_run_on_the_cluster_that_verl_has_started(tmp_path_factory: pytest.TempPathFactory, on_cpu: Any, read_lines: Any) -> None:
    folder = tmp_path_factory.mktemp("cluster")
    said = on_cpu.ended([str(HERE / "train.py"), str(folder), "--steps", "1", "--executor", "ray"], folder, **on_cpu.ENVIRONMENT)
    assert said.count("Started a local Ray instance") == 1
    [line] = read_lines(folder, "runs/*/metrics.jsonl")
    assert (line["step"], line["rollouts"], line["groups"]) == (1, 32, 8)
    assert line["calls_trained"] > 0
    assert line["training/rollout_probs_diff_max"] < 1e-5
    assert line["actor/grad_norm"] > 0
