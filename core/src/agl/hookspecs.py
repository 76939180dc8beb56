"""Hook specifications: the moments at which many plugins may act.

Each says its policy as data, in `SPECS`: the façade acts by it, `agl plugins --hooks` and the documentation show it. A
*decision* hook fails and names the plugin. An *observer* hook is isolated: it warns once per plugin, its failures are
counted, and the run goes on. A hook that opens a context manager is entered when the attempt starts and left when it
ends, also by an exception or a cancellation.

Implementations are called in this order: objects given to the Trainer, then `[plugins] order` of the configuration, then
the others by name, the core's own last; `hookimpl(tryfirst=True)` and `trylast=True` go before that. They may take fewer
arguments than the specification has, and must name them alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec
import pluggy

if TYPE_CHECKING:
    from agl.agents import AgentAdapter
    from agl.context import ActiveAttempt
    from agl.resources import PromptTemplate
    from agl.results import Group, RolloutResult
    from agl.rewards import Judgement
    from agl.rollouts import Rollout
    from agl.runs import Run, StepMetrics
    from agl.transitions import Transition

PROJECT = "agl"
AGL_PLUGIN_API = 1
"""Raised when a hook changes in a way that breaks implementations; a plugin may declare `agl_plugin_api`."""

hookimpl = pluggy.HookimplMarker(PROJECT)

GroupJudgements: TypeAlias = "Mapping[str, Judgement | Sequence[Judgement]]"
"""Rewards by the id of the rollout that they judge."""

F = TypeVar("F", bound=Callable[..., Any])


class HookSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook promises to those who implement it."""

    name: str
    policy: Literal["decision", "observer"]
    runs: str
    """When, and how often."""
    first_result: bool
    """Whether the first answer that is not None ends the call."""
    may_be_async: bool
    arguments: tuple[str, ...]


SPECS: dict[str, HookSpec] = {}
"""Every hook by name."""


def spec(policy: Literal["decision", "observer"], *, runs: str, first_result: bool = False, may_be_async: bool = False) -> Callable[[F], F]:
    """Declare a hook with its policy."""

    def declare(function: F) -> F:
        code = function.__code__
        arguments = code.co_varnames[: code.co_argcount]
        SPECS[function.__name__] = HookSpec(
            name=function.__name__, policy=policy, runs=runs, first_result=first_result, may_be_async=may_be_async, arguments=arguments
        )
        return pluggy.HookspecMarker(PROJECT)(function, firstresult=first_result)

    return declare


@spec("decision", runs="once per `fit`, `dev` or `evaluate`, in the caller's thread", first_result=True)
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Recognise a framework's object and say how to run it; None when it is not yours.

    Recognise by name (`agl.is_instance_of`), so that no framework is imported to say no.

    Args:
        agent: what the user handed over, or what `agl.agent(…)` holds.
    """


@spec("decision", runs="once per `fit`, `dev` or `evaluate`, and for `agl.prompts`", first_result=True)
def agl_list_prompts(agent: Any) -> Mapping[str, PromptTemplate] | None:
    """List the prompts of an agent that can be optimised, all of a role or none; None when it is not yours, or none is known yet.

    Names are `<role>.system_prompt`, or the framework's own words (`instructions`, `goal`, `description`, …), and
    `<role>.tools.<tool>.description`; the role is that of the calls. A resource of such a name is put into the calls of the
    role by the core; a plugin that puts it in itself takes it with `attempt.claim_prompt(name)`.

    Args:
        agent: what the user handed over, or what `agl.agent(…)` holds.
    """


@spec("decision", runs="once per attempt, inside its context, before the agent starts")
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any] | None:
    """Open the framework's tracing for one attempt: spans go to `attempt.add_span`, `agl.context.set_role` names who calls.

    Args:
        attempt: the attempt that starts.
    """


@spec("decision", runs="once per attempt, inside its context, after tracing is open")
def agl_inject_resources(attempt: ActiveAttempt) -> AbstractContextManager[Any] | None:
    """Make the agent use `attempt.resources` for this attempt, and undo it on exit.

    Args:
        attempt: the attempt that starts; its LLMs already hold the attempt's own endpoint and key.
    """


@spec("decision", runs="when user code asks for it, inside the attempt", first_result=True)
def agl_callback_handler(framework: str) -> Any:
    """The framework's own callback object that records the current attempt (`self.tracer.get_langchain_handler()`).

    Args:
        framework: name of the framework, such as `langchain`; answer None to others.
    """


@spec("decision", runs="once per attempt that did not fail by the infrastructure, before it is stored", may_be_async=True)
def agl_reward(result: RolloutResult) -> Sequence[Judgement] | Judgement | Awaitable[Sequence[Judgement] | Judgement | None] | None:
    """Judge a finished attempt: rewards of the rollout, of single calls (`span_id`) or of roles. None gives none.

    Where a judge is down, give `agl.NoReward` with the reason: the reward is missing then, and the run goes on.

    Args:
        result: the attempt with its spans and the rewards so far; transitions are not made yet.
    """


@spec(
    "decision",
    runs="once per group in which at least two rollouts succeeded, after all have ended, before the algorithm sees it",
    may_be_async=True,
)
def agl_group_reward(group: Group) -> GroupJudgements | Awaitable[GroupJudgements | None] | None:
    """Judge the siblings of a group by comparing them. None gives none.

    Args:
        group: all rollouts of the group with spans and the rewards so far, failed ones among them; without transitions.

    Returns:
        The rewards of each judged rollout, by `result.rollout.rollout_id`.
    """


@spec("decision", runs="once per finished rollout, when its transitions are made", first_result=True)
def agl_assign_credit(result: RolloutResult, transitions: Sequence[Transition]) -> Sequence[Transition] | None:
    """Spread the rewards of a rollout over its transitions: the same transitions with their `reward` (and `step_advantage`) set.

    Args:
        result: the finished rollout with its rewards.
        transitions: its calls, in order, without credit.
    """


@spec("observer", runs="once per attempt, before the agent starts", may_be_async=True)
def agl_rollout_started(rollout: Rollout) -> Awaitable[None] | None:
    """An attempt of this rollout starts.

    Args:
        rollout: with its attempt.
    """


@spec("observer", runs="once per attempt, after it is stored", may_be_async=True)
def agl_rollout_ended(result: RolloutResult) -> Awaitable[None] | None:
    """An attempt ended and is stored.

    Args:
        result: with spans and rewards, without transitions.
    """


@spec("observer", runs="once per step of the algorithm, after its resources are published", may_be_async=True)
def agl_step_ended(run: Run, metrics: StepMetrics) -> Awaitable[None] | None:
    """A step of the run ended with these metrics.

    Args:
        run: the run.
        metrics: a flat mapping of names to numbers, as in `metrics.jsonl`.
    """


@spec("observer", runs="once per published version", may_be_async=True)
def agl_resources_published(run: Run, resources: Any) -> Awaitable[None] | None:
    """A new version of the resources is out.

    Args:
        run: the run.
        resources: the whole version, all names kept.
    """


@spec("observer", runs="once at the start of the `agl` command")
def agl_register_commands(cli: Any) -> None:
    """Add commands to the `agl` command line. Import what a command needs inside of it: this runs also for `agl --help`.

    Args:
        cli: a click group.
    """


@spec("decision", runs="once per Trainer, when it is made")
def agl_configure(config: Mapping[str, Any]) -> None:
    """See, and refuse by raising, the Trainer's configuration.

    Args:
        config: its options as JSON values, by name.
    """
