"""Learner: takes optimiser steps on the rows of one training step.

The trainer's model is the sampler's, so the log-probabilities recorded by the engine are those of the old policy: the ratio is
p_new / mu, without a third policy and its importance weight. The model stays in evaluation mode while training: dropout would make
the trainer's probabilities differ from those that sampled.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agl.errors import ConfigError
from agl.transitions import Row
from agl_grpo.heads import logits_at, plain
from agl_grpo.losses import AGGREGATIONS, entropy, kl_loss, policy_loss
from agl_grpo.masks import Masks
from agl_grpo.memory import keep_freed_memory
from agl_grpo.packing import Example, MicroBatch, bundles, check, micro_batches, pack
from agl_grpo.schedules import Schedule


class Learner:
    """Improves a causal LM in place by clipped policy gradients.

    Args:
        model: what the engine serves; only parameters that require a gradient are trained.
        lr: learning rate of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW, on matrices only.
        max_grad_norm: gradients are scaled down to this norm.
        clip_low, clip_high: limits of the ratio (`losses.policy_loss`).
        kl_coef: weight of the divergence from the model as it is now (with adapters: from the model without them); 0 needs no reference.
        minibatches: optimiser steps that the rollouts of a step are dealt out to, in each epoch.
        epochs: passes over a step's rows.
        micro_batch_tokens: most tokens, padding included, in one forward pass. Does not change the gradient.
        aggregation: how tokens add up (`losses.AGGREGATIONS`).
        schedule: of the learning rate.
        share_prefixes: compute what rows have in common at their beginning once (`packing.bundles`). Does not change the gradient; is left
            out for models that take no attention mask of our own.
        seed: of the order in which rollouts are dealt out.

    Raises:
        ConfigError: an unknown aggregation, nothing to train, or a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        kl_coef: float = 0.0,
        minibatches: int = 1,
        epochs: int = 1,
        micro_batch_tokens: int = 8192,
        aggregation: str = "rollout_mean",
        schedule: Schedule | None = None,
        share_prefixes: bool = True,
        seed: int = 0,
    ) -> None:
        if aggregation not in AGGREGATIONS:
            raise ConfigError(f"`aggregation` must be one of {', '.join(AGGREGATIONS)}, given was `{aggregation}`")
        if (
            min(minibatches, epochs, micro_batch_tokens) < 1
            or lr <= 0
            or max_grad_norm <= 0
            or min(clip_low, clip_high, kl_coef, weight_decay) < 0
        ):
            raise ConfigError(
                "`minibatches`, `epochs`, `micro_batch_tokens`, `lr` and `max_grad_norm` must be positive, "
                "`clip_low`, `clip_high`, `kl_coef` and `weight_decay` not negative"
            )
        self.model, self.lr, self.max_grad_norm = model, lr, max_grad_norm
        self.clip_low, self.clip_high, self.kl_coef = clip_low, clip_high, kl_coef
        self.minibatches, self.epochs, self.micro_batch_tokens = minibatches, epochs, micro_batch_tokens
        self.aggregation, self.schedule, self.seed = aggregation, schedule or Schedule(), seed
        self.named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not self.named:
            raise ConfigError("the model has no parameter that requires a gradient: nothing to train")
        self.device = next(iter(self.named.values())).device
        if self.device.type == "cpu":
            keep_freed_memory()
        self._masks = Masks(model)
        sharing = share_prefixes and not self._masks.unsupported()
        # Attention grows with the width times the length, everything else with the square of the width.
        self._longest_bundle = min(micro_batch_tokens, max(512, 4 * int(self._masks.config.hidden_size))) if sharing else 0
        self.optimizer = _adamw(self.named.values(), lr, betas, weight_decay)
        self.reference = _reference(model) if kl_coef else None
        self.steps = 0
        """Optimiser steps taken."""
        self.updates = 0
        """Calls of `update`."""

    def update(self, rows: Sequence[Row], advantages: Sequence[float | Sequence[float]]) -> dict[str, float]:
        """Learns from the rows of one step.

        Args:
            rows: all rows of all rollouts of the step; weights are computed from them as a whole.
            advantages: (K,) one per row, or for a row (S,) one per token.

        Returns:
            Metrics by name; `computed_tokens` counts padding, and common beginnings once. Averages are over the trained tokens
            that were computed: rows without an advantage are left out unless there is a KL.
            `mismatch_kl` is of the first minibatch, before any change of the weights: how far trainer and sampler are apart.

        Raises:
            DataError: a row cannot be learned from.
            ConfigError: the numbers of rows and advantages differ.
        """
        started = time.perf_counter()
        if len(rows) != len(advantages):
            raise ConfigError(f"given were {len(rows)} rows and {len(advantages)} advantages")
        self.model.eval()
        weights = AGGREGATIONS[self.aggregation](rows) if rows else []
        examples = [Example(*item) for item in zip(rows, advantages, weights, strict=True)]
        for example in examples:
            check(example)
        sums: defaultdict[str, float] = defaultdict(float)
        for minibatch, scale in self._dealt([item for item in examples if self.kl_coef or not item.idle]):
            self._step(minibatch, scale, sums)
        self.updates += 1
        return self._metrics(sums, rows, time.perf_counter() - started)

    def gradient(self, examples: Sequence[Example], sums: defaultdict[str, float] | None = None, scale: float = 1.0) -> None:
        """Adds the gradient of sum(weight · loss) · `scale` to the parameters' `.grad`, micro-batch by micro-batch."""
        sums = defaultdict(float) if sums is None else sums
        for group in micro_batches(bundles(examples, self._longest_bundle), self.micro_batch_tokens):
            batch = pack(group, self.device)
            with torch.enable_grad():
                loss = self._loss(batch, sums)
                (loss * scale).backward()

    def _loss(self, batch: MicroBatch, sums: defaultdict[str, float]) -> Tensor:
        logp = log_probs(self.model, batch, self._masks)  # (N, V)
        new = logp.gather(1, batch.targets[:, None])[:, 0]  # (N,)
        policy = policy_loss(new, batch.old.to(new.dtype), batch.advantages.to(new.dtype), self.clip_low, self.clip_high)
        loss = policy.loss  # (N,)
        watched = {**policy.metrics(), "entropy": entropy(logp.detach()).sum(), "ratio_max": policy.ratio.max()}
        if self.reference is not None:
            with torch.no_grad(), self.reference as frozen:
                reference = log_probs(frozen, batch, self._masks).gather(1, batch.targets[:, None])[:, 0]  # (N,)
            kl = kl_loss(new, reference)
            loss = loss + self.kl_coef * kl
            watched["kl"] = kl.detach().sum()
        total = (loss * batch.weights.to(loss.dtype)).sum()
        sums["tokens"] += len(batch.targets)
        sums["computed_tokens"] += batch.input_ids.numel()
        for name, value in {**watched, "loss": total.detach()}.items():
            sums[name] = max(sums[name], float(value)) if name == "ratio_max" else sums[name] + float(value)
        return total

    def _dealt(self, examples: Sequence[Example]) -> Iterator[tuple[list[Example], float]]:
        """Minibatches of whole rollouts, in an order that depends on the seed and the number of updates only.

        Each holds about one of `parts` parts of the step's weight; the factor that comes along makes its step as large as one over all.
        """
        names = list(dict.fromkeys(item.row.rollout_id for item in examples))
        parts = min(self.minibatches, len(names))
        for epoch in range(self.epochs if names else 0):
            order = torch.Generator().manual_seed(hash((self.seed, self.updates, epoch)) & 0x7FFFFFFF)
            shuffled = [names[i] for i in torch.randperm(len(names), generator=order).tolist()] if parts > 1 else names
            for part in range(parts):
                chosen = set(shuffled[part::parts])
                yield [item for item in examples if item.row.rollout_id in chosen], float(parts)

    def _step(self, minibatch: Sequence[Example], scale: float, sums: defaultdict[str, float]) -> None:
        first = sums["steps"] == 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.schedule.factor(self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.gradient(minibatch, sums, scale)
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), self.max_grad_norm))
        if first:
            sums["first_mismatch_kl"] = sums["mismatch_kl"] / max(1.0, sums["tokens"])
        sums["steps"] += 1
        if not math.isfinite(norm):
            sums["skipped_steps"] += 1
            return
        sums["grad_norm"] += norm
        self.optimizer.step()
        self.steps += 1

    def _metrics(self, sums: defaultdict[str, float], rows: Sequence[Row], seconds: float) -> dict[str, float]:
        tokens = max(1.0, sums["tokens"])
        per_token = ["ratio", "clip_fraction", "approx_kl", "entropy"] + (["kl"] if self.reference is not None else [])
        return {
            "loss": sums["loss"] / self.epochs,
            "grad_norm": sums["grad_norm"] / max(1.0, sums["steps"] - sums["skipped_steps"]),
            **{name: sums[name] / tokens for name in per_token},
            "ratio_max": sums["ratio_max"],
            "mismatch_kl": sums["first_mismatch_kl"],
            "lr": self.lr * self.schedule.factor(max(0, self.steps - 1)),
            "steps": sums["steps"] - sums["skipped_steps"],
            "skipped_steps": sums["skipped_steps"],
            "rows": float(len(rows)),
            "trained_tokens": float(sum(sum(row.mask) for row in rows)),
            "seconds": seconds,
            "computed_tokens": sums["computed_tokens"],
            "tokens_per_second": sum(len(row.token_ids) for row in rows) / seconds,
        }


