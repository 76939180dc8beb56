"""FitResult: what a training brought."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agl.errors import NotFoundError
from agl.prompting import prompt_diff
from agl.resources import Resources
from agl.results import Evaluation
from agl.store.opening import StoreSpec


class FitResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a `fit` brought."""

    run_id: str
    directory: Path
    """Holds `metrics.jsonl`, `evaluations.jsonl` and `checkpoints/`."""
    store: StoreSpec
    """What opens the store again: its path, or what the Trainer was given."""
    resources: Resources
    """The newest version. An LLM in it has lived in the algorithm's engine; its weights are in the last checkpoint."""
    seconds: float
    """Wall seconds of the learning, evaluations within it included."""
    before: Evaluation | None = None
    """On `test_dataset`, before learning."""
    after: Evaluation | None = None
    """On `test_dataset`, after it."""
    first: Resources | None = None
    """The resources that it began with, and prompts that only the agent's calls told as they were then."""
    said: str | None = None
    """What the algorithm says of its result, in a sentence."""

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the last checkpoint."""
        return max((self.directory / "checkpoints").glob("step-??????"), default=None)

    def diff(self, name: str | None = None) -> str:
        """How a prompt, or without a name every prompt, changed: a unified diff, empty where nothing did.

        Raises:
            NotFoundError: there is no such resource.
        """
        first = {} if self.first is None else self.first.prompts()
        if name is not None and name not in first:
            raise NotFoundError(f"there is no prompt `{name}`; the run began with {sorted(first)}")
        return prompt_diff({each: first[each] for each in first if name in (None, each)}, self.resources.prompts())

    def summary(self) -> str:
        """The gain in one sentence, after what the algorithm itself says of it."""
        return f"{self.said}\n{self._gain()}" if self.said else self._gain()

    def _gain(self) -> str:
        if self.before is None or self.after is None or self.before.mean is None or self.after.mean is None:
            return f"run {self.run_id}: {self.seconds:.0f} s, no test dataset was given"
        n = len(self.after.results)
        return f"run {self.run_id}: test reward {self.before.mean:.3f} -> {self.after.mean:.3f} on {n} tasks in {self.seconds:.0f} s"

    def report(self, path: str | Path | None = None) -> Path:
        """Write the one-file HTML report (and the curve as PNG beside it); needs `pip install "agl-core[report]"`."""
        from agl.report import write_report

        return write_report(self.store, self.run_id, path)
