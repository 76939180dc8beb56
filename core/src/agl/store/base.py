"""Store: the contract that every driver of `agl.stores` keeps; `agl.testing.stores` checks it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from agl.errors import StoreError
from agl.resources import Resource, Resources
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import AttemptStatus, Failure, Rollout, RolloutStatus
from agl.spans import Span
from agl.store.urls import without_password

POLL_SECONDS = 1.0
"""How often a wait looks for what other processes did; this process's own changes wake it at once."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps of a run."""

    run_id: str
    created_at: float
    status: str
    """`running`, `stopped`, `done` or `failed`."""
    step: int
    """Steps that are finished and checkpointed."""
    seed: int
    config: dict[str, Any]
    command: list[str]
    """Command line that started it, for `agl train --resume`."""
    folder: str
    """Working directory of that command."""
    directory: str
    """Where its metrics, checkpoints and reports are."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many rollouts a run has, and how many of their attempts failed."""

    rollouts: dict[str, int]
    """All rollouts, by mode."""
    failures: dict[str, dict[str, int]]
    """Failed attempts: class, then mode, then how many; the classes in alphabetical order."""


class Store(ABC):
    """Keeps runs, resources, rollouts, attempts, spans and rewards.

    Every method is atomic. It returns when what it changed is kept: what was acknowledged survives the death of the
    process, in a store that is on disk. A final status stays final. Methods are called from several threads and event loops
    at the same time, those of one event loop by many tasks; a caller that is cancelled has changed everything or nothing.
    All times are Unix times in seconds.

    Errors are `agl.errors.StoreError`, and `NotFoundError` for a record that does not exist; they name the store.
    """

    where: str
    """What names the store in messages, such as its path or its URL without a password."""
    folder: Path = Path(".agl")
    """Below it a run's own files are kept (metrics, checkpoints, reports), in `runs/<run>`."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open the store that a URL names; the URL's scheme is the driver's name.

        Raises:
            StoreError: the URL cannot be understood, or this driver takes none.
        """
        raise StoreError(
            f"the store {cls.__name__} takes no URL, given was `{without_password(url)}`; give a path, or make the object: `store={cls.__name__}(…)`"
        )

    @abstractmethod
    def close(self) -> None:
        """Finish writing and let go; every later call is a StoreError. Closing twice is allowed."""

    # Runs and resources.

    @abstractmethod
    async def create_run(self, record: RunRecord) -> None:
        """Keep a new run.

        Raises:
            StoreError: there is one of that id.
        """

    @abstractmethod
    async def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""

    @abstractmethod
    async def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            NotFoundError: there is none of that id.
        """

    @abstractmethod
    async def update_run(self, run_id: str, **values: Any) -> None:
        """Set a run's `status` or `step`."""

    @abstractmethod
    async def publish(self, run_id: str, values: Mapping[str, Resource], *, version: int | None = None) -> Resources:
        """A new version with these resources; names that are not given are kept from the newest.

        Args:
            version: its number; None for the next one: 0 for the first, then counting up.
        """

    @abstractmethod
    async def resources(self, run_id: str, version: int | None = None) -> Resources:
        """One version of a run's resources; the newest when none is named. No version ever changes.

        Raises:
            NotFoundError: there is no such version.
        """

    @abstractmethod
    async def add_events(self, run_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events to a run's journal: what its algorithm must find again, in order, when the run goes on.

        Args:
            events: JSON objects. Their order, and that of calls one after another, is kept.

        Raises:
            NotFoundError: there is no such run.
        """

    @abstractmethod
    async def journal(self, run_id: str) -> list[dict[str, Any]]:
        """All events of a run's journal, in the order in which they were added; none for a run without one."""

    # Rollouts and attempts.

    @abstractmethod
    async def enqueue(self, rollouts: Sequence[Rollout]) -> None:
        """Ask for rollouts; they are claimed first in, first out."""

    @abstractmethod
    async def claim(self, run_id: str, worker_id: str, limit: int = 1) -> list[Rollout]:
        """Up to `limit` of the oldest queued rollouts, each with a new attempt on it, for this worker alone.

        Attempts on one rollout are numbered from 1 and have ids that cannot be guessed (`agl.rollouts.new_id`).
        """

    @abstractmethod
    def work_mark(self) -> int:
        """Read before `claim`, for `wait_for_work`."""

    @abstractmethod
    async def wait_for_work(self, mark: int, timeout: float = POLL_SECONDS) -> None:
        """Return when rollouts may have been queued since `mark`; those of other processes are seen after `timeout` seconds."""

    @abstractmethod
    async def heartbeat(self, attempt_ids: Sequence[str]) -> set[str]:
        """Say that the worker of these attempts is alive; returns those that have not been ended from elsewhere."""

    @abstractmethod
    def post_heartbeat(self, attempt_ids: Sequence[str], alive: Callable[[set[str]], None]) -> None:
        """As `heartbeat`, from any thread and without waiting: `alive` is told, in any thread, which have not been ended."""

    @abstractmethod
    async def add_spans(self, spans: Sequence[Span]) -> None:
        """Keep spans, also of an attempt that has ended; one that is there already (attempt and span id) is skipped.

        Attributes that JSON cannot hold are kept as their `repr`.

        Raises:
            NotFoundError: no such attempt; then none of them is kept.
        """

    @abstractmethod
    async def add_rewards(self, attempt_id: str, rewards: Sequence[Reward]) -> None:
        """Keep rewards, also of an attempt that has ended: judgements may come late.

        Raises:
            NotFoundError: no such attempt.
        """

    @abstractmethod
    async def finish(
        self,
        attempt_id: str,
        status: AttemptStatus,
        *,
        failure: Failure | None = None,
        error: str | None = None,
        output: Any = None,
        spans: Sequence[Span] = (),
        rewards: Sequence[Reward] = (),
        retry: bool | None = None,
    ) -> RolloutStatus | None:
        """End an attempt with all it recorded, in one step; a failure of the infrastructure is queued again while attempts are left.

        Otherwise the rollout ends: succeeded or cancelled as the attempt did, else failed.

        Args:
            retry: whether it is queued again while attempts are left; None when a failure of the infrastructure is, and nothing else.

        Returns:
            The rollout's status after it; None when the attempt had ended before, in which case nothing is changed.
        """

    @abstractmethod
    async def expire(self, run_id: str, silent_seconds: float, *, retry: bool = True) -> int:
        """End attempts whose worker has been silent for so long as lost, a failure of the infrastructure; returns how many.

        Args:
            retry: whether they are queued again while attempts are left.
        """

    @abstractmethod
    async def cancel(self, run_id: str, rollout_ids: Sequence[str] | None = None) -> None:
        """Cancel a run's rollouts that have not ended (all of them, or those named), and their attempts.

        Their workers hear of it with the next heartbeat.
        """

    @abstractmethod
    async def wait_ended(self, rollout_ids: Sequence[str], timeout: float = POLL_SECONDS) -> int:
        """Return when all of these rollouts have ended, or after `timeout` seconds or less: how many have not."""

    @abstractmethod
    async def results(self, rollout_ids: Sequence[str]) -> list[RolloutResult]:
        """Rollouts with their latest attempt, its spans (by start) and rewards (as they came), in the order asked for.

        Raises:
            NotFoundError: one of them does not exist.
        """

    @abstractmethod
    async def find(self, run_id: str, *, mode: str | None = None, step: int | None = None, rollout_id: str | None = None) -> list[str]:
        """Ids of a run's rollouts, oldest first."""

    async def late_rewards(self) -> dict[str, int]:
        """How many rollouts of each run have a reward that came when its step was over (`agl.feedback`), newest run last.

        A driver may leave it out; then no run tells of them.
        """
        return {}

    async def restore(self, results: Sequence[RolloutResult]) -> None:
        """Keep rollouts that have ended elsewhere as they are: ids, times, attempt, spans and rewards (what `agl import` needs).

        A driver may leave it out.

        Raises:
            StoreError: one of them is there already, in which case none is kept; or this driver cannot.
        """
        raise StoreError(f"the store {type(self).__name__} takes no rollouts of others; import into an SQLite file: `--store runs.sqlite`")

    @abstractmethod
    async def counts(self, run_id: str) -> Counts:
        """How many rollouts and failed attempts a run has: counted where they lie, since there may be very many."""
