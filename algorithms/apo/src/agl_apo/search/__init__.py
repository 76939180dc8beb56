"""Searches over prompts: pure state machines that ask for moves and are told answers.

`Racing` is the default; `Beam` is the reference's own search, for comparison. Both are made with
`(seed_texts, train_tasks, val_tasks, options, *, seed)`, asked until None after every answer, and end with an `Outcome`.
"""

from __future__ import annotations

from agl_apo.search.beam import Beam, beam_rollouts
from agl_apo.search.options import BeamOptions, GuardOptions, RacingOptions
from agl_apo.search.outcome import Estimate, Outcome
from agl_apo.search.racing import Racing

__all__ = ["Beam", "BeamOptions", "Estimate", "GuardOptions", "Outcome", "Racing", "RacingOptions", "beam_rollouts"]
