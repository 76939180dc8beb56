"""Schedules: the learning rate of each optimiser step, as a factor of the configured one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agl.errors import ConfigError

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """Rises linearly over `warmup` optimiser steps, then stays, or falls to `floor` at step `total`."""

    kind: str = "constant"
    warmup: int = 0
    total: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ConfigError(f"`schedule` must be one of {', '.join(SCHEDULES)}, given was `{self.kind}`")
        if self.kind != "constant" and (self.total is None or self.total <= self.warmup):
            raise ConfigError(
                f"schedule `{self.kind}` needs `total` optimiser steps, more than its {self.warmup} of warm-up; given was {self.total}"
            )

    def factor(self, step: int) -> float:
        """Factor of the learning rate at optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant" or self.total is None:
            return 1.0
        done = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        left = 1.0 - done if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.floor + (1.0 - self.floor) * left
