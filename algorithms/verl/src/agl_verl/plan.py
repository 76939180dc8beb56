"""Plan: what a dry run says of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agl.errors import AglError
from agl_verl.arithmetic import ACTOR, ROLLOUT, count
from agl_verl.checks import load_configs, ray_address
from agl_verl.configuration import CHOSEN
from agl_verl.keys import at, leaves
from agl_verl.memory import estimate


def facts(config: Mapping[str, Any], given: Mapping[str, Any], train: int) -> tuple[dict[str, str], list[str]]:
    """Numbers and choices in words, and what of the memory does not fit.

    Args:
        config: the run's configuration, resolved.
        given: what the user set.
        train: training tasks.
    """
    set_by_user = {path for path, _ in leaves(given)}
    loss = at(config, f"{ACTOR}.policy_loss.loss_mode") or "vanilla"
    lora = at(config, "actor_rollout_ref.model.lora_rank")
    found = {
        "model": str(at(config, "actor_rollout_ref.model.path")),
        "rollouts by": f"{at(config, f'{ROLLOUT}.name')}, on {ray_address(config) or 'a Ray of its own'}",
        "learning": f"{at(config, 'algorithm.adv_estimator')}, loss {loss}, {f'LoRA of rank {lora}' if lora else 'all weights'}",
        **count(config, train).lines(),
        "AGL's defaults": ", ".join(f"{path}={value}" for path, value in CHOSEN.items() if path not in set_by_user) or "none",
    }
    try:
        memory = estimate(config, load_configs(config)[0], _gpu_bytes())
    except AglError:  # the model cannot be read: the checks say so
        return found, []
    return {**found, **memory.lines()}, memory.misfits()


def _gpu_bytes() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
