"""Prompt optimisation for AGL: a search over prompts that pools all evidence and returns the seed unless another is better."""

from __future__ import annotations

from typing import Any

__all__ = ["APO"]


def __getattr__(name: str) -> Any:
    # `agl --help` names the algorithm; only its use pays for importing it.
    if name == "APO":
        from agl_apo.algorithm import APO

        return APO
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
