"""Plugins: the typed façade over hooks. Nobody else calls pluggy.

A plugin that cannot load is a row with a reason; the others work on. Objects given to a Trainer are plugins of that
Trainer alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import msgspec
import pluggy

from agl import hookspecs
from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.discovery import CORE, Discovered, PluginRow, discover, unmet
from agl.errors import ConfigError, PluginError
from agl.frameworks import why_unknown
from agl.hookspecs import SPECS
from agl.resources import PromptTemplate
from agl.results import Group, RolloutResult
from agl.rewards import RESERVED, Judgement, NoReward, Reward, make_reward
from agl.settings import read_settings
from agl.transitions import Transition

log = logging.getLogger("agl")

INSIDE = ("agl_adapt_agent", "agl_trace_rollout", "agl_inject_resources", "agl_callback_handler")
"""Hooks that are called where the agent runs."""
OBSERVER_SECONDS = 30.0
"""How long an asynchronous observer may take."""


class Plugins:
    """The plugins that act for one Trainer or command.

    Args:
        extra: plugin objects or modules given in code; they are called first, in this order.
        discover: whether installed plugins are loaded too.

    Raises:
        PluginError: one of `extra` does not fit; an installed one that does not is a row that says so.
    """

    def __init__(self, extra: Iterable[Any] = (), *, discover: bool = True) -> None:
        self.rows: list[PluginRow] = []
        self.errors: dict[str, BaseException] = {}
        """Why loading failed, by `package:name`."""
        self.observer_failures: Counter[str] = Counter()
        """Failures of observers that were isolated, by `plugin.hook`."""
        self._calls: dict[str, list[tuple[str, Callable[..., Any]]]] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.discovers = discover
        self._given = list(extra)
        self._settings = read_settings().plugins if discover else None
        if self._settings is not None:
            self._load_all(self._settings.order)
        # pluggy calls what was registered last first.
        for plugin in reversed(self._given):
            if self._manager.is_registered(plugin):  # an installed one, given again
                continue
            name = getattr(plugin, "__name__", None) or getattr(plugin, "name", None) or type(plugin).__name__
            self._register(plugin, name if not self._manager.has_plugin(name) else f"{name}-{id(plugin):x}")

    def check(self) -> None:
        """Refuse to start without what the settings ask for.

        Raises:
            ConfigError: a required plugin is missing or does not work, or one that is named does not exist.
        """
        if self._settings is not None and (problems := unmet(self.rows, self._settings)):
            raise ConfigError("; ".join(problems))

    def _load_all(self, order: Sequence[str]) -> None:
        assert self._settings is not None
        found = discover(self._settings)
        self.rows = [item.row for item in found]
        place = {name: index for index, name in enumerate(order)}
        calls = sorted(range(len(found)), key=lambda index: place.get(found[index].row.name, len(place)))
        for index in reversed(calls):
            if found[index].row.state == "found":
                self.rows[index] = self._load(found[index])

    def _load(self, found: Discovered) -> PluginRow:
        row, started = found.row, time.perf_counter()
        try:
            plugin = found.entry.load()
            self._register(plugin, row.name)
        except (Exception, SystemExit) as error:  # a broken plugin must not stop the others
            self.errors[f"{row.package}:{row.name}"] = error
            state = error.state if isinstance(error, _Misfit) else "failed"
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            log.warning("plugin `%s` of %s is not used (%s): %s", row.name, row.package, state, reason)
            return msgspec.structs.replace(row, state=state, reason=reason, seconds=time.perf_counter() - started)
        hooks = tuple(caller.name for caller in self._manager.get_hookcallers(plugin) or ())
        return msgspec.structs.replace(row, state="ok", hooks=hooks, seconds=time.perf_counter() - started)

    def _register(self, plugin: Any, name: str) -> None:
        # Statically: a module may import its framework when it is asked for a name that it lacks.
        api = inspect.getattr_static(plugin, "agl_plugin_api", hookspecs.AGL_PLUGIN_API)
        if api != hookspecs.AGL_PLUGIN_API:
            raise _Misfit("unsupported", _wrong_api(name, api))
        _check_hooks(plugin, name)
        self._calls.clear()
        try:
            self._manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._manager.unregister(name=name)
            raise PluginError(f"plugin `{name}` does not fit: {' '.join(str(error).split())}") from error

    def implementations(self) -> dict[str, list[str]]:
        """Every hook with the names of the plugins that implement it, in call order."""
        return {hook: [name for name, _ in self._implementations(hook)] for hook in SPECS}

    def given_inside(self) -> list[tuple[str, Any]]:
        """Name and object of the plugins given in code that act inside an attempt, in call order."""
        found = [(self._manager.get_name(plugin) or "", plugin) for plugin in self._given]
        inside = {name for hook in INSIDE for name, _ in self._implementations(hook)}
        return [(name, plugin) for name, plugin in found if name in inside]

    # Decision hooks.

    def adapt_agent(self, agent: Any) -> AgentAdapter:
        """How to run an agent.

        Raises:
            ConfigError: no plugin recognises it.
        """
        adapter = self._decide("agl_adapt_agent", agent=agent)
        if adapter is None:
            raise ConfigError(why_unknown(agent, self.rows))
        return adapter

    def prompts(self, agent: Any) -> dict[str, PromptTemplate] | None:
        """The prompts of an agent by name, all of a role or none of them; None when none is known before it runs.

        Raises:
            PluginError: a plugin gave something else than prompt templates by name.
        """
        listed = self._decide("agl_list_prompts", agent=agent)
        if listed is None:
            return None
        wrong = not isinstance(listed, Mapping) or not all(
            isinstance(name, str) and isinstance(template, PromptTemplate) for name, template in cast(Mapping[Any, Any], listed).items()
        )
        if wrong:
            raise PluginError(f"`agl_list_prompts` must give `agl.PromptTemplate` by name, or None, not {listed!r}")
        return dict(cast(Mapping[str, PromptTemplate], listed))

    @contextlib.contextmanager
    def opened(self, attempt: ActiveAttempt) -> Generator[None]:
        """Tracing and resources of all plugins, open for one attempt."""
        token = _ACTIVE.set(self)
        try:
            with contextlib.ExitStack() as stack:
                for hook in ("agl_trace_rollout", "agl_inject_resources"):
                    for name, implementation in self._implementations(hook):
                        with _named(name, hook):
                            manager = _manager_of(implementation(attempt=attempt))
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

    async def rewards(self, result: RolloutResult) -> list[Judgement]:
        """What the plugins judge of a finished attempt."""
        found: list[Judgement] = []
        for name, implementation in self._implementations("agl_reward"):
            with _named(name, "agl_reward"):
                found += _judgements(await _awaited(implementation(result=result)), name)
        return found

    async def group_rewards(self, group: Group) -> dict[str, list[Judgement]]:
        """What the plugins judge of a group by comparison, by rollout id; empty where fewer than two rollouts succeeded."""
        found: dict[str, list[Judgement]] = {}
        if sum(result.succeeded for result in group.results) < 2:
            return found
        known = {result.rollout.rollout_id for result in group.results}
        for name, implementation in self._implementations("agl_group_reward"):
            with _named(name, "agl_group_reward"):
                given = await _awaited(implementation(group=group))
                for rollout_id, judged in _by_rollout(given, known).items():
                    found.setdefault(rollout_id, []).extend(_judgements(judged, name))
        return found

    def judges(self) -> bool:
        """Whether a plugin judges attempts."""
        return bool(self._implementations("agl_reward"))

    def compares(self) -> bool:
        """Whether a plugin judges groups."""
        return bool(self._implementations("agl_group_reward"))

    def brings_credit(self) -> str | None:
        """Name of the plugin, other than the core's own, that assigns credit; None when there is none."""
        return next((name for name, _ in self._implementations("agl_assign_credit") if name != "credit"), None)

    def assign_credit(self, result: RolloutResult, transitions: Sequence[Transition]) -> tuple[Transition, ...]:
        """Transitions with their share of the rollout's rewards."""
        assigned = self._decide("agl_assign_credit", result=result, transitions=transitions)
        return tuple(transitions if assigned is None else assigned)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Show the configuration to the plugins, which may refuse it."""
        for name, implementation in self._implementations("agl_configure"):
            with _named(name, "agl_configure"):
                _answered(implementation(config=config))

    def register_commands(self, cli: Any) -> None:
        """Let plugins add their commands; one that fails is named and left out."""
        for name, implementation in self._implementations("agl_register_commands"):
            try:
                _answered(implementation(cli=cli))
            except Exception as error:
                self._isolated(name, "agl_register_commands", error)

    # Observer hooks.

    async def observe(self, hook: str, **arguments: Any) -> None:
        """Tell observers; one that fails, or takes too long, warns once and is counted, and the run goes on."""
        for name, implementation in self._implementations(hook):
            try:
                answer = implementation(**arguments)
                if answer is not None:
                    async with asyncio.timeout(OBSERVER_SECONDS):
                        await _awaited(answer)
            except Exception as error:
                self._isolated(name, hook, error)

    def _isolated(self, name: str, hook: str, error: Exception) -> None:
        self.observer_failures[f"{name}.{hook}"] += 1
        if self.observer_failures[f"{name}.{hook}"] == 1:
            said = f"took more than {OBSERVER_SECONDS:g} s" if isinstance(error, TimeoutError) and not str(error) else str(error)
            log.warning("plugin `%s` failed in `%s`: %s: %s (said once)", name, hook, type(error).__name__, said)

    def _decide(self, hook: str, **arguments: Any) -> Any:
        for name, implementation in self._implementations(hook):
            try:
                answer = implementation(**arguments)
                if answer is not None:
                    return _answered(answer)
            except (ConfigError, PluginError):
                raise
            except Exception as error:
                raise _failure(name, hook, error) from error
        return None

    def _implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Name and function of every implementation, in call order: what pluggy itself would call, but attributable."""
        if hook not in self._calls:
            found = getattr(self._manager.hook, hook).get_hookimpls()
            self._calls[hook] = [(implementation.plugin_name, _callable(implementation)) for implementation in reversed(found)]
        return self._calls[hook]


