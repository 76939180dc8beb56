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
GONE = {
    "rollout_batch_timeout": "rollouts have a deadline each: `Trainer(timeout=…)`",
    "gradient_prompt_files": "give one file: `critique_prompt=`",
    "apply_edit_prompt_files": "give one file: `edit_prompt=`",
}
DEFAULT_ROLLOUTS = 240


class SharedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every algorithm for prompts takes beside the options of its models and of its search."""

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


class Options(SharedOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `agl.APO` takes beside the options of its models and of its search."""

    strategy: str = "racing"
    """The search: `racing`, or `beam`, the reference's own, for comparison."""


class SharedSettings:
    """Options by who reads them, checked.

    Args:
        given: options by name.

    Raises:
        ConfigError: an unknown one, one of a wrong type, or one without effect.
    """

    algorithm = ""
    """For messages."""
    own_type: type[SharedOptions] = SharedOptions
    search_types: tuple[type[msgspec.Struct], ...] = ()
    """Options of its searches."""
    set_here = frozenset({"guards", "plain"})
    """Options of the searches that are made from others."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        kinds = (self.own_type, *self.search_types, GuardOptions, ModelOptions)
        known = dict.fromkeys(name for kind in kinds for name in kind.__struct_fields__ if name not in self.set_here)
        if gone := [f"`{name}`: {GONE[name]}" for name in given if name in GONE]:
            raise ConfigError(f"{self.algorithm} no longer has {'; '.join(gone)}")
        if unknown := sorted(given.keys() - known):
            raise ConfigError(f"{self.algorithm} has no option {unknown}; it has {list(known)}")
        self.given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        self.own: Any = self.read(self.own_type)
        self.model: ModelOptions = self.read(ModelOptions)
        self.guards: GuardOptions = self.read(GuardOptions)
        for name in ("max_rollouts", "max_cost", "max_seconds", "record_characters"):
            value = getattr(self.own, name)
            if value is not None and not value > 0:
                raise ConfigError(f"`{name}` must be positive, given was {value!r}")
        if not self.guards.repairs:
            self.refuse(["repair_prompt"], "repairs=0", "a text that a guard refused is not mended")
        if self.own.max_cost is not None and not (any(self.own.agent_price) or any(self.model.price)):
            raise ConfigError("`max_cost` has no effect without prices: say `price=` of critic and editor, or `agent_price=`, or both")

    @property
    def strategy(self) -> str:
        """Name of the search."""
        raise NotImplementedError

    @property
    def reserve(self) -> float:
        """Share of the budgets that is kept for the final."""
        raise NotImplementedError

    @property
    def files(self) -> dict[str, str | None]:
        """Files of the proposer's prompts."""
        return {"critique": self.own.critique_prompt, "edit": self.own.edit_prompt, "repair": self.own.repair_prompt}

    def config(self) -> dict[str, Any]:
        """The options that were given, as JSON, without the key."""
        return msgspec.to_builtins({name: value for name, value in self.given.items() if name != "api_key"}, enc_hook=str)

    def rollouts(self, val_tasks: int, train_tasks: int) -> int:
        """Budget of the search for so many tasks."""
        return DEFAULT_ROLLOUTS if self.own.max_rollouts is None else self.own.max_rollouts

    def search(self, texts: Mapping[str, str], train: Sequence[str], val: Sequence[str], *, seed: int, records: RecordsText) -> Any:
        """A fresh search.

        Raises:
            ConfigError: what it is given cannot work.
        """
        plain = tuple(name for name, text in texts.items() if is_plain(name, text))
        try:
            return self.make(texts, train, val, msgspec.structs.replace(self.guards, plain=plain), seed=seed, records=records)
        except ValueError as error:
            raise ConfigError(f"{self.algorithm} cannot begin: {error}") from error

    def make(
        self, texts: Mapping[str, str], train: Sequence[str], val: Sequence[str], guards: GuardOptions, *, seed: int, records: RecordsText
    ) -> Any:
        """The search itself; a ValueError says what it cannot begin with."""
        raise NotImplementedError

    def read(self, kind: type[Any], **more: Any) -> Any:
        """The given options of one kind."""
        found = {name: self.given[name] for name in kind.__struct_fields__ if name in self.given and name not in self.set_here}
        try:
            return msgspec.convert({**found, **more}, kind)
        except msgspec.ValidationError as error:
            raise ConfigError(f"an option of {self.algorithm} is wrong: {error}") from None

    def refuse(self, names: Sequence[str], beside: str, why: str) -> None:
        """Refuse options that have no effect beside another.

        Raises:
            ConfigError: one of them is given.
        """
        if taken := sorted({*names} & self.given.keys()):
            raise ConfigError(f"{taken} have no effect beside `{beside}`: {why}")


class Settings(SharedSettings):
    """Options of APO."""

    algorithm = "APO"
    own_type = Options
    search_types = (RacingOptions, BeamOptions)

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.beam: BeamOptions = self.read(BeamOptions)
        self.racing: RacingOptions = self.read(RacingOptions, max_rollouts=DEFAULT_ROLLOUTS)
        if self.own.strategy not in STRATEGIES:
            raise ConfigError(f"`strategy` must be one of {list(STRATEGIES)}, given was {self.own.strategy!r}")
        for name in REFERENCE:
            if getattr(self.beam, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, given was {getattr(self.beam, name)!r}")
        if self.own.strategy == "beam":
            others = {*RacingOptions.__struct_fields__, *GuardOptions.__struct_fields__, "max_cost", "max_seconds", "repair_prompt"}
            self.refuse(sorted(others - {"perfect_reward"}), 'strategy="beam"', f"it is sized by {list(REFERENCE)}")
        else:
            self.refuse(["run_initial_validation"], 'strategy="racing"', "it begins with a probe of the seed")
        if self.own.max_rollouts is not None:
            self.refuse(REFERENCE, "max_rollouts", "that is the budget already")

    @property
    def strategy(self) -> str:
        return self.own.strategy

    @property
    def reserve(self) -> float:
        return self.racing.reserve

    def rollouts(self, val_tasks: int, train_tasks: int) -> int:
        if self.own.strategy == "beam" or any(name in self.given for name in REFERENCE):
            return beam_rollouts(self.beam, val_tasks, train_tasks)
        return super().rollouts(val_tasks, train_tasks)

    def make(
        self, texts: Mapping[str, str], train: Sequence[str], val: Sequence[str], guards: GuardOptions, *, seed: int, records: RecordsText
    ) -> Any:
        if self.own.strategy == "beam":
            return Beam(texts, train, val, self.beam, seed=seed)
        options = msgspec.structs.replace(self.racing, max_rollouts=self.rollouts(len(val), len(train)), guards=guards)
        return Racing(texts, train, val, options, seed=seed, records_text=records)
