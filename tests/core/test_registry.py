"""The registry finds drivers by name, and says which there are when it does not."""

import subprocess
import sys

import pytest
from stevedore import ExtensionManager

from agl import registry
from agl.errors import PluginError


def test_a_driver_is_loaded_by_its_name():
    from agl.runner import ThreadExecutor

    assert registry.load("agl.executors", "thread") is ThreadExecutor


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(PluginError, match=r"no executor is named `cloud`; there are \['process', .*'thread'\]"):
        registry.load("agl.executors", "cloud")


def test_a_known_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(registry._KNOWN_PACKAGES, ("agl.algorithms", "ghost"), "agl-ghost")
    with pytest.raises(PluginError, match="`pip install agl-ghost` brings it"):
        registry.load("agl.algorithms", "ghost")


def test_listing_imports_nothing(install_package):
    install_package("bad-dist", {"bad": "bad_module:X"}, "agl.algorithms", bad_module="raise RuntimeError('imported')")
    assert [entry.dist.metadata["Name"] for entry in registry.drivers("agl.algorithms")["bad"]] == ["bad-dist"]


@pytest.mark.parametrize("code", ["raise RuntimeError('imported')", "import nosuch", "raise SystemExit(1)", "x = (", ""])
def test_a_driver_that_cannot_be_loaded_is_named_with_its_package(install_package, code):
    install_package("bad-dist", {"bad": "bad_module:X"}, "agl.algorithms", bad_module=code)
    with pytest.raises(PluginError, match="algorithm `bad` of bad-dist could not be loaded: "):
        registry.load("agl.algorithms", "bad")


def test_two_packages_under_one_name_are_told_apart_by_package(install_package):
    install_package("one-dist", {"same": "one_module:X"}, "agl.algorithms", one_module="X = 1")
    install_package("other-dist", {"between": "one_module:X"}, "agl.algorithms")
    install_package("two_dist", {"same": "two_module:X"}, "agl.algorithms", two_module="X = 2")
    with pytest.raises(PluginError, match="`one-dist:same` or `two_dist:same`"):
        registry.load("agl.algorithms", "same")
    assert registry.load("agl.algorithms", "one-dist:same") == 1
    assert registry.load("agl.algorithms", "two-dist:same") == 2


def test_a_package_that_was_just_reinstalled_is_seen_as_it_is_now(install_package):
    install_package("dev-dist", {"first": "dev_module:X"}, "agl.algorithms", dev_module="X = 1; Y = 2")
    assert registry.load("agl.algorithms", "first") == 1
    install_package("dev-dist", {"second": "dev_module:Y"}, "agl.algorithms")
    assert registry.load("agl.algorithms", "second") == 2
    with pytest.raises(PluginError, match="no algorithm is named `first`"):
        registry.load("agl.algorithms", "first")


def test_nothing_stays_in_stevedores_cache():
    registry.load("agl.executors", "thread")
    assert "agl.executors" not in ExtensionManager.ENTRY_POINT_CACHE


def test_only_the_named_driver_is_imported(install_package, tmp_path):
    install_package(
        "two-drivers",
        {"good": "good_module:X", "bad": "bad_module:X"},
        "agl.algorithms",
        good_module="X = 1",
        bad_module="raise RuntimeError('imported')",
    )
    code = "import sys; from agl import registry; print(registry.load('agl.algorithms', 'good'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)})
    assert run.stdout.strip() == "1 False"
