"""The tracker `wandb`: curves at Weights & Biases, or in its offline folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from agl.builtin.tensorboard import numbers
from agl.errors import ConfigError
from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker


class WandB(Tracker):
    """Logs each run under its own id, so that a run that goes on continues its curves.

    Metrics of a step stand under their names, evaluations under `val/reward` and `test/reward`. Log in, or set
    `WANDB_MODE=offline`, before the run.

    Args:
        project: where the runs appear.
        options: further arguments of `wandb.init`, such as `entity`, `group` and `mode="offline"`.

    Raises:
        ConfigError: wandb is not installed.
    """

    name = "wandb"

    def __init__(self, project: str = "agl", **options: Any) -> None:
        self.project, self.options = project, options
        self._run: Any = None
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(f'the tracker `wandb` needs wandb ({error}): pip install "agl-core[wandb]"') from error

    def run_started(self, run: TrackedRun) -> None:
        named = {"project": self.project, "id": run.run_id, "name": run.run_id, "config": {**run.config, "seed": run.seed}}
        self._run = self._wandb.init(**{**named, "resume": "allow", **self.options})

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        self._run.log(numbers(metrics), step=metrics["step"])

    def evaluated(self, evaluation: Evaluation) -> None:
        if evaluation.mean is not None:
            self._run.log({f"{evaluation.mode}/reward": evaluation.mean}, step=evaluation.step)

    def run_ended(self, status: str) -> None:
        self._run.finish(exit_code=1 if status == "failed" else 0)
