"""Options of APO: its own, and the names of Agent Lightning's APO, which are turned into a budget or into its own search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import ConfigError
from agl_apo.model import ModelOptions
from agl_apo.records import is_plain
from agl_apo.search import Beam, BeamOptions, GuardOptions, Racing, RacingOptions, beam_rollouts
from agl_apo.search.racing import RecordsText

STRATEGIES = ("racing", "beam")
REFERENCE = ("gradient_batch_size", "val_batch_size", "beam_width", "branch_factor", "beam_rounds")
"""What sizes the reference's search. Under `racing` they say how many rollouts there are: as many as that search would take."""
OWN_RACING = tuple(name for name in RacingOptions.__struct_fields__ if name not in ("max_rollouts", "guards"))
OWN_GUARDS = tuple(name for name in GuardOptions.__struct_fields__ if name != "plain")
GONE = {
    "rollout_batch_timeout": "rollouts have a deadline each: `Trainer(timeout=…)`",
    "gradient_prompt_files": "give one file: `critique_prompt=`",
    "apply_edit_prompt_files": "give one file: `edit_prompt=`",
}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `agl.APO` takes beside the options of its models and of its search."""

    strategy: str = "racing"
    """The search: `racing`, or `beam`, the reference's own, for comparison."""
    prompts: tuple[str, ...] | None = None
    """Names of the prompts to optimise; None for those in `initial_resources`, else all that `agl.prompts(agent)` lists."""
    max_rollouts: int | None = None
    """Budget of the search in rollouts; 240 unless told. The test set is not in it."""
    max_cost: float | None = None
    """Budget of rollouts and proposals together, in the currency of `price` and `agent_price`."""
    max_seconds: float | None = None
    """Budget of time."""
    agent_price: tuple[float, float] = (0.0, 0.0)
    """Of a million input tokens and of a million output tokens of the agent's own model."""
    critique_prompt: str | None = None
    """File with the critic's prompt, in place of the package's own."""
    edit_prompt: str | None = None
    """File with the editor's prompt."""
    repair_prompt: str | None = None
    """File with the prompt for mending a text that a guard refused."""
    record_characters: int = 6000
    """Of one rollout, as the critic reads it."""


class Settings:
    """All options of an APO, checked and sorted by who reads them.

    Args:
        given: options by name.

    Raises:
        ConfigError: an unknown one, one of a wrong type, or one without effect.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        known = [
            *Options.__struct_fields__,
            *REFERENCE,
            "run_initial_validation",
            *OWN_RACING,
            *OWN_GUARDS,
            *ModelOptions.__struct_fields__,
        ]
        if gone := [f"`{name}`: {GONE[name]}" for name in given if name in GONE]:
            raise ConfigError(f"APO no longer has {'; '.join(gone)}")
        if unknown := sorted(given.keys() - set(known)):
            raise ConfigError(f"APO has no option {unknown}; it has {known}")
        self.given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        self.own: Options = self._of(Options)
        self.model: ModelOptions = self._of(ModelOptions)
        self.guards: GuardOptions = self._of(GuardOptions)
        self.beam: BeamOptions = self._of(BeamOptions)
        self._racing = self._only(OWN_RACING)
        self.racing(0, 0)
        self._check()

    def config(self) -> dict[str, Any]:
        """The options that were given, as JSON, without the key."""
        return msgspec.to_builtins({name: value for name, value in self.given.items() if name != "api_key"}, enc_hook=str)

    @property
    def files(self) -> dict[str, str | None]:
        """Files of the proposer's prompts."""
        return {"critique": self.own.critique_prompt, "edit": self.own.edit_prompt, "repair": self.own.repair_prompt}

    def racing(self, val_tasks: int, train_tasks: int, guards: GuardOptions | None = None) -> RacingOptions:
        """Options of the default search."""
        budget = {"max_rollouts": self.rollouts(val_tasks, train_tasks), "guards": guards or self.guards}
        return _converted({**self._racing, **budget}, RacingOptions)

    def rollouts(self, val_tasks: int, train_tasks: int) -> int:
        """Budget of the search.

        Args:
            val_tasks: number of tasks for validation.
            train_tasks: number of tasks for training.
        """
        if self.own.strategy == "beam" or any(name in self.given for name in REFERENCE):
            return beam_rollouts(self.beam, val_tasks, train_tasks)
        return RacingOptions().max_rollouts if self.own.max_rollouts is None else self.own.max_rollouts

    def search(self, texts: Mapping[str, str], train: Sequence[str], val: Sequence[str], *, seed: int, records: RecordsText) -> Any:
        """A fresh search.

        Raises:
            ConfigError: what it is given cannot work.
        """
        try:
            if self.own.strategy == "beam":
                return Beam(texts, train, val, self.beam, seed=seed)
            plain = tuple(name for name, text in texts.items() if is_plain(name, text))
            options = self.racing(len(val), len(train), msgspec.structs.replace(self.guards, plain=plain))
            return Racing(texts, train, val, options, seed=seed, records_text=records)
        except ValueError as error:
            raise ConfigError(f"APO cannot begin: {error}") from error

    def _of(self, kind: type[Any]) -> Any:
        return _converted(self._only(kind.__struct_fields__), kind)

    def _only(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self.given[name] for name in names if name in self.given}

    def _check(self) -> None:
        own = self.own
        if own.strategy not in STRATEGIES:
            raise ConfigError(f"`strategy` must be one of {list(STRATEGIES)}, given was {own.strategy!r}")
        for name in ("max_rollouts", "max_cost", "max_seconds", "record_characters"):
            value = getattr(own, name)
            if value is not None and not value > 0:
                raise ConfigError(f"`{name}` must be positive, given was {value!r}")
        for name in REFERENCE:
            if getattr(self.beam, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, given was {getattr(self.beam, name)!r}")
        if own.strategy == "beam":
            taken = [*OWN_RACING, *OWN_GUARDS, "max_rollouts", "max_cost", "max_seconds", "repair_prompt"]
            self._refuse([name for name in taken if name != "perfect_reward"], 'strategy="beam"', f"it is sized by {list(REFERENCE)}")
        elif own.max_rollouts is not None:
            self._refuse([*REFERENCE, "run_initial_validation"], "max_rollouts", "that is the budget already")
        if own.max_cost is not None and not (any(own.agent_price) or any(self.model.price)):
            raise ConfigError("`max_cost` has no effect without prices: say `price=` of critic and editor, or `agent_price=`, or both")

    def _refuse(self, names: Sequence[str], beside: str, why: str) -> None:
        if taken := [name for name in names if name in self.given]:
            raise ConfigError(f"{taken} have no effect beside `{beside}`: {why}")


def _converted(given: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"an option of APO is wrong: {error}") from None
