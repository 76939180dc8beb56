"""Settings: `agl.toml`, what a project asks for whatever script runs.

    [plugins]
    disabled = ["crewai"]                    # never imported
    required = ["agl-langgraph>=0.1"]        # must be there and work, or nothing starts
    order = ["mine", "langgraph"]            # called in this order, before all others

    [trainer]                                # defaults of the Trainer's options of the same names
    algorithm = "grpo"

    [algorithms.grpo]                        # options of an algorithm that is named rather than given as an object
    model = "Qwen/Qwen2.5-0.5B-Instruct"

    [rewards.llm_judge]                      # options of a reward that is named
    model = "gpt-5-mini"

It is read from the working directory, or from where the environment variable `AGL_CONFIG` says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import ConfigError

FILE = "agl.toml"
DEFAULT_STORE = ".agl/store.sqlite"
"""Where runs are kept when nobody says."""
CONFIG_VARIABLE = "AGL_CONFIG"
"""Path of the settings file; without it `agl.toml` of the working directory is read where there is one."""


class PluginSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugins may act, and in which order."""

    disabled: tuple[str, ...] = ()
    """Names, or `package:name`; `*` for all but the core's own."""
    required: tuple[str, ...] = ()
    """Packages or plugins, with version ranges where wanted: `agl-langgraph>=0.1`."""
    order: tuple[str, ...] = ()
    """Names, called first to last before all others."""


class TrainerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Defaults of the Trainer's options; one that a script gives itself goes first."""

    algorithm: str | None = None
    store: str | None = None
    executor: str | None = None
    trackers: tuple[str, ...] | None = None
    rewards: tuple[str, ...] | None = None
    reward_weights: dict[str, float] | None = None
    n_runners: int | None = None
    agent_rewards: str | None = None
    failures: dict[str, str | float] | None = None
    reward_timeout: float | None = None
    patience: dict[str, int | float] | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    plugins: PluginSettings = PluginSettings()
    trainer: TrainerSettings = TrainerSettings()
    algorithms: dict[str, dict[str, Any]] = {}
    """Options by the algorithm's name."""
    rewards: dict[str, dict[str, Any]] = {}
    """Options by the reward's name."""


def read_settings() -> Settings:
    """The settings of this process; the defaults where there is no file.

    Raises:
        ConfigError: the file that `AGL_CONFIG` names is missing, or a file cannot be read: no TOML, an unknown key, a wrong type.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named or FILE)
    if not path.exists():
        if named:
            raise ConfigError(f"${CONFIG_VARIABLE} names `{named}`, which does not exist; write it, or unset the variable")
        return Settings()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Settings)
    except (msgspec.DecodeError, ValueError, OSError) as error:
        known = (
            "[plugins] disabled, required, order; [trainer] "
            + ", ".join(TrainerSettings.__struct_fields__)
            + "; [algorithms.NAME]; [rewards.NAME]"
        )
        raise ConfigError(f"`{path}` cannot be used: {error}. It may hold {known}") from error
