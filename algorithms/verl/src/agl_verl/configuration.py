"""Configuration: the user's dict over VERL's defaults, with what an AGL run sets."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agl.errors import ConfigError
from agl_verl.advantages import check_estimator
from agl_verl.keys import at, check_keys, leaves, merged, nested
from agl_verl.weights import DEFAULT, weigher

SUPPORTED = "verl>=0.9.1,<0.10"
INSTALL = 'with an NVIDIA driver for CUDA 13 `pip install "agl-verl[vllm]"`, else see docs/from-laptop-to-cluster.md'
ENGINES = {"dp", "megatron", "veomni", "torchtitan"}
LOSSES = ("vanilla", "gspo", "sapo", "cispo", "gpg", "dppo_tv", "dppo_kl")
"""Policy losses that a weight per rollout can be put into: those in proportion to the advantage, added up over the whole optimiser step."""
REFUSED_LOSSES = {
    "dro": "its quadratic penalty is not in proportion to the advantage, which carries the rollout's weight",
    "geo_mean": "it averages over the rows of a micro-batch, so that a rollout would count by how it was cut",
    "clip_cov": "it picks tokens by the size of their advantage, which carries the rollout's weight",
    "kl_cov": "it picks tokens by the size of their advantage, which carries the rollout's weight",
    "bypass_mode": "say `algorithm.rollout_correction.bypass_mode: True`",
}
MODES = {"sync": "agl_sync", "colocate_async": "agl_colocate_async"}
"""VERL's trainer modes, and AGL's trainers for them."""
MODEL = "policy"
"""Name under which agents call the policy."""
PARSERS = {"hermes": "hermes", "qwen3_coder": "qwen3_coder", "gpt-oss": "openai", "llama3_json": "llama3_json"}
"""vLLM's names of the tool-call formats of `multi_turn.format`."""

CHOSEN = {
    "algorithm.adv_estimator": "grpo",
    "actor_rollout_ref.actor.loss_agg_mode": DEFAULT,
    "actor_rollout_ref.actor.use_dynamic_bsz": True,
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    "data.dataloader_num_workers": 0,
    "trainer.logger": ["console"],
}
"""AGL's own defaults, where they differ from VERL's; the user's values go before them."""


def verl_folder() -> Path:
    """Where VERL is installed; imports nothing.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("verl")
    if found is None or found.origin is None:
        raise ConfigError(f"`agl.VERL` needs VERL ({SUPPORTED}), which is not installed: {INSTALL}")
    return Path(found.origin).parent


def verl_defaults(model_engine: str = "dp") -> dict[str, Any]:
    """VERL's default configuration, interpolations unresolved."""
    folder = verl_folder()
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(folder / "trainer" / "config"), version_base=None):
        composed = compose("ppo_trainer", overrides=[f"model_engine={model_engine}"])
    return OmegaConf.to_container(composed, resolve=False)  # pyright: ignore[reportReturnType]


