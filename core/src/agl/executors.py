"""Executor: the contract of every driver of `agl.executors`; `agl.testing.executors` checks it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agl.gateway.server import Gateway
    from agl.plugins import Plugins
    from agl.runner import BoundAgent
    from agl.store.base import Store


class Executor(ABC):
    """Runs a run's queued rollouts: claims them from the store, and has `agl.runner.AttemptRunner` run each attempt.

    The Trainer makes one for each run, and cancels `run` when the run is over.

    Args:
        run_id: whose rollouts it claims.
        agent: what it runs.
        store: from which it claims, and where attempts end.
        gateway: opens the models of an attempt.
        plugins: those of the Trainer.
        n_runners: most attempts at the same time.
        failure_reward: reward of an attempt in which the agent itself failed; None excludes it.
    """

    name = "executor"

    def __init__(
        self,
        *,
        run_id: str,
        agent: BoundAgent,
        store: Store,
        gateway: Gateway,
        plugins: Plugins,
        n_runners: int,
        failure_reward: float | None = 0.0,
    ) -> None:
        self.run_id, self.agent, self.store, self.gateway, self.plugins = run_id, agent, store, gateway, plugins
        self.n_runners, self.failure_reward = n_runners, failure_reward

    @abstractmethod
    async def run(self) -> None:
        """Work until cancelled: claim and run what is queued, `n_runners` attempts at most at the same time, each kept apart.

        An agent that raises, hangs or ends in any other way ends its attempt and nothing else. What is cancelled leaves
        nothing behind: every attempt that this executor began has ended in the store, as cancelled where it was still at work,
        before `run` itself ends. While it works it tells the store that its attempts live (`post_heartbeat`), and stops those
        that were ended from elsewhere.

        Raises:
            PluginError: a plugin broke; nothing can go on without it.
            StoreError: what the attempts recorded cannot be kept.
        """
