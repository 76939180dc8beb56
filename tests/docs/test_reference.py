"""The reference is what the code says, and everything that a user or an author may name has a place in it."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest

import agl
from agl.cli import cli
from agl.hookspecs import SPECS
from agl.registry import GROUPS
from agl.settings import PluginSettings, Settings, TrainerSettings

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
SOURCES = [path for folder in ("core", "plugins", "algorithms", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


def page(name):
    return (PAGES / f"{name}.md").read_text()


def commands(command, path=()):
    for name, inner in getattr(command, "commands", {}).items():
        yield " ".join([*path, name]), inner
        yield from commands(inner, [*path, name])


def test_the_pages_are_what_the_code_says():
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_has_its_place_with_its_policy_and_all_of_its_arguments(hook):
    spec = SPECS[hook]
    [section] = re.findall(rf"^## `{hook}\((.*?)(?=^## |\Z)", page("hooks"), re.DOTALL | re.MULTILINE)
    assert f"\n- {spec.policy}" in section
    assert f"- runs {spec.runs}" in section
    assert f"- may {'be' if spec.may_be_async else 'not be'} async" in section
    assert [name for name in spec.arguments if f"\n- `{name}`:" not in section] == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_driver_group_has_its_place_with_what_is_installed(group):
    [section] = re.findall(rf"^## `{re.escape(group)}`\n(.*?)(?=^## |\Z)", page("drivers"), re.DOTALL | re.MULTILINE)
    ours = [entry.name for entry in entry_points(group=group) if entry.dist and _of_this_project(entry.dist.name)]
    assert [name for name in ours if f"`{name}`" not in section] == []
    assert "\n### `" in section


def test_every_command_has_its_place_with_all_of_its_options():
    for entry in entry_points(group="agl"):
        if entry.value.startswith("agl.") and hasattr(module := entry.load(), "agl_register_commands"):
            module.agl_register_commands(cli)
    named = {
        path: command for path, command in commands(cli) if (command.callback or print).__module__.startswith("agl.")
    }  # not a package's
    assert {"train", "plugins", "plugins new"} <= named.keys()
    for path, command in named.items():
        [section] = re.findall(rf"^## `agl {path}(?: \[?[A-Z]+\]?)*`\n(.*?)(?=^## |\Z)", page("commands"), re.DOTALL | re.MULTILINE)
        options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        assert [name for name in options if f"`{name}" not in section] == [], path


def test_every_environment_variable_has_its_place():
    named = {name for path in SOURCES for name in re.findall(r"\bAGL_[A-Z_]+", path.read_text())}
    assert {"AGL_CONFIG", "AGL_PLUGINS"} <= named
    constants = {name for name in named if hasattr(agl, name)}  # `agl.AGL_PLUGIN_API` is a number, not a variable
    assert [name for name in sorted(named - constants) if f"`{name}`" not in page("environment")] == []
    assert [name for name in sorted(constants) if f"`agl.{name}`" not in page("hooks")] == []


def test_variables_of_others_that_are_read_have_their_place():
    """Those of a framework on the page of its plugin, those of Ray on VERL's, those of dashboards on that of trackers."""
    keys = {key for path in SOURCES if path.parts[len(ROOT.parts)] != "examples" for key in _environment_keys(ast.parse(path.read_text()))}
    own = [*(ROOT / "docs" / "frameworks").glob("*.md"), ROOT / "docs" / "from-laptop-to-cluster.md", ROOT / "docs" / "trackers.md"]
    pages = page("environment") + "".join(path.read_text() for path in own)
    assert "OPENAI_API_KEY" in keys
    assert [key for key in sorted(keys) if f"`{key}" not in pages] == []


def test_every_setting_has_its_place_and_the_example_is_one():
    text = page("settings")
    fields = [*PluginSettings.__struct_fields__, *TrainerSettings.__struct_fields__]
    assert [name for name in fields if f"- `{name}` (" not in text] == []
    assert [name for name in Settings.__struct_fields__ if f"## `[{name}" not in text] == []
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert msgspec.convert(tomllib.loads(example), Settings).plugins.required == ("agl-langgraph>=0.1",)


def test_every_page_is_in_the_index():
    listed = re.findall(r"^([\w/*-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    shown = [name for name in pages if not name.startswith(("changelog.d/", "_build/")) and name != "index"]
    assert [name for name in shown if not any(fnmatch.fnmatchcase(name, pattern) for pattern in listed)] == []


def test_links_between_pages_lead_somewhere():
    for path in [*(ROOT / "docs").glob("*.md"), *PAGES.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def _of_this_project(package):
    projects = [path for folder in ("core", "plugins/*", "algorithms/*", "executors/*") for path in ROOT.glob(f"{folder}/pyproject.toml")]
    return package in {tomllib.loads(path.read_text())["project"]["name"] for path in projects}


def _environment_keys(tree):
    """Constant keys of `os.environ[…]`, `os.environ.get(…)`, `… in os.environ` and `os.getenv(…)`."""
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Subscript, ast.Compare)) else ""
        yield from re.findall(r"^(?:os\.)?(?:environ(?:\[|\.\w+\()|getenv\()'(\w+)'", text)
        yield from re.findall(r"^'(\w+)' (?:not )?in os\.environ$", text)
