"""The spans of an attempt: whose they are, and how they hang together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agl.agents import rollout as agent_of
from agl.results import RolloutResult
from agl.spans import Span, SpanKind, SpanStatus
from agl.testing.bench import Bench, calls_of, succeeded, tasks_in, text_of
from agl.testing.case import FrameworkCase
from agl.testing.expected import require
from agl.testing.framework_checks import counted, on_bench


@on_bench()
async def spans_form_one_tree(bench: Bench) -> None:
    """If this fails, spans of an attempt have no parent, another attempt's ids, or no end: the reader of a trace cannot tell who did what."""
    _check_tree(bench.case, await bench.one())


@on_bench()
async def gathered_runs_keep_their_spans(bench: Bench) -> None:
    """If this fails, runs of the agent that one attempt makes at the same time (`asyncio.gather`) take each other's roles or spans."""

    @agent_of
    async def both(task: Any, resources: Any) -> float:
        await asyncio.gather(bench.call(11, resources), bench.call(12, resources))
        return 1.0

    for result in await bench.run(range(1, 5), both):
        _check_tree(bench.case, succeeded(result))
        _check_roles(result, [*bench.case.roles, *bench.case.roles])
        for number in (11, 12):
            own = [span for span in calls_of(result) if f"task-{number}" in tasks_in(span.attributes["agl.call"]["request"])]
            require(
                counted(span.role for span in own) == counted(bench.case.roles),
                f"of two runs at the same time one has the roles {counted(span.role for span in own)}, not {counted(bench.case.roles)}",
            )


@on_bench(needs="run_sync")
async def threads_keep_their_spans(bench: Bench) -> None:
    """If this fails, an agent that is called in a thread (as blocking code is) loses its attempt, its role or its spans."""

    @agent_of
    def blocking(task: Any) -> float:
        number = int(task["text"].rpartition("-")[2])
        bench.case.run_sync(bench.agent, bench.case.make_input(text_of(number)))
        return 1.0

    results = await bench.run(range(1, 9), blocking)
    for number, result in enumerate(results, 1):
        _check_tree(bench.case, succeeded(result))
        _check_roles(result, bench.case.roles)
        seen = {task for span in calls_of(result) for task in tasks_in(span.attributes["agl.call"]["request"])}
        require(seen == {f"task-{number}"}, f"the attempt of task-{number} recorded calls of {sorted(seen)}")


def _check_roles(result: RolloutResult, roles: Sequence[str | None]) -> None:
    found, expected = counted(span.role for span in calls_of(result)), counted(roles)
    require(found == expected, f"the calls have the roles {found}, `roles` says {expected}")


def _check_tree(case: FrameworkCase, result: RolloutResult) -> None:
    attempt = result.rollout.attempt
    spans, ids = result.spans, {span.span_id for span in result.spans}
    foreign = [
        span.name for span in spans if attempt is None or (span.rollout_id, span.attempt_id) != (attempt.rollout_id, attempt.attempt_id)
    ]
    require(not foreign, f"these spans carry another rollout or attempt: {foreign}")
    require(len(ids) == len(spans), "two spans have the same id")
    require(len({span.trace_id for span in spans}) == 1, f"the spans have {len({span.trace_id for span in spans})} trace ids")
    orphans = [span.name for span in spans if span.parent_id is not None and span.parent_id not in ids]
    require(not orphans, f"these spans hang under a span that is not there: {orphans}")
    roots = [span.name for span in spans if span.parent_id is None]
    require(len(roots) == 1, f"{len(roots)} spans have no parent: {roots}")
    left = [span.name for span in spans if span.status == SpanStatus.OPEN or span.ended_at < span.started_at]
    require(not left, f"these spans were never ended: {left}")
    if case.records_spans:
        _check_parents({span.span_id: span for span in spans})


def _check_parents(spans: dict[str, Span]) -> None:
    """Every call stands below a span of the framework with the same role."""
    for span in spans.values():
        if span.kind != SpanKind.LLM:
            continue
        parent = spans[span.parent_id or ""]
        require(parent.parent_id is not None, f"a call of the role `{span.role}` hangs under the attempt itself; `records_spans` is set")
        require(
            parent.role == span.role, f"a call of the role `{span.role}` hangs under `{parent.name}`, which has the role `{parent.role}`"
        )