@contextlib.contextmanager
def _named(name: str, hook: str) -> Generator[None]:
    """A plugin's failure with the plugin's name; what it says on purpose stays as it is."""
    try:
        yield
    except (ConfigError, PluginError):
        raise
    except Exception as error:
        raise _failure(name, hook, error) from error


def _failure(name: str, hook: str, error: Exception) -> PluginError:
    return PluginError(f"plugin `{name}` failed in `{hook}`: {type(error).__name__}: {error}")


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


def _judgements(given: Any, plugin: str) -> list[Judgement]:
    """What a plugin gave, checked, with the plugin as the source where it names none."""
    judged: list[Any] = [] if given is None else [*given] if isinstance(given, (list, tuple)) else [given]
    found: list[Judgement] = []
    for item in judged:
        if not isinstance(item, (Reward, NoReward)):
            raise TypeError(f"it must give `agl.Reward`, `agl.NoReward`, a list of them or None, not {item!r}")
        if item.source in RESERVED:
            raise ValueError(f"the source `{item.source}` is AGL's own; name another one in `{item.name}`, or none")
        source = f"plugin:{plugin}" if item.source == "agent" else item.source
        if isinstance(item, Reward):
            checked = make_reward(item.value, name=item.name, source=source)
            item = msgspec.structs.replace(item, value=checked.value, created_at=item.created_at or checked.created_at)
        found.append(msgspec.structs.replace(item, source=source))
    return found


