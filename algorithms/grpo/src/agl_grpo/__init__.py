"""Native GRPO for AGL: an engine that serves the policy and a learner that improves the same weights in place."""

from __future__ import annotations

from typing import Any

__all__ = ["GRPO"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; naming the algorithm must not pay for them.
    if name == "GRPO":
        from agl_grpo.algorithm import GRPO

        return GRPO
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
