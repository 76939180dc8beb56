"""Options of the searches."""

from __future__ import annotations

import msgspec


class GuardOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new text must keep to."""

    required: dict[str, tuple[str, ...]] = {}
    """Literals that must stay in a prompt, by its name."""
    plain: tuple[str, ...] = ()
    """Names of prompts in which braces are text, since nothing fills them in."""
    max_growth: float = 4.0
    """Length allowed, as a multiple of the seed's; any text may have 2,000 characters."""
    copy_words: int = 12
    """Words in a row that may not come from a training record; 0 for no check."""
    repairs: int = 1
    """Tries at mending a refused text."""


class RacingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `Racing`. The defaults were tuned on the development worlds of `benchmarks/apo`."""

    max_rollouts: int = 240
    """Budget of the whole search, the probe and the final included. Never exceeded."""
    concurrency: int | None = None
    """Expansions (a parent, its new children and their screening) at the same time; None for one per 300 rollouts of budget. More take less
    time, and learn less from each rollout."""
    deterministic: bool = False
    """Whether an answer counts only when those to all earlier questions are there, so that the search depends on its seed and on what the
    answers are, and not on how long each took. One expansion at a time does that anyway; with four, a search took 1.25 to 1.6 times as long."""
    confidence: float = 0.9
    """The seed is returned unless P(winner > seed) is at least this; for the best of k finalists 1 - (1 - this) / k is asked."""
    perfect_reward: float = 1.0
    """A reward of this or more leaves nothing to criticise."""
    probe_tasks: int = 8
    """Tasks of the probe; as many again when all of them are perfect."""
    probe_repeats: int = 2
    """Rollouts of the seed on each of them."""
    screen_tasks: int = 5
    """Common tasks on which the children of one expansion are drawn."""
    siblings: int = 1
    """New children in one expansion."""
    redraw_parent: bool = False
    """Whether the parent is drawn anew beside its children, for agents that change while the search runs. Costs rollouts: a stored reward of
    the parent is as good, since no outcome decides which tasks are next and the posterior shrinks a lucky parent."""
    reserve: float = 0.2
    """Share of the budget kept for the final."""
    finalists: int = 2
    """Candidates in the final, the seed not counted."""
    failures_shown: int = 4
    """Bad rollouts for one proposal."""
    successes_shown: int = 1
    """Good rollouts beside them, for contrast."""
    rejected_shown: int = 8
    """Ideas that did not help, told to the proposer."""
    patience: int = 20
    """Proposals in a row without a usable text, or evaluations in a row without a reward, after which the search goes to its final."""
    exploration: float = 0.5
    """Width of the Thompson draws that choose a parent, in posterior standard deviations; 0 always takes the best."""
    step_mean: float = 0.1
    """Change from a parent to its child expected before there is evidence, in standard deviations of the rewards."""
    step_sd: float = 0.3
    """Standard deviation of that change, in the same unit."""
    guards: GuardOptions = GuardOptions()


class BeamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `Beam`, with the reference's names and defaults."""

    gradient_batch_size: int = 4
    """Training tasks that a parent is run on before it is criticised."""
    val_batch_size: int = 16
    """Validation tasks on which a round's candidates are compared."""
    beam_width: int = 4
    """Candidates that survive a round."""
    branch_factor: int = 4
    """Children of each parent in a round."""
    beam_rounds: int = 3
    """Rounds."""
    run_initial_validation: bool = True
    """Whether the seed is scored on all validation tasks first."""
    perfect_reward: float = 1.0
    """Only tells the proposer which rollouts failed; the reference does not use it."""
