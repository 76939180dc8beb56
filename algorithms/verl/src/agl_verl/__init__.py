"""VERL for AGL: the agent you already have, trained on GPUs and Ray clusters."""

from __future__ import annotations

from agl_verl.algorithm import VERL

__all__ = ["VERL"]
