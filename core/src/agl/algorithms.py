"""Algorithms: consume finished rollouts, publish better resources; they see the world through a `Run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from agl.errors import ConfigError
from agl.resources import Resource

if TYPE_CHECKING:
    from agl.runs import Run


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would be: `Trainer.fit(…, dry_run=True)`."""

    facts: dict[str, str]
    """Numbers and choices in words, by name."""
    problems: tuple[str, ...] = ()
    """What would not work, each with the remedy."""


class Algorithm:
    """Base of all algorithms.

    The Trainer calls `start` once, then `fit` (or only evaluates what `start` gave), then `stop`, whatever happened.
    """

    name = "algorithm"
    only_prompts = False
    """Whether nothing but prompts changes, so that equal resources are the same agent and are not measured twice on the test set."""
    serves: tuple[str, ...] = ()
    """Names of the language models that `start` brings, such as `main_llm`: a user's own under one of these names is refused before anything
    starts, since no call would reach it."""

    def config(self) -> dict[str, Any]:
        """The options, as JSON, for the record of the run."""
        return {}

    def check(self) -> str:
        """Can this algorithm start here? Answers in a few words what it would use; loads no weights and starts nothing.

        `agl doctor` asks it.

        Raises:
            ConfigError: a model, a device or a package is missing, with what to type.
        """
        return ""

    def summary(self) -> str | None:
        """What came out of the last `fit`, in a sentence, for `FitResult.summary`; None when there is nothing to say but the rewards."""
        return None

    def dry_run(self, *, train: int, val: int) -> DryRun:
        """What a run with so many training and validation tasks would be; starts nothing and loads no weights.

        Raises:
            ConfigError: this algorithm has none.
        """
        raise ConfigError(f"the algorithm `{self.name}` has no dry run; `agl doctor` says whether it can start here")

    async def start(self, run: Run) -> Mapping[str, Resource]:
        """Bring up what serves the first resources (an engine, say), at the run's restored state if it has one.

        Returns:
            Resources by name; the user's own `initial_resources` are kept beside them.
        """
        return {}

    async def fit(self, run: Run) -> None:
        """Learn: `for step in run.steps(…)`, `await run.rollout(…)`, `await run.publish(…)`."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Shut down what `start` brought up."""
