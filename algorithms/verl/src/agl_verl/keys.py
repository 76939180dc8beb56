"""Keys: what a user may set in VERL's configuration, and near matches for what is no key of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from agl.errors import ConfigError

OPEN = ("ray_kwargs.ray_init", "actor_rollout_ref.model.override_config", "critic.model.override_config")
"""Sections that are handed on as they are, beside those that VERL leaves empty."""
OWNED = {
    "data.train_files": "`fit(agent, train_dataset)` takes the tasks",
    "data.val_files": "`fit(…, val_dataset=…)` takes the tasks",
    "data.val_batch_size": "all validation tasks are one batch",
    "data.custom_cls": "`fit(agent, train_dataset)` takes the tasks",
    "data.prompt_key": "the agent makes its prompts",
    "data.filter_overlong_prompts": "the agent makes its prompts; rows that are too long are left out and counted",
    "data.truncation": "the agent makes its prompts; rows that are too long are left out and counted",
    "reward": "rewards come from the agent, from `agl.agent(…, reward=…)` or from judges (`Trainer(rewards=[…])`)",
    "reward_model": "rewards come from the agent, from `agl.agent(…, reward=…)` or from judges (`Trainer(rewards=[…])`)",
    "custom_reward_function": "give it with the agent: `agl.agent(…, reward=…)`",
    "distillation": "AGL has no teacher",
    "trainer.use_v1": "AGL is made for VERL's V1 trainer",
    "trainer.resume_mode": "`fit(…, resume=True)` goes on with a run",
    "trainer.resume_from_path": "`fit(…, resume=True)` goes on with a run",
    "trainer.val_only": "`Trainer.evaluate(agent, dataset)` measures without learning",
    "trainer.balance_batch": "rows are dealt to workers by their tokens, and rollouts to optimiser steps as wholes",
    "actor_rollout_ref.actor.shuffle": "rollouts are dealt to optimiser steps as wholes",
    "actor_rollout_ref.rollout.agent": "AGL's runners execute the agents (`Trainer(n_runners=…)`)",
}
"""Keys of VERL whose place AGL takes, with what to use instead."""

Fields = Callable[[str], Mapping[str, Any]]
"""The fields of a configuration class of VERL, with its defaults, by its full name."""


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values; an empty section is a value."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(cast(Mapping[str, Any], value), here)
        else:
            yield here, value


def check_keys(given: Mapping[str, Any], defaults: Mapping[str, Any], fields: Fields) -> None:
    """Refuse what VERL does not know, and what AGL decides.

    Args:
        given: the user's configuration, nested.
        defaults: VERL's.
        fields: of configuration classes, which have more than VERL's files write out.

    Raises:
        ConfigError: naming every such key, with near matches or what to use instead.
    """
    problems = []
    for path, _ in leaves(given):
        owner = next((name for name in OWNED if path == name or path.startswith(f"{name}.")), None)
        if owner is not None:
            problems.append(f"`{path}` has no place here: {OWNED[owner]}")
        elif not _known(path.split("."), defaults, fields):
            problems.append(f"VERL has no key `{path}`{_near(path, defaults)}")
    if problems:
        raise ConfigError("; ".join(problems))


def _known(names: list[str], section: Any, fields: Fields, above: tuple[str, ...] = ()) -> bool:
    if not names:
        return True
    if ".".join(above) in OPEN:
        return True
    if not isinstance(section, Mapping):
        return False
    section = cast(Mapping[str, Any], section)
    if not section and above:
        return True
    head, rest = names[0], names[1:]
    if head in section:
        # A section that is null in VERL's files may be given whole.
        return section[head] is None or _known(rest, section[head], fields, (*above, head))
    target = section.get("_target_")
    known = fields(target) if target else {}
    return head in known and (not rest or not isinstance(known[head], Mapping) or _known(rest, known[head], fields, (*above, head)))


def _near(path: str, defaults: Mapping[str, Any]) -> str:
    paths = [known for known, _ in leaves(defaults) if "_target_" not in known]
    sections = {known.rpartition(".")[0] for known in paths} - {""}
    close = difflib.get_close_matches(path, [*paths, *sections], 2, 0.75)
    name = path.rpartition(".")[2]
    close += [known for known in paths if known.rpartition(".")[2] == name and known not in close][: 2 - len(close)]
    return f"; near it are {' and '.join(f'`{item}`' for item in close)}" if close else ""


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the given values in their places."""
    found = dict(defaults)
    for key, value in given.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value)) if both else value
    return found


def at(tree: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted path; None where there is none."""
    found: Any = tree
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = cast(Mapping[str, Any], found).get(name)
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path as a tree."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        section = tree
        for key in sections:
            section = section.setdefault(key, {})
        section[name] = value
    return tree
