"""The tracker `wandb`: curves at Weights & Biases, or in its offline folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from agl.errors import ConfigError
from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker, evaluation_numbers, numbers, package_of_tracker

_WITHOUT_LOGIN = ("offline", "disabled", "dryrun")


class WandB(Tracker):
    """Logs each run under its own id, so that a run that goes on continues its curves.

    Metrics of a step stand under their names, evaluations under `val/reward` and `test/reward`, all against `step`. Log in, or set
    `WANDB_MODE=offline`, before the run. Its files are in the run's own directory and its name is the run's id, unless `WANDB_DIR` and
    `WANDB_NAME` say otherwise.

    Args:
        project: where the runs appear. Without one it is `WANDB_PROJECT`, else `agl`.
        options: further arguments of `wandb.init`, such as `entity`, `group`, `name`, `tags` and `mode="offline"`.

    Raises:
        ConfigError: wandb is not installed, or nobody is logged in.
    """

    name = "wandb"
    _open: ClassVar[set[int]] = set()
    """Trackers of this process with a run that has not ended."""

    def __init__(self, project: str | None = None, **options: Any) -> None:
        self.project, self.options = project or os.environ.get("WANDB_PROJECT") or "agl", options
        self._run: Any = None
        self._wandb = package_of_tracker("wandb", "wandb")
        if (options.get("mode") or os.environ.get("WANDB_MODE")) not in _WITHOUT_LOGIN:
            self._log_in()

    def _log_in(self) -> None:
        """Here, where a terminal can be asked for a key: in a run's thread the question would hold up the run."""
        try:
            self._wandb.login(verify=False)
        except (self._wandb.Error, ValueError) as error:
            raise ConfigError(
                f"the tracker `wandb` cannot log in: {error}; say `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
            ) from error

    def run_started(self, run: TrackedRun) -> None:
        told = {"project": self.project, "id": run.run_id, "config": {**run.config, "seed": run.seed}}
        usual = {"WANDB_DIR": ("dir", str(run.directory)), "WANDB_NAME": ("name", run.run_id)}
        unsaid = dict(argument for variable, argument in usual.items() if variable not in os.environ)
        if list(run.directory.glob(f"wandb/*run-*-{run.run_id}")):
            time.sleep(1.0)  # its folders are named by seconds: a run that goes on within one would write over what it had
        # `create_new` leaves a run alone that the user's own code or an algorithm has begun in this process.
        self._run = self._wandb.init(**{**told, **unsaid, "resume": "allow", "reinit": "create_new", **self.options})
        # An axis of its own: wandb's own counter refuses steps that a run which goes on tells again.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._open.add(id(self))

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        self._log(numbers(metrics), metrics["step"])

    def evaluated(self, evaluation: Evaluation) -> None:
        self._log(evaluation_numbers(evaluation), evaluation.step)

    def run_ended(self, status: str) -> None:
        self._open.discard(id(self))
        self._run.summary["status"] = status
        self._run.finish(exit_code=1 if status == "failed" else 0)
        # Its background processes outlive a run; they are ended with the last one, and never under a run of the user's own.
        if not self._open and self._wandb.run is None:
            with contextlib.suppress(SystemExit):  # raised where those processes ended badly; the run is none of their business
                self._wandb.teardown()

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if values:
            self._run.log({**values, "step": step})
