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

    The Trainer makes one for each run, and cancels `run` when the run is over. Order of the calls: `check`, `start`, `run`, `stop`.

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
    after_algorithm = False
    """Whether it starts when the algorithm is up, to join what that brings; else before it, so that an agent that cannot be run costs nothing."""

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

    @classmethod  # noqa: B027 (to have nothing to refuse is fine)
    def check(cls, agent: BoundAgent, plugins: Plugins) -> None:
        """Refuse what this executor cannot run. The Trainer asks before anything starts; a driver may leave it out.

        Raises:
            ConfigError: the agent or a plugin cannot be run by it, or the machines that it needs cannot be reached.
        """

    async def start(self) -> None:  # noqa: B027
        """Be ready to run the agent; the Trainer waits for it. A driver may leave it out.

        Raises:
            ConfigError: it cannot.
        """

    async def stop(self) -> None:  # noqa: B027
        """Let go of what `start` and `run` took; called once, when `run` has ended, also where it never began. A driver may leave it out."""

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
