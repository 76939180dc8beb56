"""Writes docs/reference from the code: `python tools/reference.py`. With `--check` it writes nothing and fails when a page is out of date.

Hooks come from `agl.hookspecs.SPECS`, drivers from `agl.registry.GROUPS` and their base classes, commands from click,
environment variables from the constants named `…_VARIABLE`, keys of agl.toml from `agl.settings`; the words are those of the docstrings.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from docstrings import attributes, class_in, fields, markdown, methods

from agl import hookspecs
from agl.cli import cli
from agl.hookspecs import SPECS
from agl.registry import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
NOTE = "<!-- Made by tools/reference.py from the code. Change it there, then: make reference -->"
PACKAGES = [ROOT / "core", *sorted(ROOT.glob("plugins/*")), *sorted(ROOT.glob("algorithms/*")), *sorted(ROOT.glob("executors/*"))]


class Driver(NamedTuple):
    """A group of drivers as a reader meets it."""

    base: str
    """Module and class with the contract."""
    chosen: str
    """How a user names one."""
    kit: str
    """What checks it."""


DRIVERS = {
    "agl.algorithms": Driver(
        "agl.algorithms:Algorithm", "`Trainer(algorithm=…)`, `agl train --algorithm NAME`", "agl.testing.algorithms.AlgorithmConformance"
    ),
    "agl.stores": Driver(
        "agl.store.base:Store", "`Trainer(store=…)`, `--store`: a path, a URL, a name", "agl.testing.stores.StoreConformance"
    ),
    "agl.engines": Driver(
        "agl.engines:Engine", "an algorithm's option, such as `agl.GRPO(engine=…)`", "agl.testing.engines.EngineConformance"
    ),
    "agl.executors": Driver("agl.executors:Executor", "`Trainer(executor=…)`", "agl.testing.executors.ExecutorConformance"),
    "agl.trackers": Driver(
        "agl.trackers:Tracker", "`Trainer(trackers=[…])`: `NAME` or `NAME=VALUE`", "agl.testing.trackers.TrackerConformance"
    ),
    "agl.rewards": Driver("agl.judges:Judge", "`Trainer(rewards=[…])`", "agl.testing.rewards.RewardConformance"),
}


def hooks() -> str:
    """Every hook with its policy."""
    head, _, rest = (inspect.getdoc(hookspecs) or "").partition("\n\n")
    lines = [
        "# Hooks",
        NOTE,
        head,
        rest,
        "A hook is a function marked `@agl.hookimpl`, in a module that an entry point of the group `agl` names,",
    ]
    lines[-1] += " or a method of an object in `Trainer(plugins=[…])`. A module may declare which interface it is made for:"
    lines[-1] += (
        f" `agl_plugin_api = {hookspecs.AGL_PLUGIN_API}`. One that differs from `agl.AGL_PLUGIN_API` makes the plugin `unsupported`."
    )
    for name, spec in SPECS.items():
        function = getattr(hookspecs, name)
        kind = [spec.policy, *(["the first answer that is not None ends the call"] if spec.first_result else [])]
        lines += [f"## `{name}{_call(function)}`", f"- {', '.join(kind)}\n- runs {spec.runs}"]
        lines[-1] += "\n- may be async" if spec.may_be_async else "\n- may not be async"
        lines.append(markdown(function.__doc__ or ""))
    return _page(lines)


def _call(function: Any) -> str:
    text = str(inspect.signature(function))
    return text.replace("'", "").replace("typing.", "")


def drivers() -> str:
    """Every driver group with its contract, and what this project brings."""
    lines = ["# Drivers", NOTE]
    lines.append(
        "A driver is one of many, chosen by name. A package brings one in an entry-point group; `agl plugins` lists them. "
        "Where two packages bring one name, `package:name` says which. An object goes wherever a name does."
    )
    for group in GROUPS:
        driver = DRIVERS[group]
        module, _, name = driver.base.partition(":")
        path = ROOT / "core" / "src" / Path(*module.split(".")).with_suffix(".py")
        cls = class_in(path, name)
        brought = ", ".join(f"`{entry}` ({package})" for package, entry in _brought(group)) or "nothing in this project"
        lines += [f"## `{group}`", f"- base class: `{module}.{name}`\n- chosen by: {driver.chosen}\n- installed by: {brought}"]
        lines[-1] += f"\n- checked by: `{driver.kit}`" if driver.kit else "\n- checked by: no kit"
        lines.append(markdown(ast.get_docstring(cls) or ""))
        lines.append("\n".join(_attribute(*found) for found in attributes(cls.body)))
        for signature, text in methods(cls):
            lines += [f"### `{signature}`", markdown(text)]
    return _page(lines)


def _attribute(name: str, value: str, text: str) -> str:
    return f"- `{name}`{f', by default `{value}`' if value else ''}: {' '.join(text.split())}"


def _brought(group: str) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        if (package / "pyproject.toml").exists():
            project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
            yield from ((project["name"], name) for name in project.get("entry-points", {}).get(group, {}))


def commands() -> str:
    """Every command of `agl` with its arguments and options."""
    for entry in entry_points(group="agl"):  # those of the core alone, whatever is installed here
        if entry.value.startswith("agl.") and hasattr(module := entry.load(), "agl_register_commands"):
            module.agl_register_commands(cli)
    lines = [
        "# Commands",
        NOTE,
        "`agl COMMAND --help` says the same. Plugins may bring more: `agl_register_commands` in [hooks](hooks.md).",
    ]
    for path, command in sorted(_commands("agl", cli)):
        names = [_usage(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        lines += [f"## `{' '.join([path, *names])}`", inspect.cleandoc(command.help or "")]
        options = [_option(parameter) for parameter in command.params if parameter.param_type_name == "option"]
        lines.append("\n".join(options))
    return _page(lines)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if path != "agl":
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", inner)


def _usage(parameter: Any) -> str:
    name = parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    kind = (
        ""
        if parameter.is_flag
        else f" {parameter.metavar or '|'.join(getattr(parameter.type, 'choices', ())) or parameter.type.name.upper()}"
    )
    default = f" Default: `{parameter.default}`." if parameter.show_default and parameter.default not in (None, False) else ""
    return f"- `{', '.join(parameter.opts)}{kind}`{f': {parameter.help}' if parameter.help else '.'}{' Required.' if parameter.required else ''}{default}"


def environment() -> str:
    """Every environment variable that AGL reads or sets."""
    lines = ["# Environment variables", NOTE, "| variable | |\n|---|---|"]
    found = [(ast.literal_eval(value), text) for body in _modules() for name, value, text in attributes(body) if name.endswith("_VARIABLE")]
    lines[-1] += "".join(f"\n| `{name}` | {' '.join(text.split())} |" for name, text in sorted(found))
    lines.append(
        "`OPENAI_API_KEY` is the key that `agl dev` and `agl doctor --endpoint` send. Where it is unset, agents find a placeholder in it while a "
        "Trainer runs them: clients of the OpenAI SDK cannot be made without one, and each call gets its attempt's own key."
    )
    lines.append("What a project always wants belongs in [agl.toml](settings.md).")
    return _page(lines)


def settings() -> str:
    """Every section and key of agl.toml."""
    path = ROOT / "core" / "src" / "agl" / "settings.py"
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    head, example, rest = re.split(r"\n((?:(?: {4}.*)?\n)+)", said, maxsplit=1)
    lines = ["# Settings", NOTE, head, f"```toml\n{textwrap.dedent(example).strip()}\n```", rest, "Unknown sections and keys are errors."]
    for section, name in (("plugins", "PluginSettings"), ("trainer", "TrainerSettings")):
        cls = class_in(path, name)
        items = [f"- `{field}` ({kind.replace(' | None', '')}){f': {text}' if text else ''}" for field, kind, text in fields(cls)]
        lines += [f"## `[{section}]`", ast.get_docstring(cls) or "", "\n".join(items)]
    for field, _, text in fields(class_in(path, "Settings")):
        if text:
            lines += [f"## `[{field}.NAME]`", text]
    return _page(lines)


def _modules() -> Iterator[list[ast.stmt]]:
    for package in PACKAGES:
        for path in sorted((package / "src").rglob("*.py")):
            yield ast.parse(path.read_text()).body


def _page(lines: list[str]) -> str:
    return "\n\n".join(line.strip() for line in lines if line.strip()) + "\n"


def main() -> None:
    """Write the pages, or compare them."""
    made = {f"{page.__name__}.md": page() for page in (hooks, drivers, commands, environment, settings)}
    stale = [name for name, text in made.items() if not (PAGES / name).exists() or (PAGES / name).read_text() != text]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"docs/reference/{stale} are not what the code says: make reference")
        return
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (PAGES / name).write_text(made[name])
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
