"""What would fail minutes later is refused before anything starts, with what to do: versions, Ray's cluster, GPUs, attention."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from agl.errors import ConfigError
from agl_verl import checks
from agl_verl.configuration import compose_config
from agl_verl.keys import merged, nested


@pytest.fixture
def config(article, defaults) -> dict[str, Any]:
    return merged(compose_config(article, defaults), {"trainer": {"nnodes": 1, "n_gpus_per_node": 2}})


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(checks, "_version", versions.get)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "`agl.VERL` is made for VERL 0.9.1 and later 0.9, installed is none: .*pip install"),
        ({"verl": "0.8.0", "vllm": "0.24.0"}, "made for VERL 0.9.1 and later 0.9, installed is 0.8.0: .*pip install"),
        ({"verl": "0.9.1"}, "`actor_rollout_ref.rollout.name: vllm` needs vLLM, which is not installed: .*pip install"),
        ({"verl": "0.9.1", "vllm": "0.33.0"}, "VERL 0.9.1 works with vLLM 0.24.x, installed is 0.33.0: .*pip install"),
    ],
)
def test_versions_that_do_not_fit_are_refused(versions: dict[str, str], said: str, config, monkeypatch) -> None:
    installed(monkeypatch, **versions)
    with pytest.raises(ConfigError, match=said):
        checks.check_versions(config)


def test_versions_that_fit_pass_and_another_server_needs_no_vllm(config, monkeypatch) -> None:
    installed(monkeypatch, verl="0.9.1", vllm="0.24.0")
    checks.check_versions(config)
    installed(monkeypatch, verl="0.9.1")
    checks.check_versions(merged(config, nested({"actor_rollout_ref.rollout.name": "native"})))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "write the head's HOST:PORT"),
        ("ray://head:10001", "start the script on a node of the cluster with the head's HOST:6379"),
        ("head", "must be HOST:PORT, given was 'head'"),
    ],
)
def test_an_address_that_cannot_be_checked_is_refused(address: str, said: str, config) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        checks.check_ray(merged(config, nested({"ray_kwargs.ray_init.address": address})))


def test_a_cluster_that_nobody_answers_for_is_refused_and_one_that_answers_passes(config, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        checks.check_ray(merged(config, nested({"ray_kwargs.ray_init.address": address})))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"the Ray cluster at {address} cannot be reached .*`ray start --head`.*RAY_ADDRESS"):
        checks.check_ray(config)


@pytest.mark.parametrize(
    ("count", "nodes", "said"),
    [
        (0, 1, "needs a GPU and this machine has none that torch can use; `agl.GRPO(model)` trains on a CPU"),
        (1, 1, "`trainer.n_gpus_per_node` is 2, and this machine has 1"),
        (2, 3, "`trainer.nnodes` is 3, and no Ray cluster is named"),
        (2, 1, None),
    ],
)
def test_gpus_that_are_not_there_are_refused(count: int, nodes: int, said: str | None, config, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    asked = merged(config, nested({"trainer.nnodes": nodes}))
    if said is None:
        checks.check_devices(asked)
        return
    with pytest.raises(ConfigError, match=re.escape(said)):
        checks.check_devices(asked)


def test_flash_attention_that_is_not_installed_is_refused_unless_the_model_is_told_to_do_without(config, monkeypatch) -> None:
    installed(monkeypatch)
    with pytest.raises(ConfigError, match=r"override_config\.attn_implementation: sdpa"):
        checks.check_attention(config)
    checks.check_attention(merged(config, nested({"actor_rollout_ref.model.override_config.attn_implementation": "sdpa"})))
    installed(monkeypatch, flash_attn="2.8.3")
    checks.check_attention(config)
