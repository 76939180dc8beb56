"""What `make test-plugins` and `make canary` install."""

import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup_plugin(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import setup_plugin

    yield setup_plugin
    for name in ("setup_plugin", "environments"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("requirement", "unbounded"),
    [
        ("crewai>=1.15.30,<1.16", "crewai>=1.15.30"),
        ("a <2, >=1", "a>=1"),
        ("autogen-ext[openai]>=0.7.5,<=0.8", "autogen-ext[openai]>=0.7.5"),
        ("a==1.0", "a"),
        ("a>=1", "a>=1"),
    ],
)
def test_a_canary_takes_any_newer_version(setup_plugin, requirement, unbounded):
    assert setup_plugin.without_upper_bound(requirement) == unbounded


@pytest.mark.parametrize("plugin", ["langgraph", "crewai", "autogen", "openai_agents"])
def test_a_canarys_copy_of_a_plugin_says_that_it_supports_what_is_installed(setup_plugin, plugin, tmp_path):
    about = tomllib.loads((setup_plugin.unbounded(plugin, tmp_path) / "pyproject.toml").read_text())["project"]
    supported = about["optional-dependencies"]["instruments"]
    assert supported
    assert not [requirement for requirement in supported if "<" in requirement or "==" in requirement]
    assert set(supported) <= set(setup_plugin.frameworks_of(plugin, "canary"))
