"""agl plugins and agl doctor, as a user types them."""

import json
import os
import socket
import subprocess
import sys

import pytest

from agl.doctor import examine
from agl.testing.scripted import ScriptedServer


@pytest.fixture
def agl(tmp_path, monkeypatch):
    """The command in a process of its own, in an empty folder that is also on the module path."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **environment):
        command = [sys.executable, "-c", "from agl.cli import main; main()", *arguments]
        known = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "160", **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=known, check=False)

    return run


@pytest.fixture
def broken(install_package):
    install_package("broken-dist", {"broken": "broken_plugin"}, broken_plugin="import no_such_module")


def states(folder, **asked):
    return {check.name: check for check in examine(folder=folder, **asked)}


def test_plugins_lists_each_with_its_package_state_and_hooks(agl, broken):
    done = agl("plugins")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("credit"))
    assert line.split()[:5] == ["credit", "agl-core", "0.1.0", "ok", "assign_credit"]
    assert "broken (broken-dist) is failed: ModuleNotFoundError: No module named 'no_such_module'" in done.stdout
    assert "executor   thread" in done.stdout


def test_plugins_as_json_has_what_each_brings(agl, broken):
    listed = json.loads(agl("plugins", "--json").stdout)
    found = {row["name"]: row for row in listed["plugins"]}
    assert found["broken"]["state"] == "failed"
    assert found["credit"]["hooks"] == ["agl_assign_credit"]
    assert found["credit"]["seconds"] > 0
    assert "agl.executors:thread" in found["credit"]["drivers"]
    assert {"group": "agl.stores", "name": "sqlite", "package": "agl-core", "version": "0.1.0", "state": "ok"} in listed["drivers"]


def test_plugins_traceback_shows_where_it_failed(agl, broken):
    assert 'broken_plugin.py", line 1' in agl("plugins", "--traceback").stdout


def test_hooks_are_listed_with_policy_and_call_order(agl):
    shown = agl("plugins", "--hooks").stdout
    assert "agl_reward(result)  decision, may be async; once per attempt" in shown
    found = {item["name"]: item for item in json.loads(agl("plugins", "--hooks", "--json").stdout)}
    assert found["agl_adapt_agent"]["implementations"][-1] == "functions"
    assert (found["agl_step_ended"]["policy"], found["agl_adapt_agent"]["first_result"]) == ("observer", True)


def test_doctor_is_content_with_a_sound_installation(agl):
    done = agl("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail" not in done.stdout


def test_doctor_names_a_plugin_that_cannot_be_imported_and_exits_with_1(agl, broken):
    done = agl("doctor")
    assert done.returncode == 1
    assert "fail  plugin broken          broken-dist 1.0: failed, ModuleNotFoundError" in done.stdout
    assert "-> agl plugins --traceback; pip install --upgrade broken-dist, or AGL_PLUGINS_DISABLED=broken" in done.stdout
    assert agl("doctor", AGL_PLUGINS_DISABLED="broken").returncode == 0


def test_doctor_warns_of_an_unsupported_plugin_and_fails_where_it_is_required(tmp_path, monkeypatch, install_package):
    monkeypatch.chdir(tmp_path)
    install_package("my-dist", {"mine": "mine_plugin"}, requires=['nosuch>=2; extra == "instruments"'])
    found = states(tmp_path)
    assert (found["plugin mine"].state, found["plugin mine"].fix) == ("warn", "pip install 'my-dist[instruments]'")
    (tmp_path / "agl.toml").write_text('[plugins]\nrequired = ["my-dist"]')
    assert states(tmp_path)["plugins asked for"].state == "fail"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("[plugin]", "settings", "unknown field `plugin`"),
        ('[trainer]\nexecutor = "cloud"', "executor cloud", "no executor is named `cloud`"),
        ('[trainer]\nalgorithm = "nosuch"', "algorithm nosuch", "no algorithm is named `nosuch`"),
        ('[trainer]\nrewards = ["nosuch"]', "reward nosuch", "no reward is named `nosuch`"),
        ('[trainer]\ntrackers = ["nosuch"]', "tracker nosuch", "no tracker is named `nosuch`"),
    ],
)
def test_doctor_fails_for_what_the_settings_ask_for_and_cannot_get(tmp_path, monkeypatch, text, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text(text)
    check = states(tmp_path)[name]
    assert (check.state, said in check.found) == ("fail", True)
    assert check.fix


def test_doctor_asks_the_algorithm_whether_it_can_start(tmp_path, monkeypatch, install_package):
    monkeypatch.chdir(tmp_path)
    code = """
from agl.algorithms import Algorithm
from agl.errors import ConfigError
class Mine(Algorithm):
    def __init__(self, model="m"):
        self.model = model
    def check(self):
        if self.model == "gone":
            raise ConfigError("there is no model `gone`")
        return "model is there"
"""
    install_package("my-dist", {"mine": "my_algorithm:Mine"}, "agl.algorithms", my_algorithm=code)
    assert "not checked" in states(tmp_path, algorithm="mine")["algorithm mine"].found
    for model, state, said in (("gone", "fail", "there is no model `gone`"), ("here", "ok", "model is there")):
        (tmp_path / "agl.toml").write_text(f'[trainer]\nalgorithm = "mine"\n[algorithms.mine]\nmodel = "{model}"')
        check = states(tmp_path)["algorithm mine"]
        assert (check.state, check.found) == (state, said)


def test_doctor_looks_at_store_port_and_endpoint_without_changing_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.sqlite").write_text("this is no database, and long enough to be read as one")
    with socket.socket() as taken, ScriptedServer("x") as server:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = states(tmp_path, store="bad.sqlite", port=taken.getsockname()[1], endpoint=server.base_url())
    assert found["store bad.sqlite"].state == "fail"
    assert (found["gateway port"].state, found["gateway port"].fix) == ("fail", "choose another port, or 0 for any free one")
    assert found[f"endpoint {server.base_url()}"].state == "ok"
    assert states(tmp_path, endpoint="http://127.0.0.1:9/v1")["endpoint http://127.0.0.1:9/v1"].state == "fail"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.sqlite"]
