"""Every error that AGL raises to its user.

Each type names the boundary that failed. A message says what was given, what exists and what to do. A failed rollout is
data, not an exception; only misconfiguration and broken parts raise.
"""

from __future__ import annotations


class AglError(Exception):
    """Base of all errors raised by AGL."""


class ConfigError(AglError, ValueError):
    """An option, a dataset, an agent or a combination of them cannot work; raised before anything starts."""


class PluginError(AglError):
    """A plugin or a driver could not be found, loaded or called; the message names it."""


class StoreError(AglError):
    """The store is locked, has a newer schema, or refused an operation."""


class NotFoundError(StoreError, LookupError):
    """A record with the given id does not exist."""


class GatewayError(AglError):
    """The gateway could not start or cannot reach its upstream."""


class ProgramError(AglError):
    """A program that is an agent ended with a failure, or could not be started."""


class WorkerError(AglError):
    """A worker process that runs agents died, or could not be started."""


class EngineError(AglError):
    """The engine that serves the policy failed."""


class RewardError(AglError, ValueError):
    """A reward is missing or not a finite number."""


class DataError(AglError):
    """Recorded data cannot be learned from, and why."""
