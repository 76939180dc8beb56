"""Losses: the clipped policy loss of one sampled token, and the weights that add tokens up.

Weights are fixed once for a step, from the rows of the whole step. Summing weight · loss over any split into minibatches and
micro-batches then gives the same gradient, and a rollout counts the same however many rows it was cut into.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agl.errors import ConfigError
from agl.transitions import Row

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this before `exp`."""


@dataclass(frozen=True)
class PolicyLoss:
    """Per-token loss, and what to watch."""

    loss: Tensor
    """(N,) to be multiplied by the tokens' weights and summed."""
    ratio: Tensor
    """(N,) p_new / p_old, detached."""
    clipped: Tensor
    """(N,) bool: tokens whose gradient the clip set to 0."""

    def metrics(self) -> dict[str, Tensor]:
        """Sums over the N tokens, to be divided by the number of tokens of a step.

        `ratio`, `clip_fraction`; `approx_kl`, the estimator (log rho)² / 2; `mismatch_kl`, rho - log rho - 1, which is never negative
        and measures how far the trainer's probabilities are from those that sampled (k3 of Schulman, 2020).
        """
        log_ratio = self.ratio.log()
        return {
            "ratio": self.ratio.sum(),
            "clip_fraction": self.clipped.sum(),
            "approx_kl": (0.5 * log_ratio.square()).sum(),
            "mismatch_kl": (self.ratio - log_ratio - 1.0).sum(),
        }


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip_low: float = 0.2, clip_high: float = 0.28) -> PolicyLoss:
    """max(-A·rho, -A·clip(rho, 1 - clip_low, 1 + clip_high)) for each token.

    PPO, arXiv 1707.06347, equation 7; two limits: DAPO, arXiv 2503.14476, equation 10.

    Args:
        new: (N,) log-probabilities under the weights being trained, with gradient.
        old: (N,) log-probabilities as sampled.
        advantages: (N,)
        clip_low: how far the ratio may fall before a negative advantage stops pushing.
        clip_high: how far it may rise before a positive one does.
    """
    log_ratio = (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    free = -advantages * ratio
    bound = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return PolicyLoss(torch.maximum(free, bound), ratio.detach(), (bound > free).detach())


def kl_loss(new: Tensor, reference: Tensor) -> Tensor:
    """(N,) estimate of KL(new ‖ reference) for tokens sampled from `new`, with the right value and the right gradient.

    The value is k3 = q/p - log(q/p) - 1 (Schulman, 2020): unbiased, never negative, of low variance. Its own gradient is that
    of the reverse divergence KL(reference ‖ new), because the sampled tokens are not differentiated through. So the gradient is that of
    k2 = (log p/q)² / 2, whose expectation over p is the gradient of KL(p ‖ q) (a straight-through estimator).

    Args:
        new: (N,) log p, with gradient.
        reference: (N,) log q.
    """
    difference = (reference - new).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    value = difference.exp() - difference - 1.0
    right = 0.5 * difference.square()
    return right + (value - right).detach()


def entropy(log_probs: Tensor) -> Tensor:
    """(N,) entropies in nats of (N, V) log-probabilities."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


# --- weights ----------------------------------------------------------------------------------------------------------


def rollout_mean(rows: Sequence[Row]) -> list[float]:
    """1 / (R · T_i) for every token of rollout i: T_i trained tokens over all its rows, R rollouts. Each rollout counts the same.

    Returns:
        (K,) one weight for all trained tokens of each row.
    """
    tokens = _tokens_of(rows)
    return [1.0 / (len(tokens) * tokens[row.rollout_id]) for row in rows]


def token_mean(rows: Sequence[Row]) -> list[float]:
    """1 / all trained tokens of the step: each token counts the same, long rollouts more. DAPO, arXiv 2503.14476, equation 8."""
    total = sum(_tokens_of(rows).values())
    return [1.0 / total for _ in rows]


def constant(rows: Sequence[Row], horizon: int = 1024) -> list[float]:
    """1 / (R · horizon): no division by length, hence no favour for long wrong answers. Dr.GRPO, arXiv 2503.20783, section 3.

    Args:
        rows: all rows of the step.
        horizon: longest possible rollout in tokens; only scales the gradient.
    """
    return [1.0 / (len(_tokens_of(rows)) * horizon) for _ in rows]


AGGREGATIONS: dict[str, Callable[[Sequence[Row]], list[float]]] = {
    "rollout_mean": rollout_mean,
    "token_mean": token_mean,
    "constant": constant,
}
"""Ways to weigh the tokens of a step, by name."""


def _tokens_of(rows: Sequence[Row]) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row.rollout_id] += sum(row.mask)
    empty = [name for name, count in tokens.items() if not count]
    if empty:
        raise ConfigError(f"rollouts {empty[:3]} have no trained token; leave their rows out of the step")
    return tokens
