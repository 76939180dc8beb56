"""Weights: how the tokens of a step add up, over rollouts. VERL's names, with `seq` a rollout, however many rows it was cut into."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agl.errors import ConfigError

DEFAULT = "seq-mean-token-mean"
"""Each rollout counts the same: the average over its own tokens, averaged over rollouts. What `agl.GRPO` calls `rollout_mean`."""

Weigh = Callable[[Mapping[str, int]], dict[str, float]]
"""Trained tokens per rollout to the weight of each token of that rollout in the step's loss."""


def weigher(mode: str, scale: float | None = None) -> Weigh:
    """The weights that VERL's `loss_agg_mode` stands for, computed once for a step.

    Args:
        mode: `token-mean` (DAPO, arXiv 2503.14476), `seq-mean-token-mean` (GRPO), `seq-mean-token-sum`,
            `seq-mean-token-sum-norm` (Dr.GRPO, arXiv 2503.20783) or `token-sum`.
        scale: `loss_scale_factor`, the constant that `seq-mean-token-sum-norm` divides by.

    Raises:
        ConfigError: an unknown mode, or no constant where one is needed.
    """
    if mode not in MODES:
        raise ConfigError(f"`actor_rollout_ref.actor.loss_agg_mode` can be one of {sorted(MODES)}, given was {mode!r}")
    if mode == "seq-mean-token-sum-norm" and not scale:
        raise ConfigError("`loss_agg_mode: seq-mean-token-sum-norm` needs `actor_rollout_ref.actor.loss_scale_factor`, a number of tokens")

    def weigh(tokens: Mapping[str, int]) -> dict[str, float]:
        return MODES[mode](tokens, float(scale or 1.0))

    return weigh


def _token_mean(tokens: Mapping[str, int], _: float) -> dict[str, float]:
    total = sum(tokens.values())
    return dict.fromkeys(tokens, 1.0 / total)


def _rollout_mean(tokens: Mapping[str, int], _: float) -> dict[str, float]:
    return {name: 1.0 / (len(tokens) * count) for name, count in tokens.items()}


def _rollout_sum(tokens: Mapping[str, int], scale: float) -> dict[str, float]:
    return {name: 1.0 / (len(tokens) * scale) for name in tokens}


def _token_sum(tokens: Mapping[str, int], _: float) -> dict[str, float]:
    return dict.fromkeys(tokens, 1.0)


MODES: dict[str, Callable[[Mapping[str, int], float], dict[str, float]]] = {
    "token-mean": _token_mean,
    "seq-mean-token-mean": _rollout_mean,
    "seq-mean-token-sum": lambda tokens, _: _rollout_sum(tokens, 1.0),
    "seq-mean-token-sum-norm": _rollout_sum,
    "token-sum": _token_sum,
}
"""Ways to weigh the tokens of a step, by VERL's names."""
