"""Failures: what the Trainer's option `failures` says is done with each class of failed attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from agl.errors import ConfigError
from agl.rollouts import EXCLUDE, POLICIES, RETRY, REWARD, Failure

ATTEMPTS, FAILURE_REWARD = 2, 0.0
"""What `max_attempts` and `failure_reward` of the Trainer are unless told."""
_FREE = (Failure.AGENT, Failure.TIMEOUT, Failure.TRUNCATED)
_CHOICES: dict[str, tuple[str, ...]] = {**dict.fromkeys(_FREE, (RETRY, EXCLUDE, REWARD)), Failure.INFRASTRUCTURE: (RETRY, EXCLUDE)}


def read_policies(given: Any, max_attempts: int) -> dict[str, str | float]:
    """What differs from the defaults (`agl.rollouts.POLICIES`), checked.

    Args:
        given: policies by class, such as `{"timeout": "exclude", "truncated": -1.0}`.
        max_attempts: tries at a rollout.

    Raises:
        ConfigError: an unknown class, a policy that it cannot have, or one without effect.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f'`failures` must be policies by class, such as {{"timeout": "exclude"}}, given was {given!r}')
    policies = {str(name): value for name, value in cast(Mapping[Any, Any], given).items()}
    for name, value in policies.items():
        _check(name, value, max_attempts)
    return {name: value for name, value in policies.items() if POLICIES[Failure(name)] != value}


def check_effect(policies: Mapping[str, str | float], max_attempts: int, failure_reward: float | None) -> None:
    """Refuse what was said of attempts and of failed agents where the policies leave it nothing to do.

    Args:
        policies: as `read_policies` gives them.
        max_attempts: tries at a rollout.
        failure_reward: of a rollout in which the agent itself failed.

    Raises:
        ConfigError: one of the two differs from its default and no policy uses it.
    """
    defaults = {name: policy for name, policy in POLICIES.items() if name != Failure.TRUNCATED}  # which is a failure only where it is named
    used = {*({**defaults, **policies}).values()}
    given = {"max_attempts": (max_attempts, RETRY, (1, ATTEMPTS)), "failure_reward": (failure_reward, REWARD, (FAILURE_REWARD,))}
    for name, (value, policy, silent) in given.items():
        if policy not in used and value not in silent:
            raise ConfigError(
                f"`{name}={value!r}` has no effect: none of `failures` is `{policy}`, given was {dict(policies)}; leave `{name}` out"
            )


def _check(name: str, value: Any, max_attempts: int) -> None:
    if name not in _CHOICES:
        why = "; what is stopped from outside is always excluded" if name == Failure.CANCELLED else ""
        why = "; a missing reward is always missing" if name == Failure.REWARD else why
        raise ConfigError(f"`failures` has the classes {sorted(map(str, _CHOICES))}, given was {name!r}{why}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and name in _FREE) and value not in _CHOICES[name]:
        or_number = " or a number" if name in _FREE else "; it says nothing of the agent, so no reward may come of it"
        raise ConfigError(f"`failures[{name!r}]` must be one of {list(_CHOICES[name])}{or_number}, given was {value!r}")
    if value == RETRY and max_attempts == 1 and POLICIES[Failure(name)] != RETRY:
        raise ConfigError(f"`failures[{name!r}]` is `retry` and `max_attempts` is 1, so that nothing is tried again; give more attempts")
