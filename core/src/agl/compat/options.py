"""Trainer's options under the names of Agent Lightning: what they mean here, or why they cannot be."""

from __future__ import annotations

from typing import Any, TypedDict

from agl.compat.execution import runners_of
from agl.compat.hooks import HookPlugin, hook_plugins
from agl.compat.old import warn_old
from agl.errors import ConfigError


class OldOptions(TypedDict, total=False):
    """Options that only code of Agent Lightning gives."""

    tracer: Any
    strategy: Any
    hooks: Any
    llm_proxy: Any
    runner: Any
    port: Any
    max_rollouts: Any
    max_tasks: Any
    dev: Any
    daemon: Any
    triplet_exporter: Any


_INSTEAD = {
    "llm_proxy": "the gateway records every call by itself; the model's endpoint is `initial_resources={'main_llm': agl.LLM(…)}`",
    "runner": "what runs the attempts is `executor=`, a class derived from `agl.executors.Executor`",
    "port": "there is no store server; the gateway's port is `gateway_port`",
    "max_rollouts": "the dataset and the algorithm's steps say how many rollouts there are",
    "max_tasks": "the dataset and the algorithm's steps say how many rollouts there are",
    "dev": "call `trainer.dev(agent, tasks)`",
    "daemon": "there are no runner processes",
    "triplet_exporter": "its newer name is `adapter`",
}


def translate(old: OldOptions, n_runners: int | None) -> tuple[list[HookPlugin], int | None]:
    """The plugins and the number of runners that old options ask for.

    Args:
        old: what was given.
        n_runners: what the Trainer's own option says.

    Raises:
        TypeError: no option of either name.
        ConfigError: an option that cannot be, with what to use instead, or two numbers of runners.
    """
    if unknown := sorted(set(old) - OldOptions.__annotations__.keys()):
        raise TypeError(f"Trainer() got an unexpected keyword argument {unknown[0]!r}")
    given: dict[str, Any] = {name: value for name, value in old.items() if value is not None}
    for name in given.keys() & _INSTEAD.keys():
        raise ConfigError(f"`{name}` is an option of Agent Lightning that AGL has not: {_INSTEAD[name]}")
    if "tracer" in given:
        warn_old("`tracer=` has no effect: AGL traces every attempt by itself; leave it out")
    asked = runners_of(given["strategy"]) if "strategy" in given else None
    if None not in (asked, n_runners) and asked != n_runners:
        raise ConfigError(f"`strategy` asks for {asked} runners and `n_runners` for {n_runners}; give `n_runners` alone")
    return hook_plugins(given.get("hooks")), n_runners if asked is None else asked
