"""Tracers and adapters of Agent Lightning: here every attempt is traced, and algorithms read the calls themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from agl.agents import Tracer
from agl.compat.messages import TraceToMessages
from agl.errors import ConfigError

_OPTIONS = ("agent_match", "credit", "discount", "step_weight", "step_std")


class _NamedTracer(Tracer):
    """A tracer to hand to a Trainer, which needs none.

    Raises:
        ConfigError: an option.
    """

    def __init__(self, **options: Any) -> None:
        if options:
            raise ConfigError(f"`{type(self).__name__}` takes no options, given was {sorted(options)}: AGL traces every attempt by itself")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"`{type(self).__name__}` has no `{name}`: AGL traces every attempt by itself; spans are in `result.spans`, "
            "`agl.operation(name)` opens one"
        )


class AgentOpsTracer(_NamedTracer):
    """Stands for AGL's own tracing; nothing is sent to AgentOps."""


class OtelTracer(_NamedTracer):
    """Stands for AGL's own tracing."""


class DummyTracer(_NamedTracer):
    """Stands for AGL's own tracing."""


class TracerTraceToTriplet:
    """Says which roles are learned from, as `Trainer(adapter=…)`.

    Args:
        agent_match: regular expression; None learns from all.
        others: options that Agent Lightning's class has and that have no meaning here.

    Raises:
        ConfigError: one of those options.
    """

    def __init__(self, agent_match: str | None = None, **others: Any) -> None:
        if others:
            raise ConfigError(
                f"`adapter` has the options {list(_OPTIONS)}, given was {sorted(others)}: calls are linked by the gateway's ids, "
                "and a named reward belongs to the call that was made last before it"
            )
        self.agent_match = agent_match


class LlmProxyTraceToTriplet(TracerTraceToTriplet):
    """Learns from all roles: the gateway records every call, as Agent Lightning's proxy does."""

    def __init__(self) -> None:
        super().__init__()


AdapterSpec: TypeAlias = Mapping[str, Any] | TracerTraceToTriplet | TraceToMessages


def as_adapter(given: Any) -> TracerTraceToTriplet:
    """What `Trainer(adapter=…)` means: a mapping of options, or an object of these classes.

    Raises:
        ConfigError: an unknown option, or another object.
    """
    if given is None or isinstance(given, TraceToMessages):
        return TracerTraceToTriplet()
    if isinstance(given, TracerTraceToTriplet):
        return given
    if isinstance(given, Mapping):
        return TracerTraceToTriplet(**cast("Mapping[str, Any]", given))
    raise ConfigError(f'`adapter` must be a mapping such as {{"agent_match": "writer"}}, given was {given!r}')
