"""Discovery reads metadata: what is blocked, unsupported or a clash is known before anything is imported."""

import sys

import pytest

import agl
from agl.discovery import discover, unmet
from agl.errors import ConfigError
from agl.plugins import Plugins
from agl.settings import PluginSettings

BROKEN = "raise RuntimeError('imported')"


@pytest.fixture
def install(install_package):
    """Installs a plugin whose module breaks when it is imported."""

    def make(dist="my-dist", name="mine", requires=(), version="1.0"):
        install_package(dist, {name: f"{name}_plugin"}, requires=requires, version=version, **{f"{name}_plugin": BROKEN})

    return make


def rows(settings=None):
    return {(item.row.package, item.row.name): item.row for item in discover(settings or PluginSettings())}


def test_nothing_is_imported_and_what_may_be_loaded_is_found(install):
    install()
    row = rows()["my-dist", "mine"]
    assert (row.state, row.version, row.reason) == ("found", "1.0", "")
    assert "mine_plugin" not in sys.modules


def test_plugins_are_in_the_order_of_their_names_whatever_the_file_system_says(install):
    for name in ("zebra", "mouse", "ant"):
        install(f"{name}-dist", name)
    names = [row.name for row in (item.row for item in discover(PluginSettings())) if row.package.endswith("-dist")]
    assert names == ["ant", "mouse", "zebra"]


@pytest.mark.parametrize("entry", ["mine", "my-dist:mine", "*"])
def test_a_plugin_that_the_settings_disable_is_blocked(install, entry):
    install()
    found = rows(PluginSettings(disabled=(entry,)))
    assert (found["my-dist", "mine"].state, found["my-dist", "mine"].reason) == ("blocked", "named in [plugins] disabled")
    assert found["agl-core", "credit"].state == "found"


def test_the_environments_list_allows_those_alone_and_the_cores_own(install, monkeypatch):
    install()
    install("other-dist", "other")
    monkeypatch.setenv("AGL_PLUGINS", "other")
    found = rows()
    assert (found["my-dist", "mine"].state, found["my-dist", "mine"].reason) == ("blocked", "not named in $AGL_PLUGINS")
    assert found["other-dist", "other"].state == found["agl-core", "credit"].state == "found"


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ("no-such-framework>=2", "needs no-such-framework>=2, which is not installed: pip install 'my-dist[instruments]'"),
        ("pluggy>=99", "needs pluggy>=99, installed is "),
    ],
)
def test_a_framework_outside_the_supported_range_is_unsupported_before_import(install, requires, reason):
    install(requires=[f'{requires}; extra == "instruments"'])
    row = rows()["my-dist", "mine"]
    assert row.state == "unsupported"
    assert row.reason.startswith(reason)
    assert list(row.frameworks) == [requires.partition(">=")[0]]


def test_a_framework_in_the_supported_range_is_found_with_its_version(install):
    install(requires=['pluggy>=1; extra == "instruments"', 'nothing>=1; extra == "test"', "pluggy"])
    row = rows()["my-dist", "mine"]
    assert (row.state, list(row.frameworks)) == ("found", ["pluggy"])
    assert row.frameworks["pluggy"]


def test_a_requirement_for_another_python_does_not_count(install):
    install(requires=['no-such-framework; python_version < "3" and extra == "instruments"'])
    assert rows()["my-dist", "mine"].state == "found"


def test_a_package_that_is_on_the_path_twice_counts_once_and_the_first_one_counts(install, tmp_path, monkeypatch):
    install(version="1.0")
    old = tmp_path / "old" / "my_dist-0.9.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: my-dist\nVersion: 0.9\n")
    (old / "entry_points.txt").write_text("[agl]\nolder = older_plugin\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(old.parent)])
    assert [(name, row.version) for (package, name), row in rows().items() if package == "my-dist"] == [("mine", "1.0")]


def test_order_of_the_settings_goes_before_names(install_package, monkeypatch, tmp_path):
    code = "import agl\n@agl.hookimpl\ndef agl_adapt_agent(agent): pass\n"
    for name in ("ant", "bee", "cat"):
        install_package(f"{name}-dist", {name: f"{name}_plugin"}, **{f"{name}_plugin": code})
    assert called()[:3] == ["ant", "bee", "cat"]
    use_settings(tmp_path, monkeypatch, '[plugins]\norder = ["cat", "ant"]')
    assert called()[:3] == ["cat", "ant", "bee"]
    assert called([Mine()])[:2] == ["mine", "cat"]
    assert called()[-1] == "functions"


class Mine:
    name = "mine"

    @agl.hookimpl
    def agl_adapt_agent(self, agent):
        return None


def called(extra=()):
    return Plugins(extra).implementations()["agl_adapt_agent"]


def use_settings(folder, monkeypatch, text):
    (folder / "agl.toml").write_text(text)
    monkeypatch.setenv("AGL_CONFIG", str(folder / "agl.toml"))


@pytest.mark.parametrize(
    ("required", "problem"),
    [
        ("my-dist>=2", "my-dist 1.0 is installed: pip install 'my-dist>=2'"),
        ("my_dist", "plugin `mine` is failed: RuntimeError: imported"),
        ("mine", "plugin `mine` is failed: RuntimeError: imported"),
        ("absent-dist>=1", "is not installed: pip install 'absent-dist>=1'"),
        ("not a requirement!", "is no requirement such as"),
    ],
)
def test_what_is_required_must_be_there_and_work(install, monkeypatch, tmp_path, required, problem):
    install()
    use_settings(tmp_path, monkeypatch, f'[plugins]\nrequired = ["{required}"]')
    with pytest.raises(ConfigError) as caught:
        Plugins().check()
    assert problem in str(caught.value)


def test_a_requirement_that_is_met_is_no_problem():
    assert unmet([item.row for item in discover(PluginSettings())], PluginSettings(required=("agl-core>=0.1", "credit"))) == []


def test_a_name_in_the_order_that_does_not_exist_is_an_error(monkeypatch, tmp_path):
    use_settings(tmp_path, monkeypatch, '[plugins]\norder = ["lang-graph"]')
    with pytest.raises(ConfigError, match=r"\[plugins\] order names the plugin `lang-graph`, which is not installed; there are"):
        Plugins().check()


def test_a_trainer_does_not_start_without_what_is_required(monkeypatch, tmp_path):
    use_settings(tmp_path, monkeypatch, '[plugins]\nrequired = ["absent-dist"]')
    with pytest.raises(ConfigError, match="pip install 'absent-dist'"):
        agl.Trainer()