def log_probs(model: nn.Module, batch: MicroBatch, masks: Masks) -> Tensor:
    """(N, V) float32 (float64 for a float64 model) log-probabilities at the places and temperatures of a batch's trained tokens."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.layout is not None:
        positions = batch.layout[0]
        inputs |= {"position_ids": positions, "attention_mask": masks.make(batch.visible(), positions, positions)}
    with logits_at(plain(model), batch.rows, batch.positions):
        logits = plain(model)(**inputs).logits[0]  # (N, V)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(logits / batch.temperatures[:, None].to(logits.dtype), dim=-1)


class _reference(contextlib.AbstractContextManager[nn.Module]):
    """The model before training, entered for each use: a frozen copy, or the model with its adapters switched off."""

    def __init__(self, model: nn.Module) -> None:
        self._peft: Any = model if hasattr(model, "disable_adapter") else None
        self._model = model if self._peft is not None else copy.deepcopy(model).requires_grad_(False)
        self._off: Any = None

    def __enter__(self) -> nn.Module:
        if self._peft is not None:
            self._off = self._peft.disable_adapter()
            self._off.__enter__()
        return self._model

    def __exit__(self, *error: Any) -> None:
        if self._off is not None:
            self._off.__exit__(*error)
            self._off = None


def _adamw(parameters: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    values = list(parameters)
    matrices = [value for value in values if value.ndim >= 2]
    vectors = [value for value in values if value.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)
