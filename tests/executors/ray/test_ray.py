"""Agents on a Ray cluster: recorded as in threads; a cluster that cannot be used is refused before anything starts."""

import os
import socket
import time
from pathlib import Path

import pytest
import worker_agents

import agl
from agl.errors import ConfigError
from agl.rollouts import Failure
from agl.testing.executors import ExecutorConformance
from agl.testing.scripted import Reply, ScriptedServer
from agl_ray import RayExecutor
from agl_ray import cluster as module


@pytest.mark.usefixtures("cluster")
class TestRayExecutor(ExecutorConformance):
    executor = RayExecutor


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def evaluate(agent, tasks, executor="ray", *, llm=None, **options):
    resources = {"main_llm": llm} if llm else {"prompt": agl.PromptTemplate(template="?")}
    options = {"n_runners": 1, "max_attempts": 1, "timeout": 60.0, "quiet": True, "initial_resources": resources, **options}
    return agl.Trainer(executor=executor, store=f"{executor}.sqlite", **options).evaluate(agent, tasks).results


def told(result):
    """What is recorded of a rollout, without ids and times."""
    spans = sorted((span.name, span.kind, span.role or "", span.status) for span in result.spans)
    calls = [span.span_id for span in result.spans if span.kind == "llm"]
    return spans, sorted((r.name, r.value, r.source, str(r.span_id and calls.index(r.span_id))) for r in result.rewards)


@pytest.mark.usefixtures("cluster")
def test_what_is_recorded_is_what_a_thread_records():
    tasks, seen = [{"n": n} for n in range(4)], {}
    for executor in ("thread", "ray"):
        with ScriptedServer(lambda body: Reply(f"echo {body['messages'][0]['content']}")) as server:
            seen[executor] = [told(result) for result in evaluate(worker_agents.by_the_sdk, tasks, executor, llm=server.llm(), n_runners=2)]
    assert seen["ray"] == seen["thread"]


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_costs_its_attempt_alone_and_is_replaced():
    before, dead, after = evaluate(worker_agents.dies, [{"how": "not"}, {"how": "exit"}, {"how": "not"}])
    assert (before.failure, dead.failure, after.failure) == (None, Failure.INFRASTRUCTURE, None)
    assert "the worker process ended with exit code 7" in dead.rollout.attempt.error
    assert before.reward != after.reward  # ids of processes


@pytest.mark.usefixtures("cluster")
def test_an_agent_that_never_lets_go_is_killed_at_its_deadline_with_what_it_started():
    spun, after = evaluate(worker_agents.spins, [{"spin": True}, {"spin": False}], timeout=2.0)
    assert (spun.failure, after.failure) == (Failure.TIMEOUT, None)
    (child,) = (span.attributes["value"] for span in spun.spans if span.kind == "object")
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and ") Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def refused(said):
    with pytest.raises(ConfigError, match=said):
        evaluate(worker_agents.dies, [{"how": "not"}])
    assert not Path("ray.sqlite").exists()


@pytest.fixture
def _not_joined(monkeypatch):
    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("_not_joined")
def test_a_cluster_that_cannot_be_reached_is_refused_before_anything_starts(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    refused(rf"the Ray cluster at 127.0.0.1:{port} cannot be reached \(Connection refused\): start it with `ray start --head`")


@pytest.mark.usefixtures("_not_joined")
@pytest.mark.parametrize("address", ["ray://head:10001", "head"])
def test_an_address_that_is_not_a_heads_is_refused(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(r"\$RAY_ADDRESS must be HOST:PORT of the cluster's head")


def test_a_gateway_that_other_machines_cannot_call_is_refused(monkeypatch):
    monkeypatch.setattr(module.ray.util, "get_node_ip_address", lambda: "10.0.0.5")
    nodes = [{"Alive": True, "NodeManagerAddress": "10.0.0.5"}, {"Alive": False, "NodeManagerAddress": "10.0.0.9"}]
    monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
    module.check_gateway("http://127.0.0.1:80")
    nodes.append({"Alive": True, "NodeManagerAddress": "10.0.0.6"})
    module.check_gateway("http://10.0.0.5:80")
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        with pytest.raises(ConfigError, match=r"agents run on 10.0.0.6, too, and cannot call.*Trainer\(host=\"10.0.0.5\"\)"):
            module.check_gateway(f"http://{host}:80")


def test_the_package_brings_the_executor():
    from agl.registry import load

    assert load("agl.executors", "agl-ray:ray") is RayExecutor
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
