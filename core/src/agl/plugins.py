"""Plugins: the typed façade over hooks. Nobody else calls pluggy.

A plugin that cannot load is a row with a reason; the others work on. Objects given to a Trainer are plugins of that
Trainer alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import msgspec
import pluggy

from agl import hookspecs
from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.errors import ConfigError, PluginError
from agl.results import RolloutResult
from agl.rewards import Reward, make_reward
from agl.transitions import Transition

log = logging.getLogger("agl")

GROUP = "agl"
DISABLED_VARIABLE = "AGL_PLUGINS_DISABLED"
"""Comma-separated names of plugins that are not loaded."""


class PluginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One discovered plugin and what became of it."""

    name: str
    package: str
    version: str
    state: str
    """`ok`, `blocked`, `clash`, `failed` or `unknown-hook`."""
    reason: str = ""


class Plugins:
    """The plugins that act for one Trainer or command.

    Args:
        extra: plugin objects or modules given in code.
        discover: whether installed plugins are loaded too.
    """

    def __init__(self, extra: Iterable[Any] = (), *, discover: bool = True) -> None:
        self.rows: list[PluginRow] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._warned: set[str] = set()
        if discover:
            for entry in _entry_points():
                self.rows.append(self._load(entry))
        for plugin in extra:
            if self._manager.is_registered(plugin):  # an installed one, given again
                continue
            name = getattr(plugin, "__name__", None) or getattr(plugin, "name", None) or type(plugin).__name__
            self._register(plugin, name if not self._manager.has_plugin(name) else f"{name}-{id(plugin):x}")

    def _load(self, entry: importlib.metadata.EntryPoint) -> PluginRow:
        package = entry.dist.metadata["Name"] if entry.dist else "?"
        version = entry.dist.version if entry.dist else "?"
        row = functools.partial(PluginRow, name=entry.name, package=package, version=version)
        disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
        if entry.name in disabled or "*" in disabled:
            return row(state="blocked", reason=f"named in ${DISABLED_VARIABLE}")
        if self._manager.has_plugin(entry.name):
            return row(state="clash", reason=f"another package brings a plugin `{entry.name}`; uninstall one of them")
        try:
            self._register(entry.load(), entry.name)
        except PluginError as error:
            return row(state="unknown-hook", reason=str(error))
        except (Exception, SystemExit) as error:  # a broken plugin must not stop the others
            log.warning("plugin `%s` of %s could not be loaded: %s: %s", entry.name, package, type(error).__name__, error)
            return row(state="failed", reason=f"{type(error).__name__}: {error}")
        return row(state="ok")

    def _register(self, plugin: Any, name: str) -> None:
        known = {spec for spec in dir(hookspecs) if spec.startswith("agl_")}
        home = cast(object, plugin if inspect.ismodule(plugin) else type(plugin))
        named = {name: inspect.getattr_static(home, name) for name in dir(home) if name.startswith("agl_")}
        hooks = {name: value for name, value in named.items() if inspect.isroutine(value)}
        if unknown := sorted(hooks.keys() - known):
            raise PluginError(f"plugin `{name}` implements {unknown}, which are no hooks; the hooks are {sorted(known)}")
        if unmarked := sorted(hook for hook, function in hooks.items() if not hasattr(_function(function), "agl_impl")):
            raise PluginError(f"plugin `{name}` defines {unmarked} without `@agl.hookimpl`, so that they would never be called")
        if wrappers := sorted(hook for hook, function in hooks.items() if {"wrapper", "hookwrapper"} & _options(function)):
            raise PluginError(f"plugin `{name}` wraps {wrappers}; a hook of AGL is implemented, not wrapped")
        api = getattr(plugin, "agl_plugin_api", hookspecs.AGL_PLUGIN_API)
        if api != hookspecs.AGL_PLUGIN_API:
            this = hookspecs.AGL_PLUGIN_API
            raise PluginError(f"plugin `{name}` is made for plugin API {api}, this is {this}; upgrade the older of the two")
        try:
            self._manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._manager.unregister(name=name)
            raise PluginError(f"plugin `{name}` does not fit: {' '.join(str(error).split())}") from error

    # Decision hooks.

    def adapt_agent(self, agent: Any) -> AgentAdapter:
        """How to run an agent.

        Raises:
            ConfigError: no plugin recognises it.
        """
        adapter = self._decide("agl_adapt_agent", agent=agent)
        if adapter is None:
            installed = [row.name for row in self.rows if row.state == "ok"]
            raise ConfigError(
                f"no plugin knows how to run a {type(agent).__module__}.{type(agent).__qualname__}; installed are {installed}. "
                "Install the plugin of its framework (such as `pip install agl-langgraph`) or wrap it in a function with `@agl.rollout`"
            )
        return adapter

    @contextlib.contextmanager
    def opened(self, attempt: ActiveAttempt) -> Generator[None]:
        """Tracing and resources of all plugins, open for one attempt."""
        token = _ACTIVE.set(self)
        try:
            with contextlib.ExitStack() as stack:
                for hook in ("agl_trace_rollout", "agl_inject_resources"):
                    for name, implementation in self._implementations(hook):
                        with _named(name, hook):
                            manager = implementation(attempt=attempt)
                        if manager is not None:
                            stack.enter_context(_around(manager, name, hook))
                yield
        finally:
            _ACTIVE.reset(token)

    def callback_handler(self, framework: str) -> Any:
        """The framework's own callback object for the current attempt.

        Raises:
            PluginError: no installed plugin has one.
        """
        handler = self._decide("agl_callback_handler", framework=framework)
        if handler is None:
            raise PluginError(f"no installed plugin gives a callback handler for `{framework}`; for LangChain: `pip install agl-langgraph`")
        return handler

    async def rewards(self, result: RolloutResult) -> list[Reward]:
        """What the plugins judge of a finished attempt."""
        found: list[Reward] = []
        for name, implementation in self._implementations("agl_reward"):
            with _named(name, "agl_reward"):
                given = await _awaited(implementation(result=result))
                for reward in _as_rewards(given):
                    make_reward(reward.value, name=reward.name, source=name)
                    found.append(reward if reward.source != "agent" else msgspec.structs.replace(reward, source=f"plugin:{name}"))
        return found

    def assign_credit(self, result: RolloutResult, transitions: Sequence[Transition]) -> tuple[Transition, ...]:
        """Transitions with their share of the rollout's rewards."""
        assigned = self._decide("agl_assign_credit", result=result, transitions=transitions)
        return tuple(transitions if assigned is None else assigned)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Show the configuration to the plugins, which may refuse it."""
        for name, implementation in self._implementations("agl_configure"):
            with _named(name, "agl_configure"):
                implementation(config=config)

    def register_commands(self, cli: Any) -> None:
        """Let plugins add their commands; one that fails is named and left out."""
        for name, implementation in self._implementations("agl_register_commands"):
            try:
                implementation(cli=cli)
            except Exception as error:
                log.warning("plugin `%s` could not add its commands: %s: %s", name, type(error).__name__, error)

    # Observer hooks.

    async def observe(self, hook: str, **arguments: Any) -> None:
        """Tell observers; one that fails warns once and the run goes on."""
        for name, implementation in self._implementations(hook):
            try:
                await _awaited(implementation(**arguments))
            except Exception as error:
                if (key := f"{name}.{hook}") not in self._warned:
                    self._warned.add(key)
                    log.warning("plugin `%s` failed in `%s`: %s: %s (said once)", name, hook, type(error).__name__, error)

    def _decide(self, hook: str, **arguments: Any) -> Any:
        for name, implementation in self._implementations(hook):
            with _named(name, hook):
                answer = implementation(**arguments)
            if answer is not None:
                return answer
        return None

    def _implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Name and function of every implementation, in call order: what pluggy itself would call, but attributable."""
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [(implementation.plugin_name, functools.partial(_subset, implementation)) for implementation in reversed(found)]


