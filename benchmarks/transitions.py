"""From recorded calls to rows: 10,000 calls in 500 rollouts, beside a tenth of them, and beside rollouts ten times as long.

    make bench-transitions        (python benchmarks/transitions.py)

A rollout is a conversation of 20 calls by two agents that take turns, each prompt its agent's whole history, with a fork and a retried
call; 60 prompt and 30 sampled tokens a call. The last line is one JSON object; the exit code is 1 when the limit is passed.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from agl.spans import Choice, LLMCall, Span, SpanKind
from agl.transitions import rows_of, transitions_of

CALLS, ROLLOUTS, LIMIT_S = 10_000, 500, 2.0
ASKED, ANSWERED = 60, 30


def main() -> None:
    """Measure, show, and exit with 1 when the limit is passed."""
    table = Table("rollouts", "calls each", "tokens read", "rows", "seconds", "µs a call", title="Recorded calls to rows")
    whole, tenth, longer = (measure(*size) for size in ((ROLLOUTS, CALLS), (ROLLOUTS // 10, CALLS // 10), (ROLLOUTS // 100, CALLS // 10)))
    for one in (whole, tenth, longer):
        shown = (one["rollouts"], one["calls"] // one["rollouts"], f"{one['tokens']:,}", one["rows"])
        table.add_row(*map(str, shown), f"{one['seconds']:.3f}", f"{one['seconds'] / one['calls'] * 1e6:.0f}")
    Console().print(table)
    told = {
        "calls": CALLS,
        "rollouts": ROLLOUTS,
        "rows": whole["rows"],
        "seconds": round(whole["seconds"], 3),
        "limit_s": LIMIT_S,
        "times_a_tenth_of_the_calls": round(whole["seconds"] / tenth["seconds"], 2),
        "us_per_1000_tokens": round(whole["seconds"] / whole["tokens"] * 1e9, 1),
        "us_per_1000_tokens_in_rollouts_ten_times_as_long": round(longer["seconds"] / longer["tokens"] * 1e9, 1),
    }
    print(json.dumps(told))
    sys.exit(whole["seconds"] > LIMIT_S)


def measure(rollouts: int, calls: int) -> dict[str, Any]:
    """Best of three: processor seconds from the spans of all rollouts to their rows."""
    attempts = [list(spans_of(number, calls // rollouts)) for number in range(rollouts)]
    seconds, rows = [], 0
    for _ in range(3):
        started = time.process_time()
        rows = sum(len(rows_of(transitions_of(spans))) for spans in attempts)
        seconds.append(time.process_time() - started)
    tokens = sum(len(span.attributes["agl.call"]["prompt_ids"]) + ANSWERED for spans in attempts for span in spans)
    return {"rollouts": rollouts, "calls": calls, "seconds": min(seconds), "rows": rows, "tokens": tokens}


def spans_of(number: int, calls: int) -> Iterator[Span]:
    """The llm spans of one rollout."""
    draw, clock = random.Random(number), itertools.count()
    histories = {role: [draw.randrange(50_000) for _ in range(ASKED)] for role in ("writer", "critic")}
    made = 0
    for turn in itertools.count():
        role = ("writer", "critic")[turn % 2]
        prompt = histories[role] + [draw.randrange(50_000) for _ in range(ASKED)]
        # The third turn was answered twice (a fork), the fourth was sent twice (a retry).
        for _ in range(2 if turn in (2, 3) else 1):
            answer = [draw.randrange(50_000) for _ in range(ANSWERED)]
            yield span(number, next(clock), role, prompt, answer, call_id="retried" if turn == 3 else None)
            made += 1
            if made == calls:
                return
        histories[role] = prompt + answer


def span(rollout: int, number: int, role: str, prompt: list[int], answer: list[int], call_id: str | None) -> Span:
    """One recorded call."""
    choice = Choice(response_ids=answer, logprobs=[-0.5] * len(answer), finish_reason="stop")
    call = LLMCall(request={"temperature": 1.0}, response={}, choices=[choice], prompt_ids=prompt, version="1")
    return Span(
        span_id=f"{number:016x}",
        trace_id="0" * 32,
        rollout_id=f"ro-{rollout}",
        attempt_id=f"at-{rollout}",
        name="chat",
        kind=SpanKind.LLM,
        role=role,
        started_at=float(number),
        ended_at=number + 0.5,
        attributes={"agl.call": msgspec.to_builtins(call), "agl.call_id": call_id},
    )


if __name__ == "__main__":
    main()
