"""MemoryStore: a complete store in memory, for tests, and as a model for authors of a store."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agl.errors import NotFoundError, StoreError
from agl.resources import Resource, Resources
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import FINAL_ROLLOUT, Attempt, AttemptStatus, Failure, Rollout, RolloutStatus, new_id
from agl.spans import Span
from agl.store.base import POLL_SECONDS, Counts, RunRecord, Store
from agl.store.encoding import encode, printable, span_json
from agl.store.waiting import Signal, Watch

T = TypeVar("T")
_numbers = itertools.count()


class MemoryStore(Store):
    """Keeps everything in dictionaries, under one lock that every method takes once: so each is atomic. `close` empties it.

    Records are frozen; what is changed is replaced.

    Args:
        folder: below it the runs' own files are kept.
    """

    def __init__(self, folder: str | Path = ".agl") -> None:
        self.where, self.folder = f"memory {next(_numbers)}", Path(folder)
        self._lock = threading.RLock()
        self._closed = False
        self._runs: dict[str, RunRecord] = {}
        self._resources: dict[str, list[Resources]] = {}
        self._journals: dict[str, list[bytes]] = {}
        self._rollouts: dict[str, Rollout] = {}
        """In the order they were asked for. `attempt` is the latest one."""
        self._queue: dict[str, list[tuple[int, str]]] = {}
        """By run: number and id of queued rollouts, oldest first; one that is tried again keeps its place."""
        self._places: dict[str, int] = {}
        self._attempts: dict[str, Attempt] = {}
        self._spans: dict[str, dict[str, Span]] = {}
        self._rewards: dict[str, list[Reward]] = {}
        self._queued = Signal()
        self._watches: set[Watch] = set()

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _open(self) -> threading.RLock:
        if self._closed:
            raise StoreError(f"store `{self.where}` is closed")
        return self._lock

    # Runs and resources.

    async def create_run(self, record: RunRecord) -> None:
        with self._open():
            if record.run_id in self._runs:
                raise StoreError(f"store `{self.where}` has a run `{record.run_id}` already")
            self._runs[record.run_id] = record

    async def runs(self) -> list[RunRecord]:
        with self._open():
            return sorted(self._runs.values(), key=lambda record: record.created_at)

    async def run(self, run_id: str) -> RunRecord:
        with self._open():
            if run_id not in self._runs:
                raise NotFoundError(f"no run `{run_id}` in store `{self.where}`; it has {list(self._runs)[-10:] or 'none'}")
            return self._runs[run_id]

    async def update_run(self, run_id: str, **values: Any) -> None:
        with self._open():
            if run_id in self._runs:
                self._runs[run_id] = msgspec.structs.replace(self._runs[run_id], **values)

    async def publish(self, run_id: str, values: Mapping[str, Resource], *, version: int | None = None) -> Resources:
        with self._open():
            versions = self._resources.setdefault(run_id, [])
            newest = versions[-1] if versions else Resources(version=-1, values={})
            number = newest.version + 1 if version is None else version
            if any(known.version == number for known in versions):
                raise StoreError(f"run `{run_id}` has resources version {number} already in store `{self.where}`; no version changes")
            made = Resources(version=number, values={**newest.values, **values}, resources_id=new_id("rs"))
            bisect.insort(versions, made, key=lambda known: known.version)
            return made

    async def resources(self, run_id: str, version: int | None = None) -> Resources:
        with self._open():
            found = [known for known in self._resources.get(run_id, []) if version is None or known.version == version]
            if not found:
                raise NotFoundError(f"run `{run_id}` has no resources version `{version if version is not None else 'newest'}`")
            return found[-1]

    async def add_events(self, run_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        encoded = [encode(event) for event in events]
        with self._open():
            if run_id not in self._runs:
                raise NotFoundError(f"no run `{run_id}` in store `{self.where}`")
            self._journals.setdefault(run_id, []).extend(encoded)

    async def journal(self, run_id: str) -> list[dict[str, Any]]:
        with self._open():
            return [msgspec.json.decode(event) for event in self._journals.get(run_id, ())]

    # Rollouts and attempts.

    async def enqueue(self, rollouts: Sequence[Rollout]) -> None:
        with self._open():
            if known := [rollout.rollout_id for rollout in rollouts if rollout.rollout_id in self._rollouts]:
                raise StoreError(f"store `{self.where}` has the rollout `{known[0]}` already")
            for rollout in rollouts:
                self._rollouts[rollout.rollout_id] = msgspec.structs.replace(rollout, status=RolloutStatus.QUEUED, attempt=None)
                self._places[rollout.rollout_id] = len(self._places)
                self._put(rollout)
        self._queued.notify()

    def _put(self, rollout: Rollout) -> None:
        bisect.insort(self._queue.setdefault(rollout.run_id, []), (self._places[rollout.rollout_id], rollout.rollout_id))

    async def claim(self, run_id: str, worker_id: str, limit: int = 1) -> list[Rollout]:
        with self._open():
            queue = self._queue.get(run_id, [])
            taken, queue[:limit] = queue[:limit], []
            return [self._begin(rollout_id, worker_id) for _, rollout_id in taken]

    def _begin(self, rollout_id: str, worker_id: str) -> Rollout:
        last, now = self._rollouts[rollout_id].attempt, time.time()
        attempt = Attempt(
            attempt_id=new_id("at"),
            rollout_id=rollout_id,
            number=1 if last is None else last.number + 1,
            worker_id=worker_id,
            started_at=now,
            heartbeat_at=now,
        )
        self._spans[attempt.attempt_id], self._rewards[attempt.attempt_id] = {}, []
        self._change(rollout_id, status=RolloutStatus.RUNNING)
        self._set(attempt)
        return self._rollouts[rollout_id]

    def _change(self, rollout_id: str, **values: Any) -> None:
        self._rollouts[rollout_id] = msgspec.structs.replace(self._rollouts[rollout_id], **values)

    def _set(self, attempt: Attempt) -> None:
        self._attempts[attempt.attempt_id] = attempt
        self._change(attempt.rollout_id, attempt=attempt)

    def work_mark(self) -> int:
        return self._queued.count

    async def wait_for_work(self, mark: int, timeout: float = POLL_SECONDS) -> None:
        await self._queued.wait(mark, timeout)

    async def heartbeat(self, attempt_ids: Sequence[str]) -> set[str]:
        with self._open():
            alive = {attempt_id for attempt_id in attempt_ids if self._runs_still(attempt_id)}
            for attempt_id in alive:
                self._set(msgspec.structs.replace(self._attempts[attempt_id], heartbeat_at=time.time()))
            return alive

    def _runs_still(self, attempt_id: str) -> bool:
        return attempt_id in self._attempts and self._attempts[attempt_id].status == AttemptStatus.RUNNING

    def post_heartbeat(self, attempt_ids: Sequence[str], alive: Callable[[set[str]], None]) -> None:
        coroutine = self.heartbeat(attempt_ids)  # it never waits
        try:
            coroutine.send(None)
        except StopIteration as ended:
            alive(ended.value)

    async def add_spans(self, spans: Sequence[Span]) -> None:
        kept = [_kept(span) for span in spans]
        with self._open():
            self._check(span.attempt_id for span in kept)
            for span in kept:
                self._spans[span.attempt_id].setdefault(span.span_id, span)

    async def add_rewards(self, attempt_id: str, rewards: Sequence[Reward]) -> None:
        with self._open():
            self._check([attempt_id])
            self._rewards[attempt_id] += rewards

    def _check(self, attempt_ids: Iterable[str]) -> None:
        if unknown := [attempt_id for attempt_id in attempt_ids if attempt_id not in self._attempts]:
            raise NotFoundError(f"no attempt `{unknown[0]}` in store `{self.where}`")

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
        again = failure == Failure.INFRASTRUCTURE if retry is None else retry
        outcome = {"failure": failure, "error": error and printable(error), "output": msgspec.json.decode(msgspec.json.encode(output))}
        kept = [_kept(span) for span in spans]
        with self._open():
            if not self._runs_still(attempt_id):
                return None
            for span in kept:
                self._spans[attempt_id].setdefault(span.span_id, span)
            self._rewards[attempt_id] += rewards
            after = self._end(attempt_id, status, again, **outcome)
        self._tell([self._attempts[attempt_id].rollout_id])
        return after

    def _end(self, attempt_id: str, status: AttemptStatus, retry: bool, **outcome: Any) -> RolloutStatus:
        """End an attempt, and its rollout unless it is tried again."""
        now = time.time()
        attempt = msgspec.structs.replace(self._attempts[attempt_id], status=status, ended_at=now, **outcome)
        self._set(attempt)
        rollout = self._rollouts[attempt.rollout_id]
        if retry and attempt.number < rollout.max_attempts:
            self._change(rollout.rollout_id, status=RolloutStatus.QUEUED)
            self._put(rollout)
            return RolloutStatus.QUEUED
        ends = {AttemptStatus.SUCCEEDED: RolloutStatus.SUCCEEDED, AttemptStatus.CANCELLED: RolloutStatus.CANCELLED}
        after = ends.get(status, RolloutStatus.FAILED)
        self._change(rollout.rollout_id, status=after, ended_at=now)
        return after

    async def expire(self, run_id: str, silent_seconds: float, *, retry: bool = True) -> int:
        error = f"the worker was silent for more than {silent_seconds:g} s"
        with self._open():
            silent = [
                attempt
                for attempt in self._attempts.values()
                if attempt.status == AttemptStatus.RUNNING
                and attempt.heartbeat_at < time.time() - silent_seconds
                and self._rollouts[attempt.rollout_id].run_id == run_id
            ]
            for attempt in silent:
                self._end(attempt.attempt_id, AttemptStatus.LOST, retry, failure=Failure.INFRASTRUCTURE, error=error)
        self._tell([attempt.rollout_id for attempt in silent])
        return len(silent)

    async def cancel(self, run_id: str, rollout_ids: Sequence[str] | None = None) -> None:
        with self._open():
            named = self._rollouts if rollout_ids is None else rollout_ids
            found = [self._rollouts[rollout_id] for rollout_id in named if rollout_id in self._rollouts]
            open_ = [rollout for rollout in found if rollout.run_id == run_id and rollout.status not in FINAL_ROLLOUT]
            for rollout in open_:
                if rollout.status == RolloutStatus.QUEUED:
                    self._queue[run_id].remove((self._places[rollout.rollout_id], rollout.rollout_id))
                    self._change(rollout.rollout_id, status=RolloutStatus.CANCELLED, ended_at=time.time())
                elif rollout.attempt is not None:
                    self._end(rollout.attempt.attempt_id, AttemptStatus.CANCELLED, False, failure=Failure.CANCELLED)
        self._tell([rollout.rollout_id for rollout in open_])

    def _tell(self, rollout_ids: Sequence[str]) -> None:
        """Wake who waits for rollouts that are queued again or have ended."""
        with self._lock:
            ended = [rollout_id for rollout_id in rollout_ids if self._rollouts[rollout_id].status in FINAL_ROLLOUT]
            watches = list(self._watches)
        if len(ended) < len(rollout_ids):
            self._queued.notify()
        for watch in watches:
            watch.ended(ended)

    async def wait_ended(self, rollout_ids: Sequence[str], timeout: float = POLL_SECONDS) -> int:
        watch = Watch(rollout_ids)
        with self._open():
            self._watches.add(watch)  # before the look: what ends meanwhile is not missed
            open_ = {key for key in rollout_ids if key in self._rollouts and self._rollouts[key].status not in FINAL_ROLLOUT}
            watch.ended(set(rollout_ids) - open_)
        try:
            await watch.wait(timeout)
        finally:
            with self._lock:
                self._watches.discard(watch)
        return len(watch.left)

    async def results(self, rollout_ids: Sequence[str]) -> list[RolloutResult]:
        with self._open():
            if missing := [rollout_id for rollout_id in rollout_ids if rollout_id not in self._rollouts]:
                raise NotFoundError(f"no rollout `{missing[0]}` in store `{self.where}`")
            return [self._result(self._rollouts[rollout_id]) for rollout_id in rollout_ids]

    def _result(self, rollout: Rollout) -> RolloutResult:
        attempt_id = rollout.attempt.attempt_id if rollout.attempt else ""
        spans = sorted(self._spans.get(attempt_id, {}).values(), key=lambda span: span.started_at)
        return RolloutResult(rollout=rollout, spans=tuple(spans), rewards=tuple(self._rewards.get(attempt_id, ())))

    async def find(self, run_id: str, *, mode: str | None = None, step: int | None = None, rollout_id: str | None = None) -> list[str]:
        wanted = {"run_id": run_id, "mode": mode, "step": step, "rollout_id": rollout_id}
        asked = {name: value for name, value in wanted.items() if value is not None}
        with self._open():
            return [key for key, rollout in self._rollouts.items() if all(getattr(rollout, name) == value for name, value in asked.items())]

    async def counts(self, run_id: str) -> Counts:
        with self._open():
            rollouts = Counter(str(rollout.mode) for rollout in self._rollouts.values() if rollout.run_id == run_id)
            failures: dict[str, dict[str, int]] = {}
            for attempt in self._attempts.values():
                rollout = self._rollouts[attempt.rollout_id]
                if attempt.failure is not None and rollout.run_id == run_id:
                    by_mode = failures.setdefault(str(attempt.failure), {})
                    by_mode[str(rollout.mode)] = by_mode.get(str(rollout.mode), 0) + 1
            return Counts(rollouts=dict(rollouts), failures=dict(sorted(failures.items())))


def _kept(span: Span) -> Span:
    """A span as a store gives it back."""
    return msgspec.json.decode(span_json(span), type=Span)
