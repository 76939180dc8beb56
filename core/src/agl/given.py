"""Given: what a user gives a Trainer, checked and made into what it needs, before anything starts.

Errors are ConfigErrors that name the option, what was given and what to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from agl.algorithms import Algorithm
from agl.credit import Credit
from agl.errors import ConfigError, GatewayError
from agl.executors import Executor
from agl.registry import load
from agl.resources import LLM, PromptTemplate, Resource
from agl.roles import FREEZE, TRAIN, Roles
from agl.settings import Settings
from agl.tasks import Mode, make_tasks

DEV_TASKS = 10
"""Most tasks of each dataset in `Trainer.dev`."""


def make_datasets(**given: Any) -> dict[str, Any]:
    """Tasks by mode, of the datasets that are not None."""
    return {name: make_tasks(data, Mode(name), f"{name}_dataset") for name, data in given.items() if data is not None}


def first_tasks(dataset: Any) -> Any:
    """The tasks of a dry run; what is no sequence of tasks is refused later."""
    if isinstance(dataset, (str, bytes, dict)) or not isinstance(dataset, Iterable):
        return cast(object, dataset)
    return list(itertools.islice(cast("Iterable[Any]", dataset), DEV_TASKS))


def read_algorithm(given: Any, settings: Settings) -> Algorithm | None:
    """The algorithm itself; one that is named has the options that the settings have for it."""
    if isinstance(given, str):
        options: Any = settings.algorithms.get(given.rpartition(":")[2], {})
        given = load("agl.algorithms", given)(**options)
    if given is not None and not isinstance(given, Algorithm):
        raise ConfigError(f"`algorithm` must be an `agl.Algorithm` or the name of one, given was {given!r}")
    return given


def read_resources(given: Mapping[str, Any]) -> dict[str, Resource]:
    """LLMs and prompt templates by name."""
    for name, value in given.items():
        if not isinstance(value, (LLM, PromptTemplate)):
            raise ConfigError(f"`initial_resources[{name!r}]` must be an `agl.LLM` or `agl.PromptTemplate`, given was {value!r}")
    return dict(given)


def read_seconds(given: float | None, name: str) -> float | None:
    """A positive time, or None."""
    if given is not None and not given > 0:
        raise ConfigError(f"`{name}` must be positive seconds or None, given was {given!r}")
    return given


def at_least(least: int, value: Any, name: str) -> int:
    """An integer that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"`{name}` must be an integer of at least {least}, given was {value!r}")
    return value


def takes_rewards(given: Any) -> bool:
    """Whether rewards from the agent's side count (`agent_rewards`)."""
    if given not in ("accept", "refuse"):
        raise ConfigError(f'`agent_rewards` must be "accept" or "refuse", given was {given!r}')
    return given == "accept"


def read_executor(given: Any) -> type[Executor]:
    """What runs the attempts: a class, or the driver of that name."""
    found = load("agl.executors", given) if isinstance(given, str) else given
    if not (isinstance(found, type) and issubclass(found, Executor)):
        raise ConfigError(f"`executor` must be a class derived from `agl.executors.Executor` or the name of one, given was {given!r}")
    return found


def check_served(algorithm: Algorithm, resources: Mapping[str, Resource]) -> None:
    """Refuse models that the algorithm's own would take the place of."""
    if taken := [name for name in algorithm.serves if name in resources]:
        raise ConfigError(
            f"`initial_resources` has {taken}, and the algorithm `{algorithm.name}` trains and serves its own model under that name, so "
            f"that no call would reach yours; leave it out (`{algorithm.name}` says with its own options which model it trains), or give it "
            "another name and send a role's calls there (`roles`)"
        )


def check_learned(algorithm: Algorithm, roles: Roles, credit: Credit | None) -> None:
    """Refuse to choose calls to learn from where whole rollouts and their prompts are what is learned from."""
    given = {"`adapter['agent_match']` (`--agent-match`)": roles.pattern, "`adapter['credit']`": credit}
    given |= {f"`roles[{name!r}]`": what in (TRAIN, FREEZE) for name, what in roles.roles.items()}
    if algorithm.only_prompts and (idle := [name for name, value in given.items() if value]):
        raise ConfigError(
            f"no effect of {' and '.join(idle)}: weights learn from calls, and the algorithm `{algorithm.name}` changes prompts alone, by the "
            "rewards of whole rollouts; leave that out: which prompts are changed is said by the algorithm's own options"
        )


def check_reachable(resources: Mapping[str, Resource]) -> None:
    """Refuse to start when an endpoint cannot be reached, rather than fail each rollout.

    Raises:
        GatewayError: nobody answers there.
    """
    if not resources:
        raise ConfigError('without an algorithm the agent needs `initial_resources={"main_llm": agl.LLM(endpoint=…, model=…)}`')
    for name, llm in resources.items():
        if isinstance(llm, LLM):
            for endpoint in (llm.endpoint, *llm.endpoints):
                _check_endpoint(name, endpoint)


def _check_endpoint(name: str, endpoint: str) -> None:
    import socket

    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the endpoint of `{name}` must be a URL such as http://127.0.0.1:8000/v1, given was {endpoint!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as error:
        raise GatewayError(
            f"the endpoint of `{name}`, {endpoint}, cannot be reached: {error.strerror or error}; start its server or mend the URL"
        ) from error
