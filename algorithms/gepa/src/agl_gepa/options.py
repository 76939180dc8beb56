"""Options of GEPA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.errors import ConfigError
from agl_apo.options import SharedSettings
from agl_apo.search import GuardOptions
from agl_apo.search.racing import RecordsText

SELECTORS = ("pareto", "current_best", "epsilon_greedy", "top_k_pareto")


class GepaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is passed to `gepa.optimize`, with its names and defaults, and the gate after it."""

    reflection_minibatch_size: int = 3
    """Training tasks on which a child is compared with its parent."""
    candidate_selection_strategy: str = "pareto"
    """How a parent is chosen."""
    skip_perfect_score: bool = True
    """Whether a minibatch without a fault is passed over."""
    perfect_score: float = 1.0
    """A reward of this or more is perfect."""
    use_merge: bool = False
    """Whether candidates of different lines are merged."""
    max_merge_invocations: int = 5
    """Merges, at most."""
    confidence: float = 0.9
    """The seed is returned unless P(winner > seed) is at least this."""
    reserve: float = 0.3
    """Share of the budget kept for comparing the winner with the seed on fresh rollouts."""
    patience: int = 20
    """Rounds in a row that bring no rollout, after which the search ends."""

    def __post_init__(self) -> None:
        if self.candidate_selection_strategy not in SELECTORS:
            raise ConfigError(
                f"`candidate_selection_strategy` must be one of {list(SELECTORS)}, given was {self.candidate_selection_strategy!r}"
            )
        if self.reflection_minibatch_size < 1 or self.patience < 1:
            raise ConfigError("`reflection_minibatch_size` and `patience` must be at least 1")
        if not (0.5 <= self.confidence < 1 and 0 < self.reserve < 1):
            raise ConfigError("`confidence` must be at least 0.5 and below 1, `reserve` between 0 and 1")


class GepaSettings(SharedSettings):
    """Options of GEPA by who reads them."""

    algorithm = "GEPA"
    search_types = (GepaOptions,)

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.gepa: GepaOptions = self.read(GepaOptions)
        if not self.gepa.use_merge:
            self.refuse(["max_merge_invocations"], "use_merge=False", "nothing is merged")

    @property
    def strategy(self) -> str:
        return "gepa"

    @property
    def reserve(self) -> float:
        return self.gepa.reserve

    def make(
        self, texts: Mapping[str, str], train: Sequence[str], val: Sequence[str], guards: GuardOptions, *, seed: int, records: RecordsText
    ) -> Any:
        from agl_gepa.search import Gepa  # only here: whoever names the algorithm need not wait for the package

        budget = self.rollouts(len(val), len(train))
        return Gepa(texts, train, val, self.gepa, guards, max_rollouts=budget, seed=seed, records_text=records)
