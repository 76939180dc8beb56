"""Memory: what a GPU must hold, counted from the model's shape; loads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agl_verl.arithmetic import ACTOR, ROLLOUT, count
from agl_verl.keys import at

GIB = 1 << 30
MASTER, GRADIENT, ADAM = 4, 4, 8
"""Bytes per trained parameter: FSDP keeps fp32 weights, fp32 gradients and two fp32 moments."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one GPU."""

    parameters: int
    """Of the model, in number."""
    trained: int
    """Of those that learn: all, or an adapter's."""
    state: int
    """Weights, gradients and the optimiser's moments, over the GPUs; 0 where they are kept in the machine's memory."""
    logits: int
    """The largest single tensor of an update: the logits of one micro-batch, in fp32."""
    server: int | None
    """What the rollout server takes (`gpu_memory_utilization`); None where the GPU is not known."""
    total: int | None
    """Of the GPU."""

    def lines(self) -> dict[str, str]:
        """The numbers in words."""
        server = "not known without the GPU" if self.server is None else f"{self.server / GIB:.1f} GiB"
        return {
            "parameters": f"{self.parameters / 1e6:.0f} M parameters, {self.trained / 1e6:.0f} M trained",
            "training state": f"{self.state / GIB:.1f} GiB on each GPU",
            "logits of a micro-batch": f"{self.logits / GIB:.1f} GiB",
            "rollout server": server,
        }

    def misfits(self) -> list[str]:
        """What does not fit, each with the remedy."""
        if self.total is None:
            return []
        found = []
        if self.state + self.logits > self.total:
            found.append(
                f"the training state ({self.state / GIB:.1f} GiB) and the logits of a micro-batch ({self.logits / GIB:.1f} GiB) do not fit "
                f"{self.total / GIB:.0f} GiB: more GPUs, `{ACTOR}.fsdp_config.optimizer_offload: True`, LoRA (`actor_rollout_ref.model.lora_rank`) "
                f"or a smaller `{ACTOR}.ppo_max_token_len_per_gpu`"
            )
        return found


def estimate(config: Mapping[str, Any], model: Any, total: int | None) -> Memory:
    """What one GPU must hold.

    Args:
        config: the run's configuration, resolved.
        model: the model's Hugging Face configuration.
        total: bytes of the GPU.
    """
    parameters = parameters_of(model)
    rank = at(config, "actor_rollout_ref.model.lora_rank") or 0
    trained = lora_parameters(model, rank) if rank else parameters
    gpus = max(1, count(config, 1 << 30).gpus)
    fsdp = at(config, f"{ACTOR}.fsdp_config") or {}
    weights = 0 if fsdp.get("param_offload") else MASTER * parameters + GRADIENT * trained
    moments = 0 if fsdp.get("optimizer_offload") else ADAM * trained
    tokens = at(config, f"{ACTOR}.ppo_max_token_len_per_gpu") or count(config, 1 << 30).sequence
    share = at(config, f"{ROLLOUT}.gpu_memory_utilization")
    return Memory(
        parameters=parameters,
        trained=trained,
        state=(weights + moments) // gpus,
        logits=4 * tokens * int(getattr(model, "vocab_size", 0)),
        server=None if total is None else int(share * total),
        total=total,
    )


def parameters_of(model: Any) -> int:
    """Parameters of a causal LM of that configuration, built without storage."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(model)
    return sum(parameter.numel() for parameter in built.parameters())


def lora_parameters(model: Any, rank: int) -> int:
    """Parameters of adapters of that rank on all linear layers: rank · (inputs + outputs) each."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(model)
    linear = [module for name, module in built.named_modules() if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")]
    return sum(rank * (module.in_features + module.out_features) for module in linear)
