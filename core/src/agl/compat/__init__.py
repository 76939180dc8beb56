"""Names of Agent Lightning 0.3: those that mean the same here, and for the others what to use instead.

`agl.NAME` finds them (`agl.__getattr__`); nothing here is imported before somebody asks. `docs/migrate.md` is the table for people.
"""

from __future__ import annotations

import importlib
from typing import Any

PAGE = "docs/migrate.md"

_HOMES = {
    "agl.compat.baseline": ("Baseline",),
    "agl.compat.decorators": ("llm_rollout", "prompt_rollout", "reward"),
    "agl.compat.execution": ("SharedMemoryExecutionStrategy",),
    "agl.compat.hooks": ("Hook",),
    "agl.compat.logs": ("configure_logger", "setup_logging"),
    "agl.compat.messages": ("TraceToMessages",),
    "agl.compat.rewards": ("find_final_reward", "find_reward_spans", "get_reward_value", "is_reward_span"),
    "agl.compat.running": ("InMemoryLightningStore", "LitAgentRunner"),
    "agl.compat.tracing": ("AgentOpsTracer", "DummyTracer", "LlmProxyTraceToTriplet", "OtelTracer", "TracerTraceToTriplet"),
    "agl.compat.types": ("AttemptedRollout", "Dataset", "NamedResources", "ProxyLLM", "ResourceUnion", "RolloutMode", "TaskInput"),
    "agl.resources": ("Resource",),
    "agl.rollouts": ("AttemptStatus", "RolloutStatus"),
    "agl.store.base": ("LightningStore",),
}
_OTHER_NAMES = {"LightningStore": "Store"}
HOME = {name: module for module, names in _HOMES.items() for name in names}
"""Module of each name that means the same here."""

_NO_STORE_API = "an algorithm asks its `Run` (`agl.Algorithm.fit(run)`), results hold spans and rewards"
_NO_SERVER = "runs are kept in one SQLite file: leave `store` out, or give its path"
_NO_PROCESSES = "attempts run in threads and tasks of one process; `n_runners` says how many at the same time"
_SPAN = "`agl.Span` is one flat record: `span.name`, `kind`, `attributes`, `started_at`, `status`, `error`"
_OLD = "it belongs to Agent Lightning 0.1; use `agl.Trainer`"
_ADAPTER = "results have `transitions` and `rows()`; `Trainer(adapter={'agent_match': …})` says which roles are learned from"
_ENVIRONMENT = "settings stand in `agl.toml`; there are no roles of processes to set by variables"

_GONE_BY_REASON: dict[str, tuple[str, ...]] = {
    _NO_STORE_API: (
        "EnqueueRolloutRequest",
        "FilterField",
        "FilterOptions",
        "LightningStoreCapabilities",
        "LightningStoreStatistics",
        "PaginatedResult",
        "ResourcesUpdate",
        "SortOptions",
    ),
    _NO_SERVER: (
        "CollectionBasedLightningStore",
        "LightningStoreClient",
        "LightningStoreServer",
        "LightningStoreThreaded",
        "MongoLightningStore",
    ),
    _NO_PROCESSES: (
        "ClientServerExecutionStrategy",
        "ExecutionEvent",
        "ExecutionStrategy",
        "MultiprocessingEvent",
        "ParallelWorkerBase",
        "ThreadingEvent",
        "Worker",
        "WorkerStatus",
    ),
    _SPAN: (
        "AttributeValue",
        "Attributes",
        "Event",
        "Link",
        "OtelResource",
        "SpanAttributeNames",
        "SpanContext",
        "SpanCoreFields",
        "SpanLike",
        "SpanNames",
        "SpanRecordingContext",
        "StatusCode",
        "TraceState",
        "TraceStatus",
    ),
    _OLD: (
        "AgentLightningClient",
        "AgentLightningServer",
        "DevTaskLoader",
        "GenericResponse",
        "LegacyAgentRunner",
        "RolloutLegacy",
        "RolloutRawResultLegacy",
        "TaskIfAny",
    ),
    _ADAPTER: ("Adapter", "OtelTraceAdapter", "TraceAdapter", "TraceToTripletBase", "Triplet"),
    _ENVIRONMENT: ("LightningEnvVar", "resolve_bool_env_var", "resolve_int_env_var", "resolve_str_env_var"),
    "every attempt is traced by itself; a plugin with `agl_trace_rollout` adds spans of its own": (
        "Tracer",
        "WeaveTracer",
        "clear_active_tracer",
        "get_active_tracer",
        "set_active_tracer",
    ),
    "derive from `agl.Algorithm` and write `async def fit(self, run)`": ("FastAlgorithm", "algo"),
    "the gateway records every call by itself; the model's endpoint is `initial_resources={'main_llm': agl.LLM(…)}`": ("LLMProxy",),
    "`Trainer(executor=…)` takes what runs the attempts, a class derived from `agl.executors.Executor`": ("Runner",),
    "say `Trainer(timeout=…, max_attempts=…)`": ("RolloutConfig",),
    "return one number, or None after `agl.emit_reward`": ("RolloutRawResult",),
    "give objects, or names of installed drivers; `agl plugins` lists them": ("build_component",),
    "write `agl.emit_object(value, name)`": ("emit_annotation",),
    "an exception is recorded where it leaves the agent or a `with agl.operation(name):` block": ("emit_exception",),
    "rewards of a rollout are `result.rewards`": ("get_rewards_from_span",),
    "a span has what was emitted in `span.attributes` (`body`, `value`)": ("get_message_value", "get_object_value"),
    "write `agl.setup_logging(apply_to=[name])`": ("setup_module_logging",),
    "the command is `agl`; a script makes its own Trainer": ("lightning_cli",),
}
GONE = {name: reason for reason, names in _GONE_BY_REASON.items() for name in names}
"""What to use instead of each name that has no equivalent."""

BROUGHT = ("APO", "VERL")
"""Algorithms of Agent Lightning that a package of their own brings, found by the name that they are registered under."""

COMING: dict[str, str] = {}
"""Algorithms of Agent Lightning that have no package here so far."""


def find(name: str) -> Any:
    """What a name of Agent Lightning 0.3 stands for here.

    Raises:
        AttributeError: it has no equivalent (then the message says what to use), or is no such name.
    """
    if name in HOME:
        return getattr(importlib.import_module(HOME[name]), _OTHER_NAMES.get(name, name))
    said = f"module `agl` has no attribute `{name}`"
    reason = GONE.get(name) or COMING.get(name)
    raise AttributeError(f"{said}: {reason}; see {PAGE}" if reason else said)
