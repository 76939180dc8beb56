"""Options of GRPO, each with its meaning; an unknown or impossible one is refused before anything starts."""

from __future__ import annotations

from typing import Any

import msgspec

from agl.errors import ConfigError
from agl_grpo.advantages import ESTIMATORS
from agl_grpo.collect import BASELINES
from agl_grpo.models import LoRA


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `agl.GRPO(model, …)` takes."""

    steps: int = 100
    """Steps of learning: each collects rollouts, updates the weights and publishes them."""
    batch_size: int = 16
    """Tasks per step."""
    group_size: int = 8
    """Rollouts per task."""
    estimator: str = "grpo"
    """How a rollout is compared with its siblings: `grpo`, `dr_grpo` or `rloo`."""
    baseline: str = "group"
    """What a role is compared with: `group`, all siblings, or `role`, those in which it made a call."""
    lr: float = 1e-5
    """Learning rate of AdamW."""
    schedule: str = "constant"
    """Of the learning rate over all steps: `constant`, `linear` or `cosine`, down to `lr_floor`."""
    lr_floor: float = 0.0
    """Where the schedule ends, as a fraction of `lr`."""
    warmup: int = 0
    """Optimiser steps over which the learning rate rises."""
    minibatches: int = 1
    """Optimiser steps per step of learning: the rollouts are dealt out to them."""
    clip_low: float = 0.2
    """How far below 1 the probability ratio may fall before a token stops being pushed."""
    clip_high: float = 0.28
    """How far above 1 it may rise (clip-higher, DAPO)."""
    kl_coef: float = 0.0
    """Weight of the divergence from the model as it was at the start."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    aggregation: str = "rollout_mean"
    """How tokens add up: `rollout_mean`, `token_mean` or `constant`."""
    micro_batch_tokens: int = 8192
    """Tokens in one forward pass; changes memory and speed, not the gradient."""
    lora: dict[str, Any] | None = None
    """Train adapters only: `{"rank": 16, "alpha": 32}`; None trains all weights."""
    temperature: float = 1.0
    """Of sampling in training."""
    eval_temperature: float = 0.0
    """Of sampling in validation and tests; 0 is greedy."""
    max_tokens: int = 256
    """Longest answer of one call."""
    val_every: int | None = None
    """Steps between validations; the default is 10 where a validation dataset is given, 0 is never."""
    checkpoint_every: int = 10
    """Steps between checkpoints; one is also made at the end and by Ctrl-C."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`."""
    dtype: str = "float32"
    """Of the weights: `float32`, `bfloat16` or `float16`."""
    max_batch: int = 64
    """Most answers that the engine samples at once."""
    port: int = 0
    """Of the engine; 0 for any free one."""
    threads: int | None = None
    """CPU threads of torch; None leaves its choice."""
    shuffle_rewards: bool = False
    """For a control run: rewards are permuted over all rollouts of a step, so that nothing can be learned."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_tokens", "checkpoint_every", "max_batch", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, given was {getattr(self, name)!r}")
        if self.group_size < 2:
            raise ConfigError(f"`group_size` must be at least 2, given was {self.group_size!r}: a rollout is compared with its siblings")
        if self.estimator not in ESTIMATORS:
            raise ConfigError(f"`estimator` must be one of {sorted(ESTIMATORS)}, given was {self.estimator!r}")
        if self.baseline not in BASELINES:
            raise ConfigError(f"`baseline` must be one of {list(BASELINES)}, given was {self.baseline!r}")
        if self.temperature <= 0:
            raise ConfigError(f"`temperature` must be positive, given was {self.temperature!r}: without chance all siblings are the same")
        if self.lr_floor and self.schedule == "constant":
            raise ConfigError(
                f"`lr_floor={self.lr_floor!r}` has no effect on the schedule `constant`; say `linear` or `cosine`, or leave it out"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"`dtype` must be `float32`, `bfloat16` or `float16`, given was {self.dtype!r}")
        if self.lora is not None:
            self.adapter()

    def adapter(self) -> LoRA | None:
        """The LoRA options, checked."""
        if self.lora is None:
            return None
        try:
            return LoRA(**self.lora)
        except TypeError as error:
            raise ConfigError(f"`lora` takes {sorted(LoRA.__dataclass_fields__)}: {error}") from None


def read_options(given: dict[str, Any]) -> Options:
    """Checked options.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type or out of range.
    """
    unknown = sorted(set(given) - set(Options.__struct_fields__))
    if unknown:
        raise ConfigError(f"GRPO has no option {unknown}; it has `model` and {list(Options.__struct_fields__)}")
    try:
        return msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"an option of GRPO is wrong: {error}") from None