def compose_config(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole configuration, interpolations unresolved.

    Args:
        given: as VERL's users write it: `algorithm`, `data`, `actor_rollout_ref`, `trainer`… `model_engine` chooses between VERL's
            training engines.
        defaults: VERL's; read from the installed one when None.

    Raises:
        ConfigError: an unknown key, one whose place AGL takes, or a value that cannot work.
    """
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"`agl.VERL(config)` takes a dict of VERL's sections, given was {given!r}")
    if dotted := [key for key in given if "." in key]:
        raise ConfigError(f"`agl.VERL(config)` takes nested dicts: write {nested({key: given[key] for key in dotted})} instead of {dotted}")
    own = {key: value for key, value in given.items() if key != "model_engine"}
    engine = given.get("model_engine", "dp")
    if engine not in ENGINES:
        raise ConfigError(f"`model_engine` can be one of {sorted(ENGINES)}, given was {engine!r}")
    base = verl_defaults(engine) if defaults is None else dict(defaults)
    check_keys(own, base, _fields)
    config = merged(merged(merged(base, nested({**CHOSEN, **_corrected(own)})), nested(_served(own))), own)
    _check_values(config)
    return config


def _served(given: Mapping[str, Any]) -> dict[str, Any]:
    """How vLLM serves the policy to agents: under a fixed name, with the tool calls that the user's `multi_turn.format` writes."""
    if at(given, "actor_rollout_ref.rollout.name") not in (None, "vllm"):
        return {}
    found: dict[str, Any] = {"served_model_name": MODEL}
    if parser := PARSERS.get(at(given, "actor_rollout_ref.rollout.multi_turn.format")):
        found |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
    return {f"actor_rollout_ref.rollout.engine_kwargs.vllm.{name}": value for name, value in found.items()}


def _corrected(given: Mapping[str, Any]) -> dict[str, Any]:
    """Truncated importance weights of tokens (TIS) where older weights sample than learn: without them nothing corrects for it."""
    ahead = at(given, "trainer.v1.trainer_mode") not in (None, "sync")
    return {"algorithm.rollout_correction.rollout_is": "token"} if ahead else {}


def _fields(target: str) -> Mapping[str, Any]:
    """Fields of a configuration class of VERL with their defaults, nested classes as their own fields."""
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not dataclasses.is_dataclass(found):
        return {}
    return {field.name: _inner(field.default_factory) for field in dataclasses.fields(found)}


def _inner(factory: Any) -> Mapping[str, Any] | None:
    """Fields of a nested class, nothing in particular of a dict, None of a plain value."""
    if factory is dict:
        return {}
    return {field.name: None for field in dataclasses.fields(factory)} if dataclasses.is_dataclass(factory) else None


def _check_values(config: Mapping[str, Any]) -> None:
    check_estimator(at(config, "algorithm.adv_estimator"))
    weigher(at(config, "actor_rollout_ref.actor.loss_agg_mode"), at(config, "actor_rollout_ref.actor.loss_scale_factor"))
    loss = at(config, "actor_rollout_ref.actor.policy_loss.loss_mode") or "vanilla"
    if loss not in LOSSES:
        why = REFUSED_LOSSES.get(loss, "it is not known that a rollout's weight can be put into it")
        raise ConfigError(f"`actor_rollout_ref.actor.policy_loss.loss_mode` can be one of {list(LOSSES)}, given was {loss!r}: {why}")
    if at(config, "algorithm.use_kl_in_reward"):
        raise ConfigError(
            "`algorithm.use_kl_in_reward` changes rewards of tokens, an agent's rollout has one; say `actor.use_kl_loss: True`"
        )
    if (mode := at(config, "trainer.v1.trainer_mode")) not in MODES:
        raise ConfigError(
            f"`trainer.v1.trainer_mode` can be one of {list(MODES)}, given was {mode!r}; `separate_async` cuts the calls that are on their way when it "
            "sends weights, and no agent's client can go on with half an answer"
        )
    if at(config, "algorithm.filter_groups.enable") and (metric := at(config, "algorithm.filter_groups.metric")) != "reward":
        raise ConfigError(f"`algorithm.filter_groups.metric` can be `reward`, a rollout's final one, given was {metric!r}")
    if at(config, "algorithm.filter_groups.max_num_gen_batches"):
        raise ConfigError(
            "`algorithm.filter_groups.max_num_gen_batches` has no effect in VERL's V1 trainer: `max_inflight_gen_batches` bounds it"
        )
    if at(config, "algorithm.gamma") != 1.0:
        raise ConfigError('`algorithm.gamma` must be 1.0: `Trainer(adapter={"credit": "discounted", …})` discounts over calls')
    val = at(config, "actor_rollout_ref.rollout.val_kwargs")
    if (val.get("n") or 1) > 1 and not val.get("do_sample"):
        raise ConfigError(
            f"`actor_rollout_ref.rollout.val_kwargs.n` is {val['n']} and all of them would be the same greedy answer; say `val_kwargs.do_sample: True`"
        )


def run_config(config: Mapping[str, Any], *, train: int, val: int, seed: int, folder: Path, resume: str | None) -> dict[str, Any]:
    """The configuration of one run.

    Args:
        config: as `compose_config` made it.
        train: training tasks.
        val: validation tasks.
        seed: of the order of tasks.
        folder: where VERL's checkpoints go, unless the user named a place.
        resume: VERL's checkpoint to go on from.
    """
    own: dict[str, Any] = {
        "data.train_files": [f"train:{train}"],
        "data.val_files": [f"val:{val}" if val else "val:1"],
        "data.custom_cls.path": "pkg://agl_verl.dataset",
        "data.custom_cls.name": "TaskIndices",
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": MODES[at(config, "trainer.v1.trainer_mode")],
        "trainer.resume_mode": "resume_path" if resume else "disable",
        "trainer.resume_from_path": resume,
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class": "agl_verl.manager.AglManager",
        "actor_rollout_ref.rollout.agent.num_workers": 1,
        # Weights per token are in the advantages; see `agl_verl.trainers`.
        "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
        "reward.num_workers": 1,
    }
    if at(config, "algorithm.filter_groups.enable"):
        own["trainer.v1.sampler.sync_refill_failed_groups"] = True
    if at(config, "data.seed") is None:
        own["data.seed"] = seed
    if not _named(config, "trainer.default_local_dir"):
        own["trainer.default_local_dir"] = str(folder)
    if not val:
        own |= {"trainer.val_before_train": False, "trainer.test_freq": -1}
    return merged(config, nested(own))


def _named(config: Mapping[str, Any], path: str) -> bool:
    """Whether a value is the user's: VERL's own default of that path is an interpolation."""
    value = at(config, path)
    return value is not None and "${" not in str(value)


def changed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from VERL's defaults, by path."""
    return {path: value for path, value in leaves(config) if at(defaults, path) != value}
