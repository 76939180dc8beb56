"""The tracker `jsonl`: what happens in runs, as JSON lines in one file, for whatever reads lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import ConfigError
from agl.results import Evaluation
from agl.trackers import TrackedRun, Tracker


class JSONLines(Tracker):
    """Appends a line per event: `{"event": …, "run": …, "at": Unix time in seconds, …}`.

    Args:
        path: of the file; lines of later runs are appended.

    Raises:
        ConfigError: the file cannot be written.
    """

    name = "jsonl"

    def __init__(self, path: str | Path = "agl-runs.jsonl") -> None:
        self.path = Path(path)
        self._run = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("a").close()
        except OSError as error:
            raise ConfigError(
                f"the tracker `jsonl` cannot write `{self.path}`: {error.strerror}; name another with `jsonl=PATH`"
            ) from error

    def run_started(self, run: TrackedRun) -> None:
        self._run = run.run_id
        self._write("run_started", seed=run.seed, step=run.step, directory=str(run.directory), config=run.config)

    def step_ended(self, metrics: Mapping[str, Any]) -> None:
        self._write("step_ended", **metrics)

    def evaluated(self, evaluation: Evaluation) -> None:
        counts = {"n": len(evaluation.results), "excluded": dict(evaluation.excluded)}
        self._write(
            "evaluated", mode=evaluation.mode, step=evaluation.step, version=evaluation.resources_version, reward=evaluation.mean, **counts
        )

    def run_ended(self, status: str) -> None:
        self._write("run_ended", status=status)

    def _write(self, event: str, **values: Any) -> None:
        line = msgspec.json.encode({"event": event, "run": self._run, "at": round(time.time(), 3), **values}, enc_hook=str)
        with self.path.open("ab") as file:
            file.write(line + b"\n")
