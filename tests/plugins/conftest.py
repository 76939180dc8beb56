"""Tests of a plugin are collected where its frameworks are installed; its own environment must have some that pass.

`make test-plugins` runs each plugin's tests in an environment of its own and names the plugin in `AGL_TEST_PLUGIN`. Then the
folder is collected in any case, and a run without a passed test fails: a skip cannot hide that nothing is tested.
"""

import importlib.metadata
import os
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
REQUIRED = os.environ.get("AGL_TEST_PLUGIN", "")


def missing(plugin):
    """What the plugin's extra `instruments` asks for and this environment does not have."""
    about = tomllib.loads((ROOT / "plugins" / plugin / "pyproject.toml").read_text())["project"]
    needed = [about["name"], *about["optional-dependencies"]["instruments"]]
    return [text for text in needed if not is_installed(Requirement(text))]


def is_installed(requirement):
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def plugins():
    return sorted(path.name for path in HERE.iterdir() if (ROOT / "plugins" / path.name / "pyproject.toml").exists())


LEFT_OUT = {plugin: lacks for plugin in plugins() if plugin != REQUIRED and (lacks := missing(plugin))}


def pytest_ignore_collect(collection_path):
    return True if collection_path.parent == HERE and collection_path.name in LEFT_OUT else None


def pytest_terminal_summary(terminalreporter):
    for plugin, lacks in ({} if REQUIRED else LEFT_OUT).items():
        terminalreporter.write_line(f"tests/plugins/{plugin} is not collected here: not installed are {lacks}; `make test-plugins` runs it")


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if REQUIRED and reporter is not None and not session.config.option.collectonly and not reporter.stats.get("passed"):
        reporter.write_line(f"no test of the plugin `{REQUIRED}` has passed in its own environment", red=True)
        session.exitstatus = session.exitstatus or 1
