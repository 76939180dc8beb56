"""Reading training traces of OpenEnv, as of openenv 0.10.0 (schema version 1 of both forms).

A `TrainingTrace` (`openenv.core.harness.training`) holds `turns`; what `openenv.harbor.contract.export_training_contract`
writes holds `trace_entries` and the task's outcome. A turn is one LLM call with the engine's tokens and a loss mask over
prompt + completion.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agl.errors import DataError
from agl.export.calls import call_from
from agl.export.made import Given
from agl.rewards import FINAL
from agl.spans import Choice, LLMCall

SCHEMA_VERSION = 1
SOURCE = "openenv"
"""Source of the rewards."""


class Turn(msgspec.Struct, frozen=True):
    """One engine call."""

    prompt_token_ids: list[int]
    """(P,)"""
    completion_token_ids: list[int]
    """(T,)"""
    per_token_logps: list[float]
    """(T,)"""
    loss_mask: list[int]
    """(P + T,) 1 where a token may be trained."""
    request: dict[str, Any] = {}
    response: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Trace(msgspec.Struct, frozen=True):
    """One rollout, in either form."""

    schema_version: int = SCHEMA_VERSION
    turns: msgspec.Raw = msgspec.Raw(b"[]")
    trace_entries: list[Turn] | None = None
    task_id: str = ""
    task_name: str = ""
    dataset: str = ""
    reward: float | None = None
    rewards: dict[str, float] = {}


def is_trace(record: dict[str, Any]) -> bool:
    """Whether a record is a training trace."""
    return "trace_entries" in record or ("turns" in record and "messages" not in record)


def read_trace(record: dict[str, Any], version: str | None) -> Given:
    """The rollout that a trace tells of.

    Args:
        version: of the weights that sampled, which a trace does not tell; without it no call is trained.

    Raises:
        DataError: it is of another schema, or its lists do not fit together.
    """
    try:
        trace = msgspec.json.decode(msgspec.json.encode(record), type=Trace)
        turns = trace.trace_entries
        turns = msgspec.json.decode(trace.turns, type=list[Turn]) if turns is None else turns
    except msgspec.DecodeError as error:
        raise DataError(f"it is no training trace of OpenEnv: {error}") from error
    if trace.schema_version != SCHEMA_VERSION:
        raise DataError(f"the trace has version {trace.schema_version} of OpenEnv's schema, this agl-core reads {SCHEMA_VERSION}")
    named = [(name, value, SOURCE) for name, value in trace.rewards.items() if name != FINAL]
    return Given(
        calls=[_call(number, turn, version) for number, turn in enumerate(turns)],
        task={"task_id": trace.task_id, "task_name": trace.task_name, "dataset": trace.dataset},
        task_id=trace.task_id or None,
        untrained=[_masked(turn) for turn in turns],
        rewards=[*named, *([] if trace.reward is None else [(FINAL, trace.reward, SOURCE)])],
    )


def _call(number: int, turn: Turn, version: str | None) -> LLMCall:
    prompt, sampled = len(turn.prompt_token_ids), len(turn.completion_token_ids)
    if len(turn.loss_mask) != prompt + sampled or len(turn.per_token_logps) != sampled or any(turn.loss_mask[:prompt]):
        raise DataError(
            f"turn {number} has {prompt} + {sampled} tokens, {len(turn.per_token_logps)} logprobs and a loss mask of {len(turn.loss_mask)}, "
            "which must cover prompt and completion and be 0 over the prompt"
        )
    choices: list[dict[str, Any]] = turn.response.get("choices") or [{}]
    sampling: dict[str, Any] = turn.metadata.get("sampling_params") or {}
    model = {"model": turn.metadata["model"]} if "model" in turn.metadata else {}
    request = {name: value for name, value in {**sampling, **model, **turn.request}.items() if value is not None}
    choice = Choice(response_ids=turn.completion_token_ids, logprobs=turn.per_token_logps, finish_reason=choices[0].get("finish_reason"))
    answer = choices[0].get("message") or {"role": "assistant", "content": ""}
    return call_from(request, [answer], [choice], prompt_ids=turn.prompt_token_ids, version=version)


def _masked(turn: Turn) -> str | None:
    """Why a call is not trained. A transition is trained whole or not at all, so one that is masked in part is not."""
    mask = turn.loss_mask[len(turn.prompt_token_ids) :]
    if all(mask):
        return None
    return "the trace masks some of its tokens out" if any(mask) else "the trace masks it out"