@contextlib.contextmanager
def _named(name: str, hook: str) -> Generator[None]:
    """A plugin's failure with the plugin's name; what it says on purpose stays as it is."""
    try:
        yield
    except (ConfigError, PluginError):
        raise
    except Exception as error:
        raise PluginError(f"plugin `{name}` failed in `{hook}`: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _around(manager: contextlib.AbstractContextManager[Any], name: str, hook: str) -> Generator[None]:
    """A plugin's context manager, which may neither swallow the agent's exception nor be taken for its failure."""
    with _named(name, hook):
        manager.__enter__()
    try:
        yield
    except BaseException as error:
        with _named(name, hook):
            try:
                manager.__exit__(type(error), error, error.__traceback__)
            except BaseException as raised:  # that it lets the agent's own through is no failure of the plugin
                if raised is not error:
                    raise
        raise
    with _named(name, hook):
        manager.__exit__(None, None, None)


def _as_rewards(given: Any) -> list[Reward]:
    rewards: list[Any] = [] if given is None else [*given] if isinstance(given, (list, tuple)) else [given]
    if wrong := [reward for reward in rewards if not isinstance(reward, Reward)]:
        raise TypeError(f"it must give `agl.Reward`, a list of them or None, not {wrong[0]!r}")
    return rewards


def _options(function: Any) -> set[str]:
    return {option for option, value in getattr(_function(function), "agl_impl").items() if value}  # noqa: B009


def _function(value: Any) -> Any:
    return getattr(value, "__func__", value)


def _subset(implementation: Any, **arguments: Any) -> Any:
    """Call with the arguments that the implementation takes (an old plugin may take fewer)."""
    return implementation.function(*(arguments[name] for name in implementation.argnames))


async def _awaited(value: Any) -> Any:
    return await cast(Awaitable[Any], value) if isinstance(value, Awaitable) else value


_ACTIVE: ContextVar[Plugins | None] = ContextVar("agl_plugins", default=None)


def active() -> Plugins:
    """The plugins of the attempt that runs here; outside an attempt, the installed ones."""
    return _ACTIVE.get() or _installed()


@functools.cache
def _installed() -> Plugins:
    return Plugins()


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """Entry points sorted by name: the file system's order is no order. The core's own come first, so are called last."""
    found = importlib.metadata.entry_points(group=GROUP)
    return sorted(found, key=lambda entry: (entry.dist is None or entry.dist.metadata["Name"] != "agl-core", entry.name))
