"""The tracker `tensorboard`: curves for TensorBoard, written by tensorboardX."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agl.errors import ConfigError
from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes each run's numbers into `folder/<run>`; look with `tensorboard --logdir folder`.

    Metrics of a step stand under their names, evaluations under `val/reward` and `test/reward`.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: str | Path = "runs") -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        try:
            self._tensorboard = importlib.import_module("tensorboardX")
        except ImportError as error:
            raise ConfigError(f'the tracker `tensorboard` needs tensorboardX ({error}): pip install "agl-core[tensorboard]"') from error

    def run_started(self, run: TrackedRun) -> None:
        self._writer = self._tensorboard.SummaryWriter(str(self.folder / run.run_id), purge_step=run.step + 1 if run.step else None)
        self._writer.add_text("config", f"```json\n{json.dumps(run.config, indent=1, default=str)}\n```")

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, metrics["step"])
        self._writer.flush()

    def evaluated(self, evaluation: Evaluation) -> None:
        if evaluation.mean is not None:
            self._writer.add_scalar(f"{evaluation.mode}/reward", evaluation.mean, evaluation.step)
            self._writer.flush()

    def run_ended(self, status: str) -> None:
        self._writer.close()


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among metrics, without the step itself."""
    found = {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {name: float(value) for name, value in found.items() if name != "step" and math.isfinite(value)}
