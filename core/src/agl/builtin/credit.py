"""Built-in credit, where neither a plugin nor the Trainer's `adapter` brings another: `lightning`."""

from __future__ import annotations

from collections.abc import Sequence

from agl.credit import lightning
from agl.hookspecs import hookimpl
from agl.results import RolloutResult
from agl.transitions import Transition


@hookimpl(trylast=True)
def agl_assign_credit(result: RolloutResult, transitions: Sequence[Transition]) -> Sequence[Transition]:
    """The rollout's reward to every call, plus what was given to the call itself."""
    return lightning(result, transitions)
