"""GEPA for AGL: the search of the `gepa` package over an agent's prompts, with AGL's rollouts, ledger and seed gate."""

from __future__ import annotations

from typing import Any

__all__ = ["GEPA"]


def __getattr__(name: str) -> Any:
    # `agl --help` names the algorithm; only its use pays for importing it.
    if name == "GEPA":
        from agl_gepa.algorithm import GEPA

        return GEPA
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
