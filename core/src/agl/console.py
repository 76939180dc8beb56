"""Console: what a run shows while it works. One line per step; a bar for the rollouts where there is a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.tree import Tree

from agl.results import Evaluation, RolloutResult
from agl.spans import Span, SpanKind, SpanStatus

_WIDTH = 100
"""Characters of a text shown in one line."""


class Console:
    """Prints a run's progress; silent when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self.total_steps = 0
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._told: set[str] = set()
        self._has_bar = False

    def say(self, text: str) -> None:
        """A line of text, without markup."""
        self._rich.print(text, markup=False)

    def show(self, table: Any) -> None:
        """Anything that rich can print."""
        self._rich.print(table)

    @contextlib.contextmanager
    def rollouts(self, label: str, total: int) -> Generator[Callable[[int], None]]:
        """A bar over rollouts; yields a function that takes how many have ended. A terminal has one bar at a time: the outermost."""
        if not self._rich.is_terminal or self._rich.quiet or self._has_bar:
            yield lambda ended: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._has_bar = True
        try:
            with Progress(*columns, console=self._rich, transient=True) as progress:
                task = progress.add_task(f"{label} rollouts", total=total)
                yield lambda ended: progress.update(task, completed=ended)
        finally:
            self._has_bar = False

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One line for a finished step."""
        number = metrics["step"]
        if self._first_step is None:
            self._first_step, self._started = number - 1, time.monotonic() - metrics.get("seconds", 0.0)
        done = number - self._first_step
        left = (time.monotonic() - self._started) / max(1, done) * (self.total_steps - number)
        known = [f"step {number:>3}/{self.total_steps}"]
        if metrics.get("reward") is not None:
            interval = metrics.get("reward_interval")
            known.append(f"reward {metrics['reward']:.3f}" + ("" if interval is None else f" ± {interval:.3f}"))
        if "groups" in metrics:
            known.append(f"groups {metrics.get('groups_used', 0)}/{metrics['groups']}")
        known += [f"{name} {metrics[name]:.3g}" for name in ("loss", "kl", "entropy", "grad_norm") if name in metrics]
        if metrics.get("sampled_tokens"):
            known.append(f"{metrics['sampled_tokens'] / max(metrics['seconds'], 1e-9):.0f} tokens/s")
        if metrics.get("groups_used") == 0:
            known.append("nothing to learn: within each group all rewards are equal")
        self.say("  ".join([*known, f"{metrics['seconds']:.1f} s", f"left {int(left) // 60}:{int(left) % 60:02}"]))

    def evaluation(self, evaluation: Evaluation) -> None:
        """One line for an evaluation."""
        mean = "none" if evaluation.mean is None else f"{evaluation.mean:.3f}"
        excluded = f", excluded: {dict(evaluation.excluded)}" if evaluation.excluded else ""
        self.say(f"{evaluation.mode:>4} after {evaluation.step} steps: mean reward {mean} on {len(evaluation.results)} tasks{excluded}")

    def failures(self, counts: str, example: str) -> None:
        """Failed rollouts of a batch; an example of each kind of message once."""
        detail = "" if example in self._told else f"; for example: {_short(example)}"
        self._told.add(example)
        self.say(f"  failed rollouts: {counts}{detail}")

    def rollout(self, result: RolloutResult) -> None:
        """One rollout as a tree of its spans, with its rewards."""
        self._rich.print(span_tree(result))


def span_tree(result: RolloutResult) -> Tree:
    """The spans of a rollout as a tree, in order of their start, with texts, tokens and rewards."""
    attempt = result.rollout.attempt
    reward = "none" if result.reward is None else f"{result.reward:g}"
    title = f"{result.rollout.rollout_id}  task {result.task.task_id}  reward {reward}"
    if result.failure is not None:
        title += f"  FAILED ({result.failure})"
    tree = Tree(_plain(title))
    children: dict[str | None, list[Span]] = {}
    known = {span.span_id for span in result.spans}
    for span in result.spans:
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    _grow(tree, children.get(None, []), children, result)
    for given in result.rewards:
        if given.span_id not in known:
            tree.add(_plain(f"reward {given.name} = {given.value:g} (from {given.source})"))
    if attempt is not None and attempt.error:
        tree.add(_plain(attempt.error.strip()))
    return tree


def _grow(tree: Tree, spans: Sequence[Span], children: Mapping[str | None, list[Span]], result: RolloutResult) -> None:
    for span in spans:
        branch = tree.add(_plain(_describe(span)))
        for given in result.rewards:
            if given.span_id == span.span_id:
                branch.add(_plain(f"reward {given.name} = {given.value:g} (from {given.source})"))
        _grow(branch, children.get(span.span_id, []), children, result)


def _describe(span: Span) -> str:
    seconds = f"{span.ended_at - span.started_at:.2f} s"
    parts = [f"{span.kind} {span.name}", seconds]
    if span.kind == SpanKind.LLM:
        call: dict[str, Any] = span.attributes.get("agl.call") or {}
        parts.append(f"role {span.role}")
        parts += [_short(answer) for answer in answers(call)]
        choices: list[dict[str, Any]] = call.get("choices") or []
        prompt: list[int] = call.get("prompt_ids") or []
        sampled = sum(len(choice.get("response_ids") or ()) for choice in choices)
        parts.append(f"{len(prompt)}+{sampled} tokens" if prompt else "no token ids")
    if span.status != SpanStatus.OK:
        parts.append(f"{span.status}: {_short(span.error or '')}")
    return "  ".join(parts)


def answers(call: Mapping[str, Any]) -> list[str]:
    """Texts of the answers of a recorded LLM call."""
    response: dict[str, Any] = call.get("response") or {}
    choices: list[dict[str, Any]] = response.get("choices") or []
    messages: list[dict[str, Any]] = [choice.get("message") or {} for choice in choices]
    return [message.get("content") or str(message.get("tool_calls") or "") for message in messages]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
