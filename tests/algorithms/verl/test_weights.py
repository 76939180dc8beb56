"""How the tokens of a step add up: VERL's names, over rollouts."""

from __future__ import annotations

import pytest

from agl_verl.weights import MODES, weigher

TOKENS = {"short": 2, "long": 6}


def totals(mode: str) -> dict[str, float]:
    """The weight of each rollout as a whole."""
    weights = weigher(mode, 4.0)(TOKENS)
    return {name: pytest.approx(weights[name] * count) for name, count in TOKENS.items()}


def test_each_mode_weighs_rollouts_as_its_name_says() -> None:
    assert totals("seq-mean-token-mean") == {"short": 0.5, "long": 0.5}
    assert totals("token-mean") == {"short": 0.25, "long": 0.75}
    assert totals("seq-mean-token-sum") == {"short": 1.0, "long": 3.0}
    assert totals("seq-mean-token-sum-norm") == {"short": 0.25, "long": 0.75}
    assert totals("token-sum") == {"short": 2.0, "long": 6.0}
    assert len(MODES) == 5
