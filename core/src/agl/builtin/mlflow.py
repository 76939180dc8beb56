"""The tracker `mlflow`: each run as a run of MLflow, on a server or in a local database."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker, evaluation_numbers, flat, numbers, package_of_tracker

TAG = "agl.run"
"""The tag with the run's id, by which a run that goes on finds itself again."""
STATUSES = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_BATCH = 100
"""Most parameters that MLflow takes at once."""
_LONGEST = {"name": 250, "value": 6000}
"""Characters that MLflow keeps of names, and of values of parameters."""


class MLflow(Tracker):
    """Writes each run into MLflow: configuration as parameters, numbers as metrics by step, its end as its status.

    Metrics of a step stand under their names, evaluations under `val/reward` and `test/reward`. A run that goes on continues the same
    run of MLflow, found by its tag `agl.run`; MLflow keeps what was written after its checkpoint beside what is told again.

    Args:
        uri: the tracking URI, such as `http://localhost:5000` or `sqlite:///mlflow.db`. Without one it is `MLFLOW_TRACKING_URI`, and
            without that the database `mlflow.db` in the run's own directory.
        experiment: its name; it is made where it is not there. Without one it is `MLFLOW_EXPERIMENT_NAME`, else `agl`.
        name: of the run; its id without one.
        tags: further tags of the run.

    Raises:
        ConfigError: mlflow is not installed.
    """

    name = "mlflow"

    def __init__(
        self, uri: str | None = None, *, experiment: str | None = None, name: str | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "agl"
        self.run_name, self.tags = name, dict(tags or {})
        self._tracking = package_of_tracker("mlflow", "mlflow.tracking")
        self._entities = package_of_tracker("mlflow", "mlflow.entities")
        self._client: Any = None
        self._run = ""

    def run_started(self, run: TrackedRun) -> None:
        self._client = self._tracking.MlflowClient(self.uri or f"sqlite:///{run.directory.absolute() / 'mlflow.db'}")
        experiment = self._experiment(run.directory)
        known = self._client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {**self.tags, TAG: run.run_id, "agl.seed": str(run.seed)}
        self._run = self._client.create_run(experiment, tags=tags, run_name=self.run_name or run.run_id).info.run_id
        self._log_parameters(run.config)

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        self._log(numbers(metrics), metrics["step"])

    def evaluated(self, evaluation: Evaluation) -> None:
        self._log(evaluation_numbers(evaluation), evaluation.step)

    def run_ended(self, status: str) -> None:
        self._client.set_terminated(self._run, status=STATUSES.get(status, "FAILED"))

    def _experiment(self, directory: Path) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        # A database of the run's own keeps its artifacts beside it; MLflow's default is the working directory.
        place = None if self.uri else (directory / "mlflow-artifacts").absolute().as_uri()
        return self._client.create_experiment(self.experiment, artifact_location=place)

    def _log_parameters(self, config: Mapping[str, Any]) -> None:
        parameters = [self._entities.Param(_name(name), _text(value)) for name, value in flat(config).items()]
        for begin in range(0, len(parameters), _BATCH):
            self._client.log_batch(self._run, params=parameters[begin : begin + _BATCH])

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics: Sequence[Any] = [self._entities.Metric(_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)


def _name(name: str) -> str:
    """A name as MLflow takes it: letters, digits and `_-. :/`, as a path; one that it refuses would cost the whole step."""
    return re.sub(r"/+", "/", re.sub(r"[^\w\-. :/]", "_", name)).strip("/")[: _LONGEST["name"]]


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[: _LONGEST["value"]]
