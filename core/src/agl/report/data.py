"""What a report shows of a run, read from its folder and its store."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.errors import DataError, NotFoundError
from agl.learned import directory_of
from agl.report.intervals import Estimate, estimate
from agl.report.pairs import KindRow, Pair, by_kind, choose, pairs_of, rewards_of, total
from agl.results import Evaluation, RolloutResult
from agl.roles import Roles
from agl.rollouts import FINAL_ROLLOUT
from agl.store.base import RunRecord, Store
from agl.store.opening import StoreSpec, opened, path_of
from agl.tasks import Mode

SHOWN_TASKS = 3
_SECRET = re.compile(r"api_?key|secret|password|credential|(access|auth|bearer|hf|wandb)_?token|(^|[._])token$", re.IGNORECASE)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A mean reward after a step."""

    step: int
    found: Estimate
    mode: str = "train"


class PromptChange(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that is another one after learning."""

    name: str
    lines: list[tuple[str, str]]
    """The whole text as a diff: what became of a line (`added`, `removed`, `kept`), and the line."""


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report shows."""

    record: RunRecord
    directory: Path
    """Where the run's files are now."""
    config: dict[str, str]
    metrics: list[dict[str, Any]]
    """One per finished step."""
    train: list[Point]
    measured: list[Point]
    """Evaluations in their order, `val` and `test`."""
    evaluations: list[Evaluation]
    before: Evaluation | None
    after: Evaluation | None
    overall: KindRow | None
    """Before and after over all tasks; None without both."""
    kinds: list[KindRow]
    pairs: list[Pair]
    shown: list[Pair]
    samples: list[RolloutResult]
    """Rollouts to show where there are no two evaluations to compare."""
    prompts: list[PromptChange]
    """Of the first version of the resources and that of the last step."""
    failures: dict[str, dict[str, int]]
    """Failed attempts: class, then mode, then how many."""
    rollouts: dict[str, int]
    """All rollouts by mode."""
    seconds: float
    """Of steps and of evaluations during learning."""
    by: str
    roles: Roles


async def load(given: StoreSpec, run_id: str, by: str) -> ReportData:
    """Read a run.

    Raises:
        NotFoundError: no such store, no such run in it, or its files are on another machine.
        DataError: a line of the run's files cannot be read.
    """
    path = path_of(given)
    if path is not None and not path.exists():  # opening it would make one
        raise NotFoundError(f"no store at `{path}`; give the path of the `store.sqlite` that the run was made with")
    with opened(given) as store:
        record = await store.run(run_id)
        directory = directory_of(record, store)
        if not directory.exists() and not Path(record.folder).exists():
            raise NotFoundError(
                f"run `{run_id}` ran on another machine: its metrics are in `{directory}`, which is not here; write the report there, "
                f"or bring that folder to `{store.folder / 'runs' / run_id}`"
            )
        metrics = read_lines(directory / "metrics.jsonl")
        evaluations = [await _evaluation(store, line) for line in read_lines(directory / "evaluations.jsonl")]
        before, after = _compared(evaluations)
        samples = [] if before and after else await _samples(store, run_id, evaluations)
        counts = await store.counts(run_id)
        prompts = await _prompt_changes(store, run_id, metrics)
    both = (before, after) if before and after else None
    pairs = pairs_of(*both) if both else []
    return ReportData(
        record=record,
        directory=directory,
        config=_config(record),
        metrics=metrics,
        train=_train_points(metrics),
        measured=_measured_points(evaluations),
        evaluations=evaluations,
        before=before,
        after=after,
        overall=total(*both) if both else None,
        kinds=by_kind(*both, by) if both else [],
        pairs=pairs,
        shown=choose(pairs, by, SHOWN_TASKS),
        samples=samples,
        prompts=prompts,
        failures=counts.failures,
        rollouts=counts.rollouts,
        seconds=sum(line.get("seconds") or 0.0 for line in metrics) + sum(_seconds(item) for item in evaluations if item.mode == Mode.VAL),
        by=by,
        roles=Roles(record.config.get("agent_match"), record.config.get("roles")),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file; an unfinished last line, of a process that was killed, is left out.

    Raises:
        DataError: a line before the last one is not JSON.
    """
    texts = path.read_text().splitlines() if path.exists() else []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                raise DataError(f"line {number} of `{path}` is not JSON: {error}") from None
    return lines


async def _evaluation(store: Store, line: Mapping[str, Any]) -> Evaluation:
    results = tuple(await store.results(line["rollouts"]))
    return Evaluation(results=results, mode=line["mode"], step=line["step"], resources_version=line["version"])


async def _prompt_changes(store: Store, run_id: str, metrics: Sequence[Mapping[str, Any]]) -> list[PromptChange]:
    """What the steps made of the prompts; versions between steps are tries."""
    if not metrics:
        return []
    first, last = [(await store.resources(run_id, version)).prompts() for version in (0, metrics[-1]["version"])]
    changed = [name for name in sorted(first.keys() & last.keys()) if first[name] != last[name]]
    return [PromptChange(name=name, lines=_diff(first[name].template, last[name].template)) for name in changed]


def _diff(old: str, new: str) -> list[tuple[str, str]]:
    kinds = {"+": "added", "-": "removed", " ": "kept"}
    lines = difflib.ndiff(old.splitlines(), new.splitlines())
    return [(kinds[line[0]], line[2:]) for line in lines if line[0] in kinds]


def _compared(evaluations: Sequence[Evaluation]) -> tuple[Evaluation | None, Evaluation | None]:
    """First and last evaluation on the test set, else on the validation set; one alone is a before or an after."""
    for mode in (Mode.TEST, Mode.VAL):
        found = [evaluation for evaluation in evaluations if evaluation.mode == mode]
        if len(found) > 1:
            return found[0], found[-1]
    return (evaluations[0], None) if evaluations else (None, None)


async def _samples(store: Store, run_id: str, evaluations: Sequence[Evaluation]) -> list[RolloutResult]:
    if evaluations:
        return list(evaluations[-1].results[:SHOWN_TASKS])
    newest = (await store.find(run_id))[-50:]
    ended = [result for result in await store.results(newest) if result.rollout.status in FINAL_ROLLOUT]
    return ended[-SHOWN_TASKS:]


def _config(record: RunRecord) -> dict[str, str]:
    """Configuration as text, without what is not set and without what looks like a secret: a report is sent around."""
    shown: dict[str, str] = {}
    for name, value in record.config.items():
        if value is None or value in ({}, []):
            continue
        value = _without_secrets(name, value)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        shown[name.removeprefix("algorithm.")] = text
    return shown


def _without_secrets(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return "•••"
    if not isinstance(value, dict):
        return value
    return {inner: _without_secrets(inner, given) for inner, given in cast(dict[str, Any], value).items()}


def _train_points(metrics: Sequence[Mapping[str, Any]]) -> list[Point]:
    points: list[Point] = []
    for line in metrics:
        reward, half = _finite(line.get("reward")), _finite(line.get("reward_interval"))
        if reward is None:
            continue
        low, high = (None, None) if half is None else (reward - half, reward + half)
        points.append(Point(step=line["step"], found=Estimate(mean=reward, low=low, high=high, n=line.get("rollouts") or 0)))
    return points


def _measured_points(evaluations: Sequence[Evaluation]) -> list[Point]:
    found = [(evaluation, estimate(rewards_of(evaluation))) for evaluation in evaluations]
    return [Point(step=item.step, found=mean, mode=item.mode) for item, mean in found if mean is not None]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _seconds(evaluation: Evaluation) -> float:
    """From its first rollout asked for to its last one ended."""
    rollouts = [result.rollout for result in evaluation.results]
    ended = [rollout.ended_at for rollout in rollouts if rollout.ended_at is not None]
    return max(ended) - min(rollout.created_at for rollout in rollouts) if ended else 0.0
