"""The HTML page: what it says of a run, in words, and the template filled in."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.report.data import ReportData
from agl.report.intervals import Estimate
from agl.report.pairs import Pair, kind_of
from agl.report.plot import LABELS, make_chart, unit_rewards
from agl.report.trees import RolloutView, text_of, view
from agl.results import Evaluation, RolloutResult
from agl.tasks import Mode

SETS = {"test": "test set", "val": "validation set", "train": "training set"}
LONG_TEXT, LONG_LINES = 420, 9
"""A text with more characters or lines is folded."""
FAILURES = {
    "agent": "the agent raised an exception; counts as its behaviour",
    "timeout": "the agent ran into its deadline; counts as its behaviour",
    "infrastructure": "endpoint or worker failed; tried again, then left out",
    "reward": "no usable reward; left out",
    "cancelled": "stopped from outside; left out",
}
_FIRST = (
    "step",
    "version",
    "reward",
    "reward_interval",
    "groups",
    "groups_used",
    "loss",
    "kl",
    "entropy",
    "grad_norm",
    "seconds",
)


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout of a comparison, with what stands above it."""

    title: str
    rollout: RolloutView


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One task with its rollouts side by side."""

    kind: str | None
    fields: list[tuple[str, str]]
    """The task."""
    columns: list[Column]


def render(data: ReportData) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # whatever an agent or a model wrote stays text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast(dict[str, Any], environment.filters)
    filters.update(
        number=number,
        signed=signed,
        duration=duration,
        range=interval_text,
        clock=clock,
        is_long=is_long,
        is_brief=is_brief,
    )
    evaluated = data.after or data.before
    return environment.get_template("report.html.j2").render(
        data=data,
        charts={"wide": make_chart(data, 1000, 420), "narrow": make_chart(data, 420, 340)},
        labels=LABELS,
        set_name=SETS[evaluated.mode] if evaluated else None,
        only=data.before if data.after is None else None,
        notes=notes(data),
        verdict=verdict(data),
        counts=counts(data.pairs),
        unit=unit_rewards(data),
        comparisons=comparisons(data),
        columns=columns(data.metrics),
        failures=FAILURES,
    )


def comparisons(data: ReportData) -> list[Comparison]:
    """The tasks to look at: before and after side by side, else single rollouts."""
    if data.shown:
        return [_comparison(data, pair.after, [("Before", pair.before), ("After", pair.after)]) for pair in data.shown]
    return [_comparison(data, result, [("Rollout", result)]) for result in data.samples]


def _comparison(data: ReportData, shown: RolloutResult, rollouts: Sequence[tuple[str, RolloutResult]]) -> Comparison:
    task = shown.task.data
    return Comparison(
        kind=kind_of(task, data.by) if data.by in task else None,
        fields=[(name, text_of(value)) for name, value in task.items() if name != data.by],
        columns=[Column(title=title, rollout=view(result, data.roles)) for title, result in rollouts],
    )


def notes(data: ReportData) -> list[str]:
    """What a reader must know before believing the page: what is missing, and what was left out."""
    found: list[str] = []
    if data.record.status != "done":
        found.append(f"This run is not finished: its status is “{data.record.status}” after {_many(len(data.metrics), 'step')}.")
    tested = [item for item in data.evaluations if item.mode == Mode.TEST]
    if not data.evaluations:
        found.append("Nothing was evaluated, so there is no before and after. Give “test_dataset” to measure the gain.")
    elif not tested:
        found.append("No test set was given. What was chosen by the validation set makes the gain on it look larger than it is.")
    elif len(tested) == 1 and data.metrics:
        found.append("The test set was measured once only: there is no test reward after learning yet.")
    if not data.metrics:
        found.append("No step has finished, so there is no learning curve yet.")
    for name, evaluation in (("before", data.before), ("after", data.after)):
        if evaluation is not None and evaluation.excluded:
            found.append(_left_out(name, evaluation))
    return found


def _left_out(name: str, evaluation: Evaluation) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in evaluation.excluded.most_common())
    left_out, n = sum(evaluation.excluded.values()), len(evaluation.results)
    return f"{left_out} of {_many(n, 'rollout')} {name} learning have no reward and are left out of the mean ({reasons})."


def verdict(data: ReportData) -> str | None:
    """Whether the change is more than chance; None without one."""
    found = data.overall.change if data.overall else None
    if found is None or found.low is None or found.high is None:
        return None
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "within noise"


def counts(pairs: Sequence[Pair]) -> dict[str, int]:
    """How many tasks got better, stayed and got worse."""
    gains = [pair.gain for pair in pairs if pair.gain is not None]
    return {"better": sum(g > 0 for g in gains), "same": sum(g == 0 for g in gains), "worse": sum(g < 0 for g in gains)}


def columns(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the metrics that are numbers, the best known ones first."""
    names = dict.fromkeys(name for line in metrics for name, value in line.items() if isinstance(value, (int, float)))
    return [name for name in _FIRST if name in names] + [name for name in names if name not in _FIRST]


def is_long(value: str) -> bool:
    """Whether a text is folded."""
    return len(value) > LONG_TEXT or value.count("\n") >= LONG_LINES


def is_brief(value: str) -> bool:
    """Whether an input or output of a span is shown without being asked for."""
    return len(value) <= 160 and value.count("\n") < 3


def number(value: Any, digits: int = 3) -> str:
    """A number to read; a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.3g}"


def signed(value: float) -> str:
    """A change, with a real minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def interval_text(found: Estimate, sign: bool = False) -> str:
    """The interval's ends in words."""
    if found.low is None or found.high is None:
        return "no interval of one value"
    ends = [signed(end) if sign else number(end) for end in (found.low, found.high)]
    return f"{ends[0]} to {ends[1]}"


def duration(seconds: float | None) -> str:
    """Seconds to read: `0.42 s`, `6 min 52 s`, `1 h 12 min`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A Unix time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
