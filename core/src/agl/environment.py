"""Environment: the variables that a program finds when it is the agent of one attempt.

It inherits the user's own, without what would take its calls elsewhere and without the keys that the gateway keeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from agl.context import ActiveAttempt
from agl.gateway.wire import PLACEHOLDER_KEY

TASK_VARIABLE = "AGL_TASK_FILE"
"""Set for a program that is an agent: JSON file of its task; the same is on its standard input."""
PROMPTS_VARIABLE = "AGL_PROMPTS_FILE"
"""Set for a program that is an agent: JSON file of the prompt templates among the resources, texts by name."""
REWARD_URL_VARIABLE = "AGL_REWARD_URL"
"""Set for a program that is an agent: where it posts rewards, `{"value": 1.0}`."""
KEY_VARIABLE = "AGL_API_KEY"
"""Set for a program that is an agent: key of its attempt, the same as in `OPENAI_API_KEY` and `ANTHROPIC_API_KEY`."""
MODEL_VARIABLE = "AGL_MODEL"
"""Set for a program that is an agent: name of the model that its calls go to."""
MODE_VARIABLE = "AGL_MODE"
"""Set for a program that is an agent: `train`, `val` or `test`."""
ROLLOUT_VARIABLE = "AGL_ROLLOUT_ID"
"""Set for a program that is an agent: id of its rollout."""
ATTEMPT_VARIABLE = "AGL_ATTEMPT_ID"
"""Set for a program that is an agent: id of its attempt."""
OPENAI_URL_VARIABLE = "OPENAI_BASE_URL"
"""Set for a program that is an agent: its attempt's own endpoint; also under the old name `OPENAI_API_BASE`."""
ANTHROPIC_URL_VARIABLE = "ANTHROPIC_BASE_URL"
"""Set for a program that is an agent: its attempt's own endpoint for Anthropic's clients, which add `/v1/messages`."""
ANTHROPIC_KEY_VARIABLE = "ANTHROPIC_API_KEY"
"""Set for a program that is an agent: key of its attempt."""
OTLP_URL_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Set for a program that is an agent, with `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_PROTOCOL`: takes its OpenTelemetry spans."""
TRACEPARENT_VARIABLE = "TRACEPARENT"
"""Set for a program that is an agent: the span of its process, in W3C's form."""

_OWN_PREFIX = "AGL_"
_EXPORTER_PREFIX = "OTEL_EXPORTER_OTLP_"
_CALLS = frozenset(
    {
        "OPENAI_API_KEY",
        "OPENAI_ADMIN_KEY",
        "OPENAI_API_BASE",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
    }
)
"""Where SDKs find endpoints, keys and accounts: a program has its attempt's, or none."""
OWN_VARIABLES = frozenset(
    {
        TASK_VARIABLE,
        PROMPTS_VARIABLE,
        REWARD_URL_VARIABLE,
        KEY_VARIABLE,
        MODEL_VARIABLE,
        MODE_VARIABLE,
        ROLLOUT_VARIABLE,
        ATTEMPT_VARIABLE,
        OPENAI_URL_VARIABLE,
        "OPENAI_API_BASE",
        "OPENAI_API_KEY",
        ANTHROPIC_URL_VARIABLE,
        ANTHROPIC_KEY_VARIABLE,
        OTLP_URL_VARIABLE,
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        TRACEPARENT_VARIABLE,
    }
)
"""What every attempt has its own values for."""


def environment_of(attempt: ActiveAttempt, span_id: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an attempt's program.

    Args:
        attempt: which it runs for.
        span_id: of the program's process.
        extra: the user's own variables for it.
    """
    ids = {ROLLOUT_VARIABLE: attempt.rollout.rollout_id, ATTEMPT_VARIABLE: attempt.attempt_id, MODE_VARIABLE: str(attempt.rollout.mode)}
    traced = {TRACEPARENT_VARIABLE: f"00-{attempt.trace_id}-{span_id}-01"}
    own = _inherited(attempt) | dict(extra)
    return own | ids | traced | _endpoint(attempt, own)


def _inherited(attempt: ActiveAttempt) -> dict[str, str]:
    elsewhere = _CALLS if attempt.llm is not None else frozenset[str]()
    return {
        name: value
        for name, value in os.environ.items()
        if name not in elsewhere
        and not name.startswith((_OWN_PREFIX, _EXPORTER_PREFIX) if elsewhere else _OWN_PREFIX)
        and value != PLACEHOLDER_KEY
        and not attempt.is_secret(value)
    }


def _endpoint(attempt: ActiveAttempt, own: Mapping[str, str]) -> dict[str, str]:
    """Where the program sends what it says; empty where no model is among the resources, so that it calls its own."""
    llm = attempt.llm
    if llm is None:
        return {}
    base, key = llm.endpoint.removesuffix("/v1"), llm.api_key or ""
    host = urlsplit(base).hostname or ""
    direct = {name: f"{own[name]},{host}" if own.get(name) else host for name in ("NO_PROXY", "no_proxy")}
    return direct | {
        "OPENAI_BASE_URL": llm.endpoint,
        "OPENAI_API_BASE": llm.endpoint,
        "OPENAI_API_KEY": key,
        ANTHROPIC_URL_VARIABLE: base,
        ANTHROPIC_KEY_VARIABLE: key,
        REWARD_URL_VARIABLE: f"{base}/rewards",
        KEY_VARIABLE: key,
        MODEL_VARIABLE: llm.model,
        OTLP_URL_VARIABLE: base,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote(f'Bearer {key}')}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
