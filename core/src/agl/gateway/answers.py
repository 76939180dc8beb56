"""An engine's answer, read. Log-probabilities that only the gateway asked for are most of its bytes: of them the numbers alone are kept."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType


class _Token(Struct, gc=False):
    logprob: float


class Logprobs(Struct, gc=False):
    """Log-probabilities of the sampled tokens, without texts and alternatives."""

    content: list[_Token]

    def values(self) -> list[float]:
        """(T,) natural logs."""
        return [token.logprob for token in self.content]


class _Choice(Struct, forbid_unknown_fields=True):
    """What engines say of a choice; one with other fields is read as it is."""

    message: Any
    index: Any = UNSET
    finish_reason: Any = UNSET
    stop_reason: Any = UNSET
    token_ids: Any = UNSET
    logprobs: Logprobs | UnsetType | None = UNSET


class _Answer(Struct, forbid_unknown_fields=True):
    choices: list[_Choice]
    id: Any = UNSET
    object: Any = UNSET
    created: Any = UNSET
    model: Any = UNSET
    usage: Any = UNSET
    service_tier: Any = UNSET
    system_fingerprint: Any = UNSET
    prompt_logprobs: Any = UNSET
    prompt_token_ids: Any = UNSET
    kv_transfer_params: Any = UNSET
    weight_version: Any = UNSET


_usual = msgspec.json.Decoder(_Answer)
_any = msgspec.json.Decoder(dict[str, Any])


def object_in(raw: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is; None for all else."""
    try:
        return _any.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def answer_in(raw: bytes) -> dict[str, Any] | None:
    """The same for an answer whose log-probabilities the client does not get: `Logprobs` stands in their place where its form is the usual one."""
    try:
        answer = _usual.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return object_in(raw)
    return _told(answer) | {"choices": [_told(choice) for choice in answer.choices]}


def _told(struct: Struct) -> dict[str, Any]:
    return {name: value for name in struct.__struct_fields__ if (value := getattr(struct, name)) is not UNSET}
