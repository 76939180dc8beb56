"""The tracker `tensorboard`: curves for TensorBoard, written by tensorboardX."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker, evaluation_numbers, numbers, package_of_tracker


class TensorBoard(Tracker):
    """Writes each run's numbers into event files; look with `tensorboard --logdir FOLDER`.

    Metrics of a step stand under their names, evaluations under `val/reward` and `test/reward`, configuration, seed and the
    run's end as texts. A run that goes on leaves out what it had written after its checkpoint.

    Args:
        folder: each run has the folder `<folder>/<run id>`; without one it is `tensorboard` in the run's own directory, so that
            `tensorboard --logdir .agl/runs` shows all runs of the default store.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._writer: Any = None
        self._step = 0
        self._tensorboard = package_of_tracker("tensorboard", "tensorboardX")

    def run_started(self, run: TrackedRun) -> None:
        folder = run.directory / "tensorboard" if self.folder is None else self.folder / run.run_id
        self._writer = self._tensorboard.SummaryWriter(
            str(folder),
            purge_step=run.step + 1 if run.step else 0,
            filename_suffix=f".{time.time_ns()}",  # its own names differ by seconds: a run that goes on at once would overwrite its file
        )
        self._step = run.step
        told = {"run": run.run_id, "seed": run.seed, "config": run.config}
        self._writer.add_text("config", f"```json\n{json.dumps(told, indent=1, default=str)}\n```", run.step)
        self._writer.flush()

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        self._write(numbers(metrics), metrics["step"])

    def evaluated(self, evaluation: Evaluation) -> None:
        self._write(evaluation_numbers(evaluation), evaluation.step)

    def run_ended(self, status: str) -> None:
        self._writer.add_text("status", status, self._step)
        self._writer.close()

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._step = step
        self._writer.flush()
