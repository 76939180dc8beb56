"""What Agent Lightning calls an execution strategy, as far as it says something here: how many runners."""

from __future__ import annotations

from typing import Any, cast

from agl.compat.old import warn_old
from agl.errors import ConfigError

_SHARED, _SERVER = ("shm", "SharedMemoryExecutionStrategy"), ("cs", "ClientServerExecutionStrategy")
_OPTIONS = ("main_thread", "join_timeout", "graceful_delay", "poll_interval", "managed_store")


class SharedMemoryExecutionStrategy:
    """Runners in this process, which is what AGL does by itself. Only `n_runners` says something.

    Raises:
        ConfigError: an option that Agent Lightning's class has not either.
    """

    def __init__(self, n_runners: int | None = None, **options: Any) -> None:
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ConfigError(f"`SharedMemoryExecutionStrategy` has the options {['n_runners', *_OPTIONS]}, given was {unknown}")
        if options:
            warn_old(
                f"{sorted(options)} of `SharedMemoryExecutionStrategy` have no effect: AGL's runners share one event loop; leave them out"
            )
        self.n_runners = n_runners


def runners_of(strategy: Any) -> int | None:
    """How many runners a strategy asks for; None when it does not say.

    Args:
        strategy: an object, `"shm"`, or `{"type": "shm", "n_runners": …}`.

    Raises:
        ConfigError: another strategy.
    """
    options: dict[str, Any] = dict(cast("dict[str, Any]", strategy)) if isinstance(strategy, dict) else {}
    kind = options.pop("type", None) if isinstance(strategy, dict) else strategy
    if (isinstance(kind, str) and kind.rpartition(".")[2] in _SHARED) or kind is SharedMemoryExecutionStrategy:
        strategy = SharedMemoryExecutionStrategy(**options)
    if isinstance(strategy, SharedMemoryExecutionStrategy):
        warn_old('`strategy=` is old: AGL runs attempts in this process (`executor="thread"`), `n_runners` of them; leave it out')
        return strategy.n_runners
    if isinstance(kind, str) and kind.rpartition(".")[2] in _SERVER:
        raise ConfigError(
            f"`strategy={kind!r}` cannot be: AGL has no runner processes. Leave it out: `n_runners` attempts run in threads and tasks of "
            "this process; an agent that needs a process of its own starts one"
        )
    raise ConfigError(f"`strategy` can be 'shm' or left out, given was {strategy!r}; what runs the attempts is `executor=`")
