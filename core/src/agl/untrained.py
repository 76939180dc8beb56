"""Untrained: why calls cannot enter a policy loss, in the words that a run says it with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.resources import LLM, Resources
from agl.results import Group, RolloutResult
from agl.transitions import NO_IDS, NO_LOGPROBS, NO_VERSION, Transition

_ENDPOINTS_FAULT = (NO_IDS, NO_LOGPROBS, NO_VERSION)
NO_CALLS = (
    "the agent made no LLM call through its attempt's endpoint (does it use another client than the OpenAI SDK, or another endpoint?)"
)


class Lacking(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint whose answers no policy loss can take."""

    endpoint: str
    reason: str
    calls: int
    roles: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        roles = f" (roles {', '.join(self.roles)})" if self.roles else ""
        return f"{self.calls} calls{roles} teach nothing, since {self.reason}: {self.endpoint}. {self.remedy}"


def why_untrained(groups: Sequence[Group], resources: Resources | None = None) -> str:
    """The reasons why calls are left out, most frequent first, and where it is an endpoint's fault, what to do."""
    calls = [call for group in groups for result in group.results for call in result.transitions]
    if not calls:
        return NO_CALLS
    reasons = Counter(call.untrained for call in calls if call.untrained is not None)
    told = [f"{count} calls: {reason}" for reason, count in reasons.most_common()]
    return "; ".join(told) + "".join(f". {one.endpoint}: {one.remedy}" for one in lacking(groups, resources))


def lacking(groups: Sequence[Group], resources: Resources | None = None) -> list[Lacking]:
    """The endpoints that did not give what a policy loss needs, those with most calls first.

    Args:
        resources: where the endpoints stand; without them the models are named.
    """
    llms = {llm.model: llm for llm in (resources.llms() if resources else {}).values()}
    counts: Counter[tuple[str, str]] = Counter()
    roles: dict[tuple[str, str], set[str]] = {}
    for result in (result for group in groups for result in group.results):
        models = _models(result)
        for call in result.transitions:
            if call.untrained in _ENDPOINTS_FAULT:
                key = models.get(call.span_id, "?"), call.untrained
                counts[key] += 1
                roles.setdefault(key, set()).update({call.role} if call.role else ())
    return [
        Lacking(
            endpoint=f"{llms[model].endpoint} (model `{model}`)" if model in llms else f"the endpoint of the model `{model}`",
            reason=reason,
            calls=count,
            roles=tuple(sorted(roles[model, reason])),
            remedy=_remedy(llms, model),
        )
        for (model, reason), count in counts.most_common()
    ]


def _models(result: RolloutResult) -> dict[str, str]:
    return {span.span_id: str(span.attributes.get("gen_ai.request.model")) for span in result.spans}


def _remedy(llms: Mapping[str, LLM], model: str) -> str:
    freeze = 'Else freeze its roles: `roles={"NAME": "freeze"}`'
    if model in llms and llms[model].dialects:
        return (
            f"It is called in its own {' and '.join(llms[model].dialects)}, which tell no token ids: leave `dialects` out, and the calls are made as "
            f'chat completions (with `version="0"` where its server can give ids). {freeze}'
        )
    if model in llms and llms[model].version is None:
        return (
            "The gateway asks for token ids and logprobs only of a model under training: let the algorithm serve it, or, if its server can give "
            f'them, name the version of its weights: `agl.LLM(…, version="0")`. {freeze}'
        )
    return f"Its server must answer `return_token_ids` and `logprobs`, as vLLM from 0.10.2 and AGL's own engine do. {freeze}"


def call_counts(calls: Sequence[Transition]) -> dict[str, Any]:
    """Counts for a step's metrics: why calls were not trained, and how their prompts go on from earlier ones."""
    return {
        "untrained": dict(Counter(call.untrained for call in calls if call.untrained is not None)),
        "mismatches": dict(Counter(str(call.mismatch) for call in calls if call.mismatch is not None)),
    }