def _by_rollout(given: Any, known: set[str]) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"it must give rewards by rollout id, or None, not {given!r}")
    judged = dict(cast(Mapping[str, Any], given or {}))
    if unknown := sorted(map(str, judged.keys() - known)):
        raise ValueError(f"it judged {unknown}, which are not in the group; the rollouts are {sorted(known)}")
    return judged


class _Misfit(PluginError):
    """A plugin that must not be used, with the state that its row gets."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


def _check_hooks(plugin: Any, name: str) -> None:
    """Refuse what would silently never be called, or break when it is."""
    home = cast(object, plugin if inspect.ismodule(plugin) else type(plugin))
    named = {name: inspect.getattr_static(home, name) for name in dir(home) if name.startswith("agl_")}
    hooks = {name: value for name, value in named.items() if inspect.isroutine(_function(value))}
    if unknown := sorted(hooks.keys() - SPECS.keys()):
        close = [match for hook in unknown for match in difflib.get_close_matches(hook, SPECS, 1)]
        meant = f"did you mean {close}? " if close else ""
        raise _Misfit("unknown-hook", f"plugin `{name}` implements {unknown}, which are no hooks; {meant}The hooks are {sorted(SPECS)}")
    if unmarked := sorted(hook for hook, function in hooks.items() if not hasattr(_function(function), "agl_impl")):
        raise PluginError(f"plugin `{name}` defines {unmarked} without `@agl.hookimpl`, so that they would never be called")
    if wrappers := sorted(hook for hook, function in hooks.items() if {"wrapper", "hookwrapper"} & _options(function)):
        raise PluginError(f"plugin `{name}` wraps {wrappers}; a hook of AGL is implemented, not wrapped")
    if sync := sorted(hook for hook, function in hooks.items() if _is_async(function) and not SPECS[hook].may_be_async):
        allowed = sorted(hook for hook, known in SPECS.items() if known.may_be_async)
        raise PluginError(f"plugin `{name}` makes {sync} async, which only {allowed} may be; write it as a plain function")


def _wrong_api(name: str, api: Any) -> str:
    this = hookspecs.AGL_PLUGIN_API
    older = isinstance(api, int) and api < this
    upgrade = f"upgrade the package of `{name}`" if older else f"upgrade AGL: pip install --upgrade {CORE}"
    return f"plugin `{name}` is made for plugin API {api}, this is {this}; {upgrade}"


def _is_async(function: Any) -> bool:
    bare = _function(function)
    return inspect.iscoroutinefunction(bare) or inspect.isasyncgenfunction(bare)


def _options(function: Any) -> set[str]:
    return {option for option, value in getattr(_function(function), "agl_impl").items() if value}  # noqa: B009


def _function(value: Any) -> Any:
    return getattr(value, "__func__", value)


def _callable(implementation: Any) -> Callable[..., Any]:
    """The implementation, called with the arguments that it takes: an old plugin may take fewer."""
    function, names = implementation.function, implementation.argnames
    only = names[0] if len(names) == 1 else None

    def call(**arguments: Any) -> Any:
        return function(arguments[only]) if only else function(*(arguments[name] for name in names))

    return call


async def _awaited(value: Any) -> Any:
    return await cast(Awaitable[Any], value) if isinstance(value, Awaitable) else value


def _answered(value: Any) -> Any:
    """An answer where nothing can be awaited."""
    if isinstance(value, Awaitable):
        if inspect.iscoroutine(cast(object, value)):
            cast(Any, value).close()
        raise TypeError("it gave something to await; this hook must answer at once")
    return value


def _manager_of(value: Any) -> contextlib.AbstractContextManager[Any] | None:
    if value is not None and not (hasattr(value, "__enter__") and hasattr(value, "__exit__")):
        _answered(value)
        raise TypeError(f"it must give a context manager or None, not {value!r}; is `@contextlib.contextmanager` missing?")
    return value


_ACTIVE: ContextVar[Plugins | None] = ContextVar("agl_plugins", default=None)


def active() -> Plugins:
    """The plugins of the attempt that runs here; outside an attempt, the installed ones."""
    return _ACTIVE.get() or _installed()


@functools.cache
def _installed() -> Plugins:
    return Plugins()
