"""Baseline: an algorithm that learns nothing, to see an agent run as often as in a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agl.algorithms import Algorithm
from agl.errors import ConfigError

if TYPE_CHECKING:
    from agl.runs import Run


class Baseline(Algorithm):
    """Runs every training task once per epoch, then every validation task; publishes nothing new.

    Args:
        n_epochs: how often, at least 1.
        others: options that Agent Lightning's `Baseline` has and that have no meaning here.

    Raises:
        ConfigError: fewer epochs than 1, or one of those options.
    """

    name = "baseline"

    def __init__(self, n_epochs: int = 1, **others: Any) -> None:
        if others:
            raise ConfigError(
                f"`Baseline` takes `n_epochs` only, given was {sorted(others)}: nothing is polled, and spans are in the store"
            )
        if n_epochs < 1:
            raise ConfigError(f"`n_epochs` must be at least 1, given was {n_epochs!r}")
        self.n_epochs = n_epochs

    def config(self) -> dict[str, Any]:
        return {"n_epochs": self.n_epochs}

    async def fit(self, run: Run) -> None:
        for _ in run.steps(self.n_epochs):
            groups = await run.rollout(run.train.sample(len(run.train)))
            rewards = [reward for group in groups for reward in group.rewards if reward is not None]
            await run.publish(metrics={"rollouts": len(groups), "reward": sum(rewards) / len(rewards) if rewards else None})
        if len(run.val):
            await run.evaluate()
