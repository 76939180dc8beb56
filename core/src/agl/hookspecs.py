"""Hook specifications: the moments at which many plugins may act.

Policies. A *decision* hook fails loudly and names the plugin. An *observer* hook is isolated: it warns once per plugin
and the run goes on. A hook that opens a context manager is entered when the attempt starts and left when it ends, also
by an exception or a cancellation. Implementations may take fewer arguments than the specification has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from agl.agents import AgentAdapter
    from agl.context import ActiveAttempt
    from agl.results import RolloutResult
    from agl.rewards import Reward
    from agl.rollouts import Rollout
    from agl.runs import Run, StepMetrics
    from agl.transitions import Transition

PROJECT = "agl"
AGL_PLUGIN_API = 1
"""Raised when a hook changes in a way that breaks implementations; a plugin may declare `agl_plugin_api`."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Recognise a framework's object and say how to run it; None when it is not yours.

    Runs once per `fit`, `dev` or `evaluate`, in the caller's thread. Decision; not async. Recognise by name
    (`agl.is_instance_of`), so that no framework is imported to say no.
    """


@hookspec
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any] | None:
    """Open the framework's tracing for one attempt: spans go to `attempt.add_span`, `agl.set_role` names who calls.

    Runs once per attempt, inside its context, in the order of registration, last first. Decision; not async.
    """


@hookspec
def agl_inject_resources(attempt: ActiveAttempt) -> AbstractContextManager[Any] | None:
    """Make the agent use `attempt.resources` for this attempt, and undo it on exit.

    Runs once per attempt, after tracing is open. Decision; not async.
    """


@hookspec(firstresult=True)
def agl_callback_handler(framework: str) -> Any:
    """The framework's own callback object that records the current attempt (`self.tracer.get_langchain_handler()`).

    Runs when user code asks, inside the attempt. Decision; not async.
    """


@hookspec
def agl_reward(result: RolloutResult) -> Sequence[Reward] | Reward | Awaitable[Sequence[Reward] | Reward | None] | None:
    """Judge a finished attempt.

    Runs once per attempt that ended without a failure of the infrastructure, before it is stored. Decision; may be async.
    """


@hookspec(firstresult=True)
def agl_assign_credit(result: RolloutResult, transitions: Sequence[Transition]) -> Sequence[Transition] | None:
    """Spread the rewards of a rollout over its transitions: the same transitions with their `reward` set.

    Runs once per finished rollout. Decision; not async. The built-in one comes last.
    """


@hookspec
def agl_rollout_started(rollout: Rollout) -> Awaitable[None] | None:
    """An attempt of this rollout starts. Observer; may be async."""


@hookspec
def agl_rollout_ended(result: RolloutResult) -> Awaitable[None] | None:
    """An attempt ended and is stored. Observer; may be async."""


@hookspec
def agl_step_ended(run: Run, metrics: StepMetrics) -> Awaitable[None] | None:
    """A step of the run ended with these metrics. Observer; may be async."""


@hookspec
def agl_resources_published(run: Run, resources: Any) -> Awaitable[None] | None:
    """A new version of the resources is out. Observer; may be async."""


@hookspec
def agl_register_commands(cli: Any) -> None:
    """Add commands to the `agl` command line (a click group). Runs once at its start. A plugin that fails here is named and left out; not async."""


@hookspec
def agl_configure(config: Mapping[str, Any]) -> None:
    """See, and refuse by raising, the Trainer's configuration. Runs once per Trainer. Decision; not async."""
