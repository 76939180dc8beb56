"""Checks: what would fail minutes later, said before the first rollout, with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

from agl.errors import AglError, ConfigError
from agl_verl.arithmetic import ROLLOUT, count, misfits, unvalidated
from agl_verl.configuration import INSTALL
from agl_verl.keys import at

VLLM = "0.24."
"""VERL 0.9.1 is made for this series (its extra `vllm`)."""
FLASH = "flash_attention_2"
CONNECT_SECONDS = 5.0


def problems(config: Any, given: Mapping[str, Any], *, train: int, val: int) -> list[str]:
    """Everything that is wrong, each with the remedy; starts nothing and loads no weights.

    Args:
        config: the run's configuration, an OmegaConf node.
        given: what of it the user gave.
        train: training tasks.
        val: validation tasks.
    """
    from omegaconf import OmegaConf

    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    found = misfits(plain, train) + unvalidated(given, val)
    checks: list[Callable[[], None]] = [
        lambda: check_versions(plain),
        lambda: check_ray(plain),
        lambda: check_devices(plain),
        lambda: check_attention(plain),
        lambda: check_model(plain),
    ]
    found += [said for check in checks if (said := _said(check)) is not None]
    # VERL's own check stops at the first thing that it does not find.
    if not found and (said := _said(lambda: check_by_verl(config))) is not None:
        found.append(said)
    return found


def _said(check: Callable[[], None]) -> str | None:
    """What a check refuses with."""
    try:
        check()
    except AglError as error:
        return str(error)
    return None


def check_all(config: Any, given: Mapping[str, Any], *, train: int, val: int) -> None:
    """Raise all of `problems` as one.

    Raises:
        ConfigError: something cannot work.
    """
    if found := problems(config, given, train=train, val=val):
        raise ConfigError("VERL cannot start: " + "; ".join(found))


def check_versions(config: Mapping[str, Any]) -> None:
    """VERL and, where it serves, vLLM are installed in versions that fit each other."""
    verl = _version("verl")
    if verl is None or not verl.startswith("0.9."):
        raise ConfigError(f"`agl.VERL` is made for VERL 0.9.1 and later 0.9, installed is {verl or 'none'}: {INSTALL}")
    if at(config, f"{ROLLOUT}.name") != "vllm":
        return
    vllm = _version("vllm")
    if vllm is None:
        raise ConfigError(f"`{ROLLOUT}.name: vllm` needs vLLM, which is not installed: {INSTALL}")
    if not vllm.startswith(VLLM):
        raise ConfigError(f"VERL {verl} works with vLLM {VLLM}x, installed is {vllm}: {INSTALL}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_ray(config: Mapping[str, Any]) -> None:
    """The Ray cluster that is named can be reached."""
    address = ray_address(config)
    if address in (None, "local"):
        return
    assert address is not None
    if address == "auto":
        raise ConfigError(
            "`ray_kwargs.ray_init.address: auto` is not checked before the start; write the head's HOST:PORT (`ray status` shows it)"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://"):
        raise ConfigError(f"Ray's client ({address}) cannot run VERL; start the script on a node of the cluster with the head's HOST:6379")
    if not host or not port.isdecimal():
        raise ConfigError(f"the address of the Ray cluster must be HOST:PORT, given was {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"the Ray cluster at {address} cannot be reached ({error.strerror or error}): start it with `ray start --head` on its first node, or "
            "leave `ray_kwargs.ray_init.address` and RAY_ADDRESS out for one of its own"
        ) from error


def ray_address(config: Mapping[str, Any]) -> str | None:
    """Where the cluster is, as the configuration or the environment says; None for one that is started here."""
    return at(config, "ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS") or None


def check_devices(config: Mapping[str, Any]) -> None:
    """This machine has the GPUs that are asked for; a cluster's are known when it is reached."""
    if at(config, "trainer.device") != "cuda" or ray_address(config) not in (None, "local"):
        return
    import torch

    asked, here = at(config, "trainer.n_gpus_per_node"), torch.cuda.device_count() if torch.cuda.is_available() else 0
    nodes = at(config, "trainer.nnodes")
    if nodes > 1:
        raise ConfigError(f"`trainer.nnodes` is {nodes}, and no Ray cluster is named: set `ray_kwargs.ray_init.address` to its HOST:PORT")
    if not here:
        raise ConfigError("VERL needs a GPU and this machine has none that torch can use; `agl.GRPO(model)` trains on a CPU")
    if asked > here:
        raise ConfigError(f"`trainer.n_gpus_per_node` is {asked}, and this machine has {here}; VERL's default is 8")


def check_attention(config: Mapping[str, Any]) -> None:
    """The attention that the model is loaded with is installed; VERL asks for flash-attn unless told."""
    asked = (at(config, "actor_rollout_ref.model.override_config") or {}).get("attn_implementation", FLASH)
    if at(config, "trainer.device") == "cuda" and asked == FLASH and _version("flash_attn") is None:
        raise ConfigError(
            "VERL loads models with flash-attn, which is not installed: set `actor_rollout_ref.model.override_config.attn_implementation: sdpa`, or "
            "install flash-attn, which PyPI has as source"
        )


def check_model(config: Mapping[str, Any]) -> None:
    """The model is there, has a chat template, and its positions reach as far as the longest row."""
    path, sequence = at(config, "actor_rollout_ref.model.path"), count(config, 1 << 30).sequence
    model, tokenizer = load_configs(config)
    if getattr(tokenizer, "chat_template", None) is None and at(config, "actor_rollout_ref.model.custom_chat_template") is None:
        raise ConfigError(
            f"the model {path} has no chat template, which agents' messages need: take its instruction-tuned version, or set "
            "`actor_rollout_ref.model.custom_chat_template`"
        )
    reach = getattr(model, "max_position_embeddings", None)
    if reach is not None and sequence > reach:
        raise ConfigError(
            f"`data.max_prompt_length` + `data.max_response_length` is {sequence}, and {path} reads {reach} tokens at most: lower one of them"
        )


def load_configs(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model's configuration and its tokenizer.

    Raises:
        ConfigError: they cannot be had.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = os.path.expanduser(at(config, "actor_rollout_ref.model.path"))
    trust = bool(at(config, "actor_rollout_ref.model.trust_remote_code"))
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust), AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the model {path} cannot be read ({said}); give the folder of a Hugging Face model, or a hub id (gated ones need HF_TOKEN)"
        ) from error


def check_by_verl(config: Any) -> None:
    """VERL's own check of its configuration."""
    import contextlib
    import io

    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(f"VERL refuses the configuration: {error}") from error
