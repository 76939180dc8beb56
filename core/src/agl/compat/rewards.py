"""Rewards as spans, for code that looks for them there; AGL keeps them as records of their own, `result.rewards`."""

from __future__ import annotations

from collections.abc import Sequence

from agl.results import RolloutResult
from agl.rewards import FINAL, Reward
from agl.spans import Span, SpanKind, new_span_id, new_trace_id

_NAME, _SOURCE, _VALUE = "agl.reward.name", "agl.reward.source", "agl.reward.value"


def with_rewards(result: RolloutResult) -> list[Span]:
    """The spans of a result, and after them one for each of its rewards, in order of time."""
    spans = list(result.spans)
    root = next((span for span in spans if span.parent_id is None), None)
    return [*spans, *(_span(result, reward, root) for reward in result.rewards)]


def _span(result: RolloutResult, reward: Reward, root: Span | None) -> Span:
    assert result.rollout.attempt is not None
    return Span(
        span_id=new_span_id(),
        trace_id=root.trace_id if root else new_trace_id(),
        parent_id=reward.span_id or (root.span_id if root else None),
        rollout_id=result.rollout.rollout_id,
        attempt_id=result.rollout.attempt.attempt_id,
        name=f"reward {reward.name}",
        kind=SpanKind.REWARD,
        role=reward.role,
        started_at=reward.created_at,
        ended_at=reward.created_at,
        attributes={_NAME: reward.name, _SOURCE: reward.source, _VALUE: reward.value},
    )


def is_reward_span(span: Span) -> bool:
    """Whether a span holds a reward."""
    return span.kind == SpanKind.REWARD and _VALUE in span.attributes


def get_reward_value(span: Span) -> float | None:
    """The reward of a span; None when it holds none."""
    return float(span.attributes[_VALUE]) if is_reward_span(span) else None


def find_reward_spans(spans: Sequence[Span]) -> list[Span]:
    """Those of the spans that hold a reward."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[Span] | RolloutResult) -> float | None:
    """The reward of the whole rollout; None when it is missing.

    Args:
        spans: as a hook or `InMemoryLightningStore.query_spans` gives them, or the result itself. Of spans, the last reward
            named `reward` counts.
    """
    if isinstance(spans, RolloutResult):
        return spans.reward
    final = [span for span in find_reward_spans(spans) if span.attributes[_NAME] == FINAL and span.role is None]
    return get_reward_value(final[-1]) if final else None
